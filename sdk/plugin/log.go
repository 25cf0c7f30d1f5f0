package plugin

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	corev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/core/v1"
)

// Limits of the log while the core is away.
const (
	// logLines is how many lines are kept.
	logLines = 4096
	// logField is the longest text of a message, key or value, in bytes; longer ones are cut.
	logField = 8 << 10
	// logFields is how many keys a line may have.
	logFields = 64
	// logFlush is how long the lines that are left may take when the plugin ends.
	logFlush = 200 * time.Millisecond
	// logRetry is the pause after a stream to the core broke.
	logRetry = 50 * time.Millisecond
)

// logPump keeps lines in a bounded ring and streams them to the core. Writing to it never blocks: beyond logLines the oldest go, and
// the next line that reaches the core says how many.
type logPump struct {
	logger hclog.InterceptLogger
	client corev1.LogServiceClient
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex // guards all below
	ring    []*corev1.WriteRequest
	dropped uint64
	closing bool
	wake    chan struct{} // has room for one
}

func newLogPump(name string, client corev1.LogServiceClient) *logPump {
	ctx, cancel := context.WithCancel(context.Background())
	p := &logPump{
		logger: hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: name, Level: hclog.Info, Output: io.Discard}),
		client: client, cancel: cancel, done: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	p.logger.RegisterSink(p)
	go p.pump(ctx)
	return p
}

// Accept implements hclog.SinkAdapter.
func (p *logPump) Accept(name string, level hclog.Level, msg string, args ...any) {
	if level < p.logger.GetLevel() {
		return
	}
	line := &corev1.WriteRequest{
		Time: timestamppb.Now(), Level: level.String(), Logger: name, Message: clip(msg), Fields: fields(args),
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.ring) == logLines {
		p.ring[0] = nil
		p.ring = p.ring[1:]
		p.dropped++
	}
	p.ring = append(p.ring, line)
	p.signal()
}

// signal wakes the pump; called with the mutex held.
func (p *logPump) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// close gives the lines that are left a moment, and ends the pump.
func (p *logPump) close() {
	p.mu.Lock()
	p.closing = true
	p.signal()
	p.mu.Unlock()
	timer := time.NewTimer(logFlush)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
	}
	p.cancel()
	<-p.done
}

// pump streams lines until the log is closed and empty, or its context ends.
func (p *logPump) pump(ctx context.Context) {
	defer close(p.done)
	for {
		stream, err := p.client.Write(ctx, grpc.WaitForReady(true))
		if err == nil && p.drain(ctx, stream) {
			_, _ = stream.CloseAndRecv()
			return
		}
		select {
		case <-time.After(logRetry):
		case <-ctx.Done():
			return
		}
	}
}

// drain sends lines as they come; it returns true when the log is closed and empty, false when the stream broke.
func (p *logPump) drain(ctx context.Context, stream grpc.ClientStreamingClient[corev1.WriteRequest, corev1.WriteResponse]) bool {
	for {
		line, closing := p.take()
		switch {
		case line != nil:
			if stream.Send(line) != nil {
				p.putBack(line)
				return false
			}
			continue
		case closing:
			return true
		}
		select {
		case <-p.wake:
		case <-stream.Context().Done():
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// take removes the oldest line, or returns nil.
func (p *logPump) take() (line *corev1.WriteRequest, closing bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.ring) == 0 {
		return nil, p.closing
	}
	line, p.ring[0] = p.ring[0], nil
	p.ring = p.ring[1:]
	line.Dropped, p.dropped = p.dropped, 0
	return line, p.closing
}

// putBack keeps a line that could not be sent, if there is room.
func (p *logPump) putBack(line *corev1.WriteRequest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropped += line.Dropped
	line.Dropped = 0
	if len(p.ring) == logLines {
		p.dropped++
		return
	}
	p.ring = append([]*corev1.WriteRequest{line}, p.ring...)
}

// fields formats hclog's alternating keys and values.
func fields(args []any) map[string]string {
	if len(args) == 0 {
		return nil
	}
	m := make(map[string]string, len(args)/2)
	for i := 0; i+1 < len(args) && len(m) < logFields; i += 2 {
		m[clip(fmt.Sprint(args[i]))] = clip(fmt.Sprint(args[i+1]))
	}
	if len(args)%2 == 1 {
		m["extra"] = clip(fmt.Sprint(args[len(args)-1]))
	}
	return m
}

func clip(s string) string {
	if len(s) > logField {
		return s[:logField] + "..."
	}
	return s
}

func unavailable(err error) bool { return status.Code(err) == codes.Unavailable }
