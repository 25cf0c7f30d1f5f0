package supervise

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// reconnectWait is how long a lost call waits for the end of its process to be noticed before it is sent again all the same.
const reconnectWait = 50 * time.Millisecond

// call is one call, with what is known of its way.
type call struct {
	plugin, method, id, epoch string
	generation                uint64
	wentOut, cameBack         atomic.Bool
}

type callKey struct{}

// send sends the call on a session and notes what became of it.
func (c *call) send(ctx context.Context, s *session, args, reply any, opts []grpc.CallOption) error {
	c.generation = s.generation
	c.wentOut.Store(false)
	c.cameBack.Store(false)
	return s.conn.Invoke(c.outgoing(ctx), c.method, args, reply, opts...)
}

// sent reports whether anything of the request may have left the core.
func (c *call) sent() bool { return c.wentOut.Load() }

// answered reports whether the plugin itself gave the answer, good or bad.
func (c *call) answered() bool { return c.cameBack.Load() }

// failed makes the error of a call that got no answer: libvirt's code and a sentence, and what is known of its effect.
func (c *call) failed(ctx context.Context, err error, sent bool) error {
	code, outcome := verr.OperationFailed, basev1.Outcome_OUTCOME_NOT_SENT
	text := fmt.Sprintf("driver %q could not be reached", c.plugin)
	if sent {
		outcome = basev1.Outcome_OUTCOME_UNKNOWN
		text = fmt.Sprintf("driver %q ended before it answered", c.plugin)
	}
	grpcCode := codes.Unavailable
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded:
		code, grpcCode = verr.OperationTimeout, codes.DeadlineExceeded
		text = fmt.Sprintf("driver %q did not answer in time", c.plugin)
	case ctx.Err() != nil:
		code, grpcCode = verr.OperationAborted, codes.Canceled
		text = "the call was cancelled"
	case status.Code(err) == codes.ResourceExhausted:
		code, grpcCode = verr.OperationFailed, codes.ResourceExhausted
		text = fmt.Sprintf("the message is too large for driver %q", c.plugin)
	}
	text = fmt.Sprintf("%s: %s", text, plain(err))
	st, derr := status.New(grpcCode, text).WithDetails(protoadapt.MessageV1Of(&basev1.VirError{
		Code: int32(code), Message: text,
	}), protoadapt.MessageV1Of(&basev1.CallInfo{
		RequestId: c.id, Plugin: c.plugin, Generation: c.generation, Outcome: outcome,
	}))
	if derr != nil {
		return status.Error(grpcCode, text)
	}
	return st.Err()
}

// lost reports whether a call's connection broke under it, or was closed because its process is gone. Of a call whose own context
// still lives, that is all that Canceled can mean.
func lost(err error) bool {
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.Canceled
}

// plain is the message of an error without gRPC's frame.
func plain(err error) string {
	if st, ok := status.FromError(err); ok {
		return st.Message()
	}
	return err.Error()
}

// Info returns what is known of a call that failed without an answer of the plugin's own; nil means that the plugin has answered.
func Info(err error) *basev1.CallInfo {
	st, ok := status.FromError(err)
	if !ok {
		return nil
	}
	for _, d := range st.Details() {
		if info, ok := d.(*basev1.CallInfo); ok {
			return info
		}
	}
	return nil
}

// tracer notes on a call's context when its request goes out and its answer comes in.
type tracer struct{}

// TagRPC leaves the context as it is.
func (tracer) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC notes.
func (tracer) HandleRPC(ctx context.Context, s stats.RPCStats) {
	c, ok := ctx.Value(callKey{}).(*call)
	if !ok {
		return
	}
	switch s.(type) {
	case *stats.OutPayload: // a server does not begin on the header alone
		c.wentOut.Store(true)
	case *stats.InTrailer:
		c.cameBack.Store(true)
	}
}

// TagConn leaves the context as it is.
func (tracer) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn does nothing.
func (tracer) HandleConn(context.Context, stats.ConnStats) {}
