package lockserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync"

	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/host/internal/xdr"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// errPeer says that a client broke the framing and loses its connection.
var errPeer = errors.New("protocol violation")

// session is one connection.
type session struct {
	server *Server
	reader *rpc.Reader
	writer *rpc.Writer
	slots  chan struct{}
	calls  sync.WaitGroup
	// classic is used by the reading goroutine only.
	classic classic
}

// answer is what a call returns: a value to encode, and descriptors that are closed when they are sent.
type answer struct {
	value any
	files []*os.File
	// fds makes the reply carry descriptors even if there are none.
	fds bool
}

// serve reads calls until the connection or the context ends.
func (s *Server) serve(ctx context.Context, conn *net.UnixConn) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	c := &session{
		server: s,
		reader: rpc.NewReader(conn, rpc.ReaderConfig{FrameTimeout: frameTimeout, FDs: rpc.MaxFDs}),
		writer: rpc.NewWriter(conn, frameTimeout),
		slots:  make(chan struct{}, callsPerClient),
	}
	cred, err := peer(conn)
	if err == nil {
		c.classic = classic{server: s, pid: cred.Pid}
		err = c.loop(ctx)
	}
	stopping := ctx.Err() != nil
	c.calls.Wait()
	c.reader.Close()
	cancel()
	stop()
	conn.Close()
	switch {
	case stopping:
	case errors.Is(err, io.EOF):
		c.classic.left()
	default:
		s.log.Debug("connection ended", "error", err)
	}
}

// loop returns the error that ends the connection, io.EOF in good order.
func (c *session) loop(ctx context.Context) error {
	for {
		f, err := c.reader.Next()
		if err != nil {
			return err
		}
		if err := c.dispatch(ctx, f); err != nil {
			closeAll(f.Files)
			return err
		}
	}
}

// dispatch answers one frame, or starts to. An error ends the connection; then the frame's files are the caller's.
func (c *session) dispatch(ctx context.Context, f rpc.Frame) error {
	call := f.Type == rpc.Call || f.Type == rpc.CallWithFDs
	switch {
	case f.Program == rpc.KeepaliveProgram:
		return c.pong(f)
	case !call:
		return fmt.Errorf("frame of type %d: %w", f.Type, errPeer)
	case f.Status != rpc.OK:
		closeAll(f.Files)
		return c.reply(f.Header, answer{}, verr.New(verr.RPC, "call with status %d", f.Status).In(verr.FromRPC))
	case f.Program == lockproto.ClassicProgram && f.Version == lockproto.ClassicVersion:
		closeAll(f.Files)
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		return c.reply(f.Header, answer{}, c.guard(f.Header, func() error { return c.classic.call(ctx, f) }))
	case f.Program == lockproto.Program && f.Version == lockproto.Version:
		return c.start(ctx, f)
	}
	closeAll(f.Files)
	return c.reply(f.Header, answer{},
		verr.New(verr.RPC, "unknown program 0x%x version %d", f.Program, f.Version).In(verr.FromRPC))
}

func (c *session) pong(f rpc.Frame) error {
	closeAll(f.Files)
	if f.Procedure != rpc.KeepalivePing {
		return nil
	}
	h := f.Header
	h.Procedure, h.Type, h.Status = rpc.KeepalivePong, rpc.Message, rpc.OK
	return c.writer.Send(h, nil)
}

// start runs a call of our program on a goroutine of its own once there is room. The frame's files are its.
func (c *session) start(ctx context.Context, f rpc.Frame) error {
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	f.Payload = append([]byte(nil), f.Payload...)
	c.calls.Go(func() {
		defer func() { <-c.slots }()
		defer closeAll(f.Files)
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		var a answer
		err := c.guard(f.Header, func() (err error) {
			a, err = c.server.call(ctx, f)
			return err
		})
		if err := c.reply(f.Header, a, err); err != nil {
			c.server.log.Debug("cannot answer", "error", err)
		}
	})
	return nil
}

// guard turns a panic into an error: one bad call must not end the daemon that holds everybody's locks.
func (c *session) guard(h rpc.Header, call func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.server.log.Error("call panicked", "program", h.Program, "procedure", h.Procedure, "panic", p, "stack", string(debug.Stack()))
			err = verr.New(verr.Internal, "procedure %d panicked", h.Procedure)
		}
	}()
	return call()
}

// reply sends what a call came to, and closes its files.
func (c *session) reply(h rpc.Header, a answer, err error) error {
	defer closeAll(a.files)
	domain := verr.FromLockspace
	if h.Program == lockproto.Program {
		domain = verr.FromLocking
	}
	var payload []byte
	if err == nil && a.value != nil {
		payload, err = xdr.Append(nil, a.value)
	}
	if err != nil {
		payload, err = rpc.NewError(err, domain).Append(nil)
		if err != nil {
			return err
		}
		return c.writer.Send(h.Answer(rpc.Failed), payload)
	}
	h = h.Answer(rpc.OK)
	if a.fds {
		h.Type = rpc.ReplyWithFDs
		return c.writer.SendFiles(h, payload, a.files)
	}
	return c.writer.Send(h, payload)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// decode reads a call's arguments.
func decode(f rpc.Frame, args any) error {
	if _, err := xdr.Unmarshal(f.Payload, args); err != nil {
		return verr.New(verr.RPC, "decode arguments of procedure %d: %w", f.Procedure, err).In(verr.FromRPC)
	}
	return nil
}

// unknown is the error for a procedure that a program does not have; clients know it by its first words.
func unknown(f rpc.Frame) error {
	return verr.New(verr.RPC, "unknown procedure: %d", f.Procedure).In(verr.FromRPC)
}
