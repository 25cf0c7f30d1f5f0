package adminserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/adminproto"
	"github.com/lodgevirt/lodge/host/internal/rpc"
)

const (
	// frameTimeout bounds how long the rest of a frame may take, and how long an answer may stay unread.
	frameTimeout = 10 * time.Second
	// acceptPause is the wait after a failed accept, such as for want of descriptors.
	acceptPause = 50 * time.Millisecond
)

// Server serves a program on unix sockets. It is a Service.
type Server struct {
	name string
	log  hclog.Logger

	// mu guards what follows.
	mu      sync.Mutex
	limits  Limits // without the numbers of now
	clients map[uint64]*connection
	lastID  uint64
	// changed is closed when there may be room for a client.
	changed chan struct{}
}

var _ Service = (*Server)(nil)

// connection is one client. Its fields do not change.
type connection struct {
	conn *net.UnixConn
	Client
}

// NewServer returns a server with a name and a bound of its clients, which does nothing before Serve.
func NewServer(name string, maxClients uint32, log hclog.Logger) *Server {
	return &Server{
		name: name, log: log, limits: Limits{MaxClients: maxClients, MaxUnauthenticated: maxClients},
		clients: map[uint64]*connection{}, changed: make(chan struct{}),
	}
}

// Name implements Service.
func (s *Server) Name() string { return s.name }

// Clients implements Service.
func (s *Server) Clients() []Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Client, 0, len(s.clients))
	for _, c := range s.clients {
		out = append(out, c.Client)
	}
	return out
}

// Disconnect implements Service.
func (s *Server) Disconnect(id uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.clients[id]
	if ok {
		c.conn.Close()
	}
	return ok
}

// Limits implements Service. All clients are authenticated when they have connected.
func (s *Server) Limits() Limits {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.limits
	l.Clients = uint32(len(s.clients))
	return l
}

// SetLimits implements Service. At the limit further connections wait until another one ends.
func (s *Server) SetLimits(clients, unauthenticated uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits = Limits{MaxClients: clients, MaxUnauthenticated: unauthenticated}
	s.tell()
}

// tell wakes who waits for room. The mutex is held.
func (s *Server) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Serve answers clients of the listeners by the program until the context ends, and closes the listeners. It returns nil then, or the
// error that ended a listener early.
func (s *Server) Serve(ctx context.Context, program *Program, listeners ...*net.UnixListener) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		group.Go(func() error { return s.accept(ctx, program, l) })
	}
	return group.Wait()
}

// accept serves one listener and waits for its connections.
func (s *Server) accept(ctx context.Context, program *Program, l *net.UnixListener) error {
	var all sync.WaitGroup
	defer all.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		conn, err := l.AcceptUnix()
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept connection: %w", err)
		default:
			s.log.Warn("cannot accept a connection", "error", err)
			pause(ctx, acceptPause)
			continue
		}
		c, err := s.admit(ctx, conn)
		if err != nil {
			s.log.Debug("connection refused", "error", err)
			conn.Close()
			continue
		}
		all.Go(func() {
			err := s.serve(ctx, program, c)
			s.leave(c)
			s.log.Debug("connection ended", "client", c.ID, "error", err)
		})
	}
}

// admit waits for room and counts a connection in, or says why not.
func (s *Server) admit(ctx context.Context, conn *net.UnixConn) (*connection, error) {
	cred, err := peer(conn)
	if err != nil {
		return nil, err
	}
	if cred.Uid != 0 && cred.Uid != uint32(os.Geteuid()) {
		return nil, fmt.Errorf("check peer: user %d of process %d may not administer the daemon", cred.Uid, cred.Pid)
	}
	c := &connection{conn: conn, Client: Client{
		Since: time.Now(), Transport: adminproto.TransportUnix, Peer: &Peer{UID: cred.Uid, GID: cred.Gid, PID: cred.Pid},
	}}
	for {
		full := s.enter(c)
		if full == nil {
			return c, nil
		}
		select {
		case <-full:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// enter counts a connection in, or returns a channel that is closed when it is worth trying again.
func (s *Server) enter(c *connection) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if uint64(len(s.clients)) >= uint64(s.limits.MaxClients) {
		return s.changed
	}
	s.lastID++
	c.ID = s.lastID
	s.clients[c.ID] = c
	return nil
}

func (s *Server) leave(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.clients, c.ID)
	s.tell()
}

// serve answers calls until the connection or the context ends.
func (s *Server) serve(ctx context.Context, program *Program, c *connection) error {
	defer c.conn.Close()
	stop := context.AfterFunc(ctx, func() { c.conn.Close() })
	defer stop()
	r := rpc.NewReader(c.conn, rpc.ReaderConfig{FrameTimeout: frameTimeout})
	defer r.Close()
	w := rpc.NewWriter(c.conn, frameTimeout)
	for {
		f, err := r.Next()
		if err != nil {
			return err
		}
		var last bool
		switch {
		case f.Program == rpc.KeepaliveProgram:
			err = pong(w, f.Header)
		case f.Type == rpc.Call || f.Type == rpc.CallWithFDs:
			var h rpc.Header
			var payload []byte
			h, payload, last = program.Call(f)
			err = w.Send(h, payload)
		}
		// Anything else answers nothing that was asked: it is dropped, as virtlockd drops it.
		if err != nil || last {
			return err
		}
	}
}

func pong(w *rpc.Writer, h rpc.Header) error {
	if h.Procedure != rpc.KeepalivePing {
		return nil
	}
	h.Procedure, h.Type, h.Status = rpc.KeepalivePong, rpc.Message, rpc.OK
	return w.Send(h, nil)
}

// peer returns who connected.
func peer(conn *net.UnixConn) (*unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("check peer: %w", err)
	}
	var cred *unix.Ucred
	var inner error
	err = raw.Control(func(fd uintptr) { cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, inner); err != nil {
		return nil, fmt.Errorf("check peer: %w", err)
	}
	return cred, nil
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
