// Package lockserver serves the table of leases on a unix socket: virtlockd's program and our own (package lockproto).
//
// The server owns its connections and their goroutines, and none of the locks: those are the table's. A connection is accepted from
// root and from the daemon's own user only (SO_PEERCRED). A client of virtlockd's program has one request at a time; one of
// ours has a bounded number in parallel. A client that is slow, stuck or hostile costs its own connection and nothing else.
//
// All methods are safe concurrently. When Serve ends it has closed every connection and waited for every call; no lock is
// dropped by that, and no guest is touched.
package lockserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
)

const (
	// defaultClients is how many connections there may be at once, as virtlockd has it.
	defaultClients = 1024
	// frameTimeout bounds how long the rest of a frame may take, and how long an answer may stay unread.
	frameTimeout = 10 * time.Second
	// callTimeout bounds how long a call waits for its owner's turn.
	callTimeout = 20 * time.Second
	// callsPerClient bounds the parallel calls of one connection of our own program.
	callsPerClient = 64
	// acceptPause is the wait after a failed accept, such as for want of descriptors.
	acceptPause = 50 * time.Millisecond
)

// Config is what a server needs.
type Config struct {
	// Table has the leases.
	Table *leases.Table
	// Log is where to log.
	Log hclog.Logger
	// Version is told to clients.
	Version string
	// MaxClients bounds the connections; 0 is 1024.
	MaxClients int
}

// Server answers calls about the table.
type Server struct {
	table   *leases.Table
	log     hclog.Logger
	version string
	limit   int
	started time.Time
	clients atomic.Int32
}

// New returns a server, which does nothing before Serve.
func New(cfg Config) *Server {
	limit := cfg.MaxClients
	if limit <= 0 {
		limit = defaultClients
	}
	return &Server{table: cfg.Table, log: cfg.Log, version: cfg.Version, limit: limit, started: time.Now()}
}

// Serve accepts connections from the listeners until the context ends, and closes the listeners. It returns nil then, or the error
// that ended a listener early.
func (s *Server) Serve(ctx context.Context, listeners ...*net.UnixListener) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		group.Go(func() error { return s.accept(ctx, l) })
	}
	return group.Wait()
}

// accept serves one listener and waits for its connections.
func (s *Server) accept(ctx context.Context, l *net.UnixListener) error {
	var sessions sync.WaitGroup
	defer sessions.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		conn, err := l.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept connection: %w", err)
		case err != nil:
			s.log.Warn("cannot accept a connection", "error", err)
			pause(ctx, acceptPause)
			continue
		}
		if err := s.admit(conn); err != nil {
			s.log.Debug("connection refused", "error", err)
			conn.Close()
			continue
		}
		sessions.Go(func() {
			defer s.clients.Add(-1)
			s.serve(ctx, conn)
		})
	}
}

// admit counts a connection in, or says why not.
func (s *Server) admit(conn *net.UnixConn) error {
	cred, err := peer(conn)
	if err != nil {
		return err
	}
	if cred.Uid != 0 && cred.Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("check peer: user %d of process %d may not use locks", cred.Uid, cred.Pid)
	}
	if s.clients.Add(1) > int32(s.limit) {
		s.clients.Add(-1)
		return fmt.Errorf("check peer: there are %d clients already", s.limit)
	}
	return nil
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
