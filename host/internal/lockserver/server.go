// Package lockserver serves the table of leases on unix sockets: virtlockd's program and our own (package lockproto).
//
// The connections are package hub's, and the locks the table's; the server owns neither. A connection is accepted from root and from the
// daemon's own user only (SO_PEERCRED). A client of virtlockd's program has one request at a time; one of ours has a bounded number in
// parallel. A client that is slow, stuck or hostile costs its own connection and nothing else.
//
// All methods are safe concurrently. The end of the hub drops no lock and touches no guest.
package lockserver

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lodgevirt/lodge/host/internal/lockserver/hub"
	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
)

const (
	// Name is what virtlockd calls this service, in its saved state and to its administrator.
	Name = "virtlockd"
	// DefaultClients is how many connections there may be at once, as virtlockd has it.
	DefaultClients = 1024
	// callTimeout bounds how long a call waits for its owner's turn.
	callTimeout = 20 * time.Second
	// fenceLook is how often Fenced looks.
	fenceLook = 10 * time.Millisecond
	// callsPerClient bounds the parallel calls of one connection of our own program.
	callsPerClient = 64
)

// Config is what a server needs.
type Config struct {
	// Hub has the connections.
	Hub *hub.Hub
	// Table has the leases.
	Table *leases.Table
	// Log is where to log.
	Log hclog.Logger
	// Version is told to clients.
	Version string
	// MaxClients bounds the connections; 0 is DefaultClients.
	MaxClients int
}

// Server answers calls about the table.
type Server struct {
	table   *leases.Table
	log     hclog.Logger
	version string
	started time.Time
	service *hub.Service

	// calls ends with the server.
	calls  context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
	// fences counts owners that are being ended.
	fences atomic.Int32
}

// New adds the service to the hub, without listeners yet.
func New(cfg Config) *Server {
	s := &Server{table: cfg.Table, log: cfg.Log, version: cfg.Version, started: time.Now()}
	s.calls, s.cancel = context.WithCancel(context.Background())
	limit := cfg.MaxClients
	if limit <= 0 {
		limit = DefaultClients
	}
	s.service = cfg.Hub.Add(hub.ServiceConfig{Name: Name, MaxClients: limit, Open: s.open})
	return s
}

// Listen serves the connections of a listener.
func (s *Server) Listen(l hub.Listener) error { return s.service.Listen(l) }

// Close ends the calls that wait for their owner's turn, and waits for what the server does about owners that have let go of their
// connections. It is called once the hub has ended, or will serve nobody any more.
func (s *Server) Close() {
	s.cancel()
	s.work.Wait()
}

// Fenced waits until no owner that has let go of its connection is being ended, or the context ends. Nobody would go on with that after
// the program was replaced.
func (s *Server) Fenced(ctx context.Context) error {
	tick := time.NewTicker(fenceLook)
	defer tick.Stop()
	for s.fences.Load() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for lock owners that are being ended: %w", ctx.Err())
		}
	}
	return nil
}

// open makes the session of a new connection, or refuses its peer.
func (s *Server) open(c *hub.Client) (hub.Session, error) {
	cred := c.Peer()
	if cred.Uid != 0 && cred.Uid != uint32(os.Geteuid()) {
		return nil, fmt.Errorf("check peer: user %d of process %d may not use locks", cred.Uid, cred.Pid)
	}
	return &session{server: s, client: c, classic: classic{server: s, pid: cred.Pid}}, nil
}

// Client is a connection as administrators see it.
type Client struct {
	// ID tells connections apart; it is never used again.
	ID uint64
	// Connected is when it was accepted.
	Connected time.Time
	// UID, GID and PID are those of the process that connected.
	UID, GID uint32
	PID      int32
	// ReadOnly is always false: the lock daemon has no read-only socket.
	ReadOnly bool
}

// Clients returns the connections there are, in no order.
func (s *Server) Clients() []Client {
	all := s.service.Clients()
	out := make([]Client, len(all))
	for i, c := range all {
		peer := c.Peer()
		out[i] = Client{ID: c.ID(), Connected: c.Connected(), UID: peer.Uid, GID: peer.Gid, PID: peer.Pid}
	}
	return out
}

// CloseClient ends a connection as if its client had closed it, with all that follows from that for a lock owner. It reports whether there
// was one.
func (s *Server) CloseClient(id uint64) bool { return s.service.Close(id) }

// Limits are what administrators may change.
type Limits struct {
	// MaxClients is how many connections there may be. Further ones wait to be accepted.
	MaxClients int
	// Clients is how many there are.
	Clients int
}

// Limits returns the limits now in force.
func (s *Server) Limits() Limits {
	return Limits{MaxClients: s.service.Limit(), Clients: s.service.Count()}
}

// SetMaxClients changes how many connections there may be. Those above the limit stay.
func (s *Server) SetMaxClients(n int) { s.service.SetLimit(n) }

// Accepted returns how many connections there have been.
func (s *Server) Accepted() uint64 { return s.service.Accepted() }

// deadline is a context that ends callTimeout after its Done was first asked for, and with the server. Nearly no call has to wait, and a timer
// for each would cost as much as the rest of the server's work.
type deadline struct {
	context.Context
	once   sync.Once
	cancel context.CancelFunc
}

func (d *deadline) begin() {
	d.once.Do(func() { d.Context, d.cancel = context.WithTimeout(d.Context, callTimeout) })
}

// Done begins the time.
func (d *deadline) Done() <-chan struct{} {
	d.begin()
	return d.Context.Done()
}

// end stops the timer, if there is one.
func (d *deadline) end() {
	if d.cancel != nil {
		d.cancel()
	}
}
