package adapter

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"

	"github.com/lodgevirt/lodge/sdk/contract"
	"github.com/lodgevirt/lodge/sdk/failpoint"
	"github.com/lodgevirt/lodge/sdk/plugin/handshake"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// ServerOptions are those of every plugin's server: sizes, deadlines, errors, panics, failpoints. A call "Start" of DriverService
// has the failpoints Driver.Start.received, .applied (done, not answered) and .replied (answered).
func ServerOptions(log hclog.Logger, points *failpoint.Set) []grpc.ServerOption {
	i := &interceptor{log: log, points: points}
	opts := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(handshake.MaxMessage),
		grpc.MaxSendMsgSize(handshake.MaxMessage),
		grpc.UnaryInterceptor(i.unary),
		grpc.StreamInterceptor(i.stream),
	}
	if !points.Empty() {
		opts = append(opts, grpc.StatsHandler(replied{points: points}))
	}
	return opts
}

type interceptor struct {
	log    hclog.Logger
	points *failpoint.Set
	fence  fence
}

func (i *interceptor) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	defer i.recover(ctx, info.FullMethod, &err)
	if _, ok := ctx.Deadline(); !ok {
		if call, ok := contract.Lookup(info.FullMethod); ok && call.Deadline > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, call.Deadline)
			defer cancel()
		}
	}
	ctx, leave, err := i.fence.enter(ctx, info.FullMethod)
	if err != nil {
		return nil, verr.Status(err)
	}
	defer leave()
	point := pointName(info.FullMethod)
	if err := i.points.Hit(ctx, point+".received"); err != nil {
		return nil, verr.Status(err)
	}
	resp, err = next(ctx, req)
	if err != nil {
		return nil, verr.Status(err)
	}
	if err := i.points.Hit(ctx, point+".applied"); err != nil {
		return nil, verr.Status(err)
	}
	return resp, nil
}

func (i *interceptor) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer i.recover(ss.Context(), info.FullMethod, &err)
	point := pointName(info.FullMethod)
	if err := i.points.Hit(ss.Context(), point+".received"); err != nil {
		return verr.Status(err)
	}
	if err := next(srv, ss); err != nil {
		return verr.Status(err)
	}
	return verr.Status(i.points.Hit(ss.Context(), point+".applied"))
}

// recover turns a panic into an internal error and writes its stack to the log and to the standard error.
func (i *interceptor) recover(ctx context.Context, method string, err *error) {
	r := recover()
	if r == nil {
		return
	}
	i.log.Error("panic in a call", "method", method, "req", requestID(ctx), "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
	reportPanic(method, fmt.Sprint(r))
	*err = verr.Status(verr.New(verr.Internal, "the driver failed in %s: %v", method, r))
}

// reportPanic writes to the standard error, which is a file that outlives the core.
func reportPanic(where, what string) {
	fmt.Fprintf(os.Stderr, "panic in %s: %s\n%s\n", where, what, debug.Stack())
}

func requestID(ctx context.Context) string {
	if v := metadata.ValueFromIncomingContext(ctx, handshake.RequestIDKey); len(v) > 0 {
		return v[0]
	}
	return ""
}

// pointName shortens "/lodge.hypervisor.v1.DriverService/Start" to "Driver.Start".
func pointName(fullMethod string) string {
	service, method, _ := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	service = service[strings.LastIndexByte(service, '.')+1:]
	return strings.TrimSuffix(service, "Service") + "." + method
}

// flushTime is how long an answer may take from the handler's end through the connection's buffer.
const flushTime = 20 * time.Millisecond

// replied hits the failpoint that follows the answer.
type replied struct{ points *failpoint.Set }

type methodKey struct{}

// TagRPC remembers the method.
func (replied) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, methodKey{}, info.FullMethodName)
}

// HandleRPC hits the point at the end of a call. What the point returns reaches nobody: the answer is gone.
func (r replied) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.End); !ok {
		return
	}
	if method, ok := ctx.Value(methodKey{}).(string); ok {
		time.Sleep(flushTime)
		_ = r.points.Hit(context.WithoutCancel(ctx), pointName(method)+".replied")
	}
}

// TagConn leaves the context as it is.
func (replied) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn does nothing.
func (replied) HandleConn(context.Context, stats.ConnStats) {}
