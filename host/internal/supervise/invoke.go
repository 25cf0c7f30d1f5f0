package supervise

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/lodgevirt/lodge/sdk/contract"
	"github.com/lodgevirt/lodge/sdk/fdpass"
	"github.com/lodgevirt/lodge/sdk/plugin/handshake"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// again says how often a call is sent once more after its answer was lost.
var again = map[basev1.CallClass]int{
	basev1.CallClass_CALL_CLASS_QUERY:      1,
	basev1.CallClass_CALL_CLASS_IDEMPOTENT: 3,
	basev1.CallClass_CALL_CLASS_ONCE:       0,
}

// maxUnsent is how often a call that never left the core is tried again, whatever its class.
const maxUnsent = 100

var (
	_ grpc.ClientConnInterface = (*Plugin)(nil)
	_ grpc.ClientConnInterface = direct{}
)

type requestIDKey struct{}

// WithRequestID gives the calls made with the context a request id, so that a caller can name a call before it is sent. Without
// it, each call gets one of its own.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// NewRequestID returns 32 random hexadecimal digits.
func NewRequestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// newEpoch is that of a plugin's supervision which begins now: nanoseconds since the host has booted.
func newEpoch() string {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return "" // a kernel without that clock, which none of ours is: calls of two cores are not told apart
	}
	return strconv.FormatInt(now.Nano(), 10)
}

func requestID(ctx context.Context) string {
	if id, ok := ctx.Value(requestIDKey{}).(string); ok {
		return id
	}
	return NewRequestID()
}

// Invoke implements grpc.ClientConnInterface. It waits for the plugin, sends the call, and sends it again as its class allows, all
// within the call's declared deadline or the context's, whichever comes first.
func (p *Plugin) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	declared, ok := contract.Lookup(method)
	if !ok || declared.Deadline <= 0 {
		return verr.Status(verr.New(verr.Internal, "call %s declares no class or no deadline", method))
	}
	ctx, cancel := context.WithTimeout(ctx, declared.Deadline)
	defer cancel()
	c := &call{plugin: p.Name(), epoch: p.epoch, method: method, id: requestID(ctx)}
	for repeated, unsent := 0, 0; ; {
		s, err := p.acquire(ctx)
		if err != nil {
			return c.failed(ctx, err, false)
		}
		err = c.send(ctx, s, args, reply, opts)
		p.release(s)
		switch {
		case err == nil:
			return nil
		case c.answered():
			return err
		case ctx.Err() != nil || !lost(err):
			return c.failed(ctx, err, c.sent())
		case !c.sent():
			if unsent++; unsent > maxUnsent || !p.awaitEnd(ctx, s) {
				return c.failed(ctx, err, false)
			}
		default:
			if repeated++; repeated > again[declared.Class] || !p.awaitEnd(ctx, s) {
				return c.failed(ctx, err, true)
			}
		}
	}
}

// awaitEnd waits until a session on which a call was lost takes no more calls, so that the repetition goes to another one. A
// connection that broke while the process lives on is mended by gRPC, so the wait ends after a moment in any case.
func (p *Plugin) awaitEnd(ctx context.Context, s *session) bool {
	for {
		p.mu.Lock()
		current, changed := p.session, p.changed
		p.mu.Unlock()
		if current != s {
			return true
		}
		timer, cancel := context.WithTimeout(ctx, reconnectWait)
		select {
		case <-changed:
			cancel()
		case <-timer.Done():
			cancel()
			return ctx.Err() == nil
		}
	}
}

// NewStream implements grpc.ClientConnInterface. It waits for the plugin as Invoke does; the stream itself lasts as long as the
// context and ends with the process. It is never opened again.
func (p *Plugin) NewStream(
	ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	if _, ok := contract.Lookup(method); !ok {
		return nil, verr.Status(verr.New(verr.Internal, "call %s declares no class", method))
	}
	c := &call{plugin: p.Name(), epoch: p.epoch, method: method, id: requestID(ctx)}
	wait, cancel := context.WithTimeout(ctx, p.cfg.StartTimeout)
	defer cancel()
	for {
		s, err := p.acquire(wait)
		if err != nil {
			return nil, c.failed(wait, err, false)
		}
		c.generation = s.generation
		stream, err := s.conn.NewStream(c.outgoing(ctx), desc, method, opts...)
		p.release(s)
		if err == nil {
			return stream, nil
		}
		if !lost(err) || !p.awaitEnd(wait, s) {
			return nil, c.failed(ctx, err, false)
		}
	}
}

// Send hands a duplicate of file to the plugin under a token, within the context's deadline.
func (p *Plugin) Send(ctx context.Context, token fdpass.Token, file *os.File) error {
	s, err := p.acquire(ctx)
	if err != nil {
		return err
	}
	defer p.release(s)
	if err := fdpass.Send(ctx, s.process.FilesSocket(), token, file); err != nil {
		return fmt.Errorf("driver %q: %w", p.Name(), err)
	}
	return nil
}

// direct is a session's connection for its bringing up and down: calls have their deadline and class declared too, but wait for
// nothing and are not sent again.
type direct struct {
	plugin  *Plugin
	session *session
}

// Invoke implements grpc.ClientConnInterface.
func (d direct) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	declared, ok := contract.Lookup(method)
	if !ok || declared.Deadline <= 0 {
		return verr.Status(verr.New(verr.Internal, "call %s declares no class or no deadline", method))
	}
	ctx, cancel := context.WithTimeout(ctx, declared.Deadline)
	defer cancel()
	c := &call{plugin: d.plugin.Name(), epoch: d.plugin.epoch, method: method, id: requestID(ctx)}
	// The process listens already, but the connection may not be up yet.
	err := c.send(ctx, d.session, args, reply, append(opts, grpc.WaitForReady(true)))
	if err != nil && !c.answered() {
		return c.failed(ctx, err, c.sent())
	}
	return err
}

// NewStream implements grpc.ClientConnInterface.
func (d direct) NewStream(
	ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	c := &call{plugin: d.plugin.Name(), epoch: d.plugin.epoch, method: method, id: requestID(ctx)}
	return d.session.conn.NewStream(c.outgoing(ctx), desc, method, append(opts, grpc.WaitForReady(true))...)
}

func (c *call) outgoing(ctx context.Context) context.Context {
	ctx = context.WithValue(ctx, callKey{}, c)
	return metadata.AppendToOutgoingContext(ctx, handshake.RequestIDKey, c.id, handshake.EpochKey, c.epoch)
}
