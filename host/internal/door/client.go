package door

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime/debug"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// keptBuffer is the largest buffer for replies that is kept for the next one, in bytes: the states of 16,384 domains fit.
const keptBuffer = 4 << 20

// client is one connection: its socket, and the goroutines that serve it.
type client struct {
	server  *Server
	conn    net.Conn
	r       *rpc.Reader
	w       *rpc.Writer
	log     hclog.Logger
	session *session
	calls   *throttle
	streams *streams
	alive   *keepalive
	// cancel ends the client's calls and streams.
	cancel context.CancelFunc
}

// newClient makes the client of a connection; cancel ends the context that serve will get.
func newClient(s *Server, conn net.Conn, peer Peer, readOnly bool, cancel context.CancelFunc) *client {
	lim := &s.cfg.Limits
	w := rpc.NewWriter(conn, lim.WriteTimeout)
	id := s.nextClient.Add(1)
	c := &client{
		server: s, conn: conn, w: w, cancel: cancel,
		r:     rpc.NewReader(conn, rpc.ReaderConfig{FrameTimeout: lim.FrameTimeout}),
		log:   s.cfg.Log.With("client", id, "pid", peer.PID),
		calls: newThrottle(lim.InFlight, lim.Queued, lim.QueuedBytes),
	}
	c.streams = newStreams(w, lim)
	c.alive = newKeepalive(c, lim)
	c.session = newSession(s, peer, readOnly)
	c.session.keepalive = c.alive.start
	c.session.events = newSubscriptions(s, w, c.disconnect)
	return c
}

// serve reads until the connection ends, then waits for all that the client has under way.
func (c *client) serve(ctx context.Context) {
	defer c.cancel()
	err := c.readAll(ctx)
	if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && err != nil {
		c.log.Debug("client cut off", "error", err)
	}
	c.alive.stop()
	c.streams.close()
	c.calls.wait()
	c.session.events.close()
	if conn := c.session.conn.Load(); conn != nil {
		conn.Leave()
	}
	_ = c.conn.Close()
	c.r.Close()
}

// readAll takes frames until the connection ends; nil says that the client has said goodbye.
func (c *client) readAll(ctx context.Context) error {
	for {
		f, err := c.r.Next()
		if err != nil {
			return err
		}
		c.alive.heard()
		more, err := c.take(ctx, f)
		if err != nil {
			return err
		}
		if !more {
			return c.w.Flush()
		}
		if !c.r.Buffered() {
			if err := c.w.Flush(); err != nil {
				return err
			}
		}
	}
}

// take deals with one frame. It returns false after the client's goodbye, and an error when the connection cannot go on.
func (c *client) take(ctx context.Context, f rpc.Frame) (more bool, err error) {
	switch f.Type {
	case rpc.Call, rpc.CallWithFDs:
		return c.call(ctx, f)
	case rpc.Stream:
		c.streams.take(f, c.r)
	case rpc.StreamHole:
		return true, c.streams.takeHole(f)
	case rpc.Message:
		return true, c.alive.message(f.Header)
	case rpc.Reply, rpc.ReplyWithFDs:
	}
	return true, nil
}

// call finds a procedure and runs it, here or on a goroutine of its own.
func (c *client) call(ctx context.Context, f rpc.Frame) (more bool, err error) {
	p, err := find(f.Header)
	if err != nil {
		return true, c.fail(f.Header, err, verr.FromRPC)
	}
	if err := c.session.admit(p); err != nil {
		return true, c.fail(f.Header, err, p.domain())
	}
	if p.handler.open != nil {
		return true, c.openStream(ctx, f, p)
	}
	act, err := p.handler.prepare(f.Payload)
	if err != nil {
		return true, c.fail(f.Header, err, p.domain())
	}
	if p.handler.waits {
		h := f.Header
		c.calls.submit(len(f.Payload), func() { c.runWaiting(ctx, h, p, act) })
		return true, nil
	}
	buf := c.server.buffers.Get().(*[]byte)
	defer c.server.buffers.Put(buf)
	b, err := c.guard(p, func() ([]byte, error) { return act(ctx, c.session, (*buf)[:0]) })
	if then, ok := errors.AsType[*waits](err); ok {
		h := f.Header
		c.calls.submit(len(f.Payload), func() { c.runWaiting(ctx, h, p, then.act) })
		return true, nil
	}
	if err != nil {
		return true, c.fail(f.Header, err, c.session.errorDomain(p))
	}
	err = c.answer(f.Header, b, false)
	*buf = kept(b, keptBuffer)
	return !p.last(), err
}

// runWaiting runs a call that may wait, within the time that any call but a long one may take, and answers it.
func (c *client) runWaiting(ctx context.Context, h rpc.Header, p *procedure, act action) {
	if p.flags&long == 0 {
		limited, cancel := context.WithTimeout(ctx, c.server.cfg.Limits.CallTimeout)
		defer cancel()
		ctx = limited
	}
	buf := c.server.buffers.Get().(*[]byte)
	defer c.server.buffers.Put(buf)
	b, err := c.guard(p, func() ([]byte, error) { return act(ctx, c.session, (*buf)[:0]) })
	if err != nil {
		err = c.fail(h, err, c.session.errorDomain(p))
	} else {
		err = c.answer(h, b, true)
		*buf = kept(b, keptBuffer)
	}
	if err != nil {
		c.log.Debug("answer was not taken", "procedure", p.name, "error", err)
	}
	if ferr := c.w.Flush(); ferr != nil {
		c.disconnect(ferr)
	}
}

// openStream runs a call that opens a device and begins its stream.
func (c *client) openStream(ctx context.Context, f rpc.Frame, p *procedure) error {
	open, err := p.handler.open(f.Payload)
	if err != nil {
		return c.fail(f.Header, err, p.domain())
	}
	h := f.Header
	c.calls.submit(len(f.Payload), func() {
		if err := c.runStream(ctx, h, p, open); err != nil {
			c.disconnect(err)
		}
	})
	return nil
}

// runStream opens the device, answers the call and begins the stream. The context that the device gets is the stream's and ends with
// it; the time for opening is limited by a timer.
func (c *client) runStream(ctx context.Context, h rpc.Header, p *procedure, open opening) error {
	ctx, cancel := context.WithCancel(ctx)
	timer := time.AfterFunc(c.server.cfg.Limits.CallTimeout, cancel)
	var device io.ReadWriteCloser
	payload, err := c.guard(p, func() (b []byte, err error) {
		device, b, err = open(ctx, c.session, nil)
		return b, err
	})
	timer.Stop()
	var st *stream
	if err == nil {
		st, err = c.streams.add(h, device, cancel)
	}
	if err != nil {
		cancel()
		if device != nil {
			_ = device.Close()
		}
		return errors.Join(c.fail(h, err, c.session.errorDomain(p)), c.w.Flush())
	}
	err = c.answer(h, payload, true)
	st.begin()
	return err
}

// guard calls f and turns a panic into an internal error, so that a mistake in one procedure is not everybody's.
func (c *client) guard(p *procedure, f func() ([]byte, error)) (b []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			c.log.Error("procedure panicked", "procedure", p.name, "panic", r, "stack", string(debug.Stack()))
			err = verr.New(verr.Internal, "procedure %s failed unexpectedly", p.name)
		}
	}()
	return f()
}

// answer sends a reply, or an error in its place if it is too large.
func (c *client) answer(h rpc.Header, payload []byte, now bool) error {
	send := c.w.Queue
	if now {
		send = c.w.Send
	}
	err := send(h.Answer(rpc.OK), payload)
	if errors.Is(err, rpc.ErrTooLarge) {
		return c.fail(h, verr.New(verr.RPC, "reply of %d bytes is too large", len(payload)), verr.FromRPC)
	}
	return err
}

// fail sends an error as the reply. Errors that name no domain get the driver's, or else the procedure's.
func (c *client) fail(h rpc.Header, err error, domain verr.Domain) error {
	payload, err := encodeError(err, domain)
	if err != nil {
		return err
	}
	return c.w.Queue(h.Answer(rpc.Failed), payload)
}

// encodeError encodes an error's payload.
func encodeError(err error, domain verr.Domain) ([]byte, error) {
	return rpc.NewError(err, domain).Append(nil)
}

// kept returns a buffer for its next use, or nil if it has grown too large to be kept.
func kept(b []byte, limit int) []byte {
	if cap(b) > limit {
		return nil
	}
	return b[:0]
}

// stopReading makes the reader end as if the client had closed its side.
func (c *client) stopReading() {
	if half, ok := c.conn.(interface{ CloseRead() error }); ok && half.CloseRead() == nil {
		return
	}
	_ = c.conn.SetReadDeadline(time.Unix(1, 0))
}

// disconnect closes the connection; the reader then ends.
func (c *client) disconnect(why error) {
	c.log.Warn("client disconnected", "error", why)
	_ = c.conn.Close()
}

// abort closes the connection and cancels the client's calls.
func (c *client) abort() {
	_ = c.conn.Close()
	c.cancel()
}
