// Package door is libvirt's RPC server: it lets libvirt's clients talk to the core.
//
// A door translates and decides nothing. A frame is found in the table of procedures (table.go), its arguments are decoded, the core's
// packages domain and connection are called, and what they return is encoded. What is refused here is refused because of the
// protocol: unknown programs and procedures, calls before OPEN, changes over a read-only connection, unknown flags.
//
// Each client has one goroutine that reads. Procedures that are answered from memory run on it, and their replies leave in one
// write when no further call is in memory. Procedures that may wait for a driver or a disk run on goroutines of their own, so
// many at a time (Limits.InFlight); more calls queue up, and meanwhile pings, streams and calls from memory are still served.
// Replies may so come in another order than the calls, which the protocol allows. Streams and events each have a goroutine too.
//
// Everything that a client can make the server hold is bounded by Limits. A client that does not read is cut off, as is one
// that sends what is no frame; nobody else notices. A call that is under way goes on when its client leaves, since a start or a
// definition is not undone by a lost connection.
//
// The wire protocol is described at https://libvirt.org/kbase/internals/rpc.html.
package door

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lodgevirt/lodge/host/internal/connection"
	"github.com/lodgevirt/lodge/host/internal/event"
	"github.com/lodgevirt/lodge/host/internal/images"
)

// Opener finds the connection for a URI as it arrives; it answers from memory.
type Opener interface {
	Open(ctx context.Context, uri string) (*connection.Connection, error)
}

// Config is what a Server works with.
type Config struct {
	// Router finds connections.
	Router Opener
	// Events is what clients are told of.
	Events *event.Bus
	// Node answers about this machine.
	Node Node
	// Log is where refused and misbehaving clients are written to.
	Log hclog.Logger
	// Limits are the bounds; zero fields get their defaults.
	Limits Limits
	// Policy says who may connect; nil is DefaultPolicy.
	Policy Policy
}

// Server serves libvirt's clients on any number of listeners.
type Server struct {
	images *images.Looker
	cfg    Config
	// nextClient and nextCallback number clients and event callbacks; callbacks are unique in the whole daemon.
	nextClient, nextCallback atomic.Int32
	// buffers are the payloads under construction: *[]byte.
	buffers sync.Pool

	mu        sync.Mutex // guards the fields below
	closed    bool
	listeners map[net.Listener]struct{}
	clients   map[*client]struct{}
	wg        sync.WaitGroup // the clients' goroutines; Add only with mu held and closed unset
}

// New returns a server.
func New(cfg Config) *Server {
	cfg.Limits = cfg.Limits.withDefaults()
	if cfg.Policy == nil {
		cfg.Policy = DefaultPolicy
	}
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	return &Server{
		cfg: cfg, listeners: map[net.Listener]struct{}{}, clients: map[*client]struct{}{},
		buffers: sync.Pool{New: func() any { return new([]byte) }}, images: images.New(),
	}
}

// Clients returns how many clients are connected.
func (s *Server) Clients() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.clients)
}

// Serve accepts clients until ctx ends or Shutdown is called, and closes the listener. The clients it accepted stay; Shutdown ends
// them. It returns nil, or why the listener failed.
func (s *Server) Serve(ctx context.Context, l net.Listener, readOnly bool) error {
	if !s.addListener(l) {
		_ = l.Close()
		return nil
	}
	defer s.removeListener(l)
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	clients := context.WithoutCancel(ctx)
	for pause := time.Duration(0); ; {
		conn, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			s.accept(clients, conn, readOnly)
		case errors.Is(err, net.ErrClosed):
			return nil
		case !isTemporary(err):
			return fmt.Errorf("accept on %s: %w", l.Addr(), err)
		default:
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.cfg.Log.Warn("cannot accept a client", "error", err, "pause", pause)
			wait(ctx, pause)
		}
	}
}

// isTemporary reports whether accepting may work again, as after running out of descriptors.
func isTemporary(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary()
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// accept serves a connection, or closes it if it is not let in.
func (s *Server) accept(ctx context.Context, conn net.Conn, readOnly bool) {
	peer, err := peerOf(conn)
	if err == nil {
		err = s.cfg.Policy(peer, readOnly)
	}
	if err != nil {
		s.cfg.Log.Warn("client refused", "uid", peer.UID, "pid", peer.PID, "error", err)
		_ = conn.Close()
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	c := newClient(s, conn, peer, readOnly, cancel)
	if !s.addClient(c) {
		cancel()
		s.cfg.Log.Warn("client refused", "uid", peer.UID, "pid", peer.PID, "error", "too many clients")
		_ = conn.Close()
		return
	}
	go func() {
		defer s.wg.Done()
		defer s.removeClient(c)
		c.serve(ctx)
	}()
}

func (s *Server) addListener(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.listeners[l] = struct{}{}
	return true
}

func (s *Server) removeListener(l net.Listener) {
	_ = l.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

func (s *Server) addClient(c *client) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.clients) >= s.cfg.Limits.Clients {
		return false
	}
	s.clients[c] = struct{}{}
	s.wg.Add(1)
	return true
}

func (s *Server) removeClient(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.clients, c)
}

// Shutdown stops listening and reading, lets calls that are under way be answered, and returns when all clients are gone. When ctx
// ends first, connections are closed, calls are cancelled as far as the core allows, and the context's error is returned.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		s.wg.Wait()
	}()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
	}
	for _, c := range s.snapshot() {
		c.abort()
	}
	return fmt.Errorf("shut the door: %w", ctx.Err())
}

// stop closes the listeners and makes every client's reader end.
func (s *Server) stop() {
	s.mu.Lock()
	s.closed = true
	for l := range s.listeners {
		_ = l.Close()
	}
	s.mu.Unlock()
	for _, c := range s.snapshot() {
		c.stopReading()
	}
}

func (s *Server) snapshot() []*client {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*client, 0, len(s.clients))
	for c := range s.clients {
		all = append(all, c)
	}
	return all
}
