package plugin

import (
	"context"
	"fmt"
	"io"
	"slices"
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
	// logLines is how many lines are kept, beside the batch that is under way.
	logLines = 4096
	// logBatch is how many of them one stream carries.
	logBatch = 512
	// logField is the longest text of a message, key or value, in bytes; longer ones are cut.
	logField = 8 << 10
	// logFields is how many keys a line may have.
	logFields = 64
	// logFlush is how long the lines that are left may take when the plugin ends.
	logFlush = 200 * time.Millisecond
	// logRetry is the pause after a stream to the core broke.
	logRetry = 50 * time.Millisecond
)

// logPump keeps lines in a bounded ring and streams them to the core, batch by batch, until the core has acknowledged each: a core
// that is killed loses none, and may get some of them twice. Writing to it never blocks: beyond logLines the oldest go, and the
// next line that reaches the core says how many.
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

// pump sends batches of lines until the log is closed and empty, or its context ends.
func (p *logPump) pump(ctx context.Context) {
	defer close(p.done)
	for {
		batch, closing := p.take()
		switch {
		case len(batch) > 0:
			if p.send(ctx, batch) == nil {
				continue
			}
			p.putBack(batch)
		case closing:
			return
		default:
			select {
			case <-p.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		select { // the core went away in the middle
		case <-time.After(logRetry):
		case <-ctx.Done():
			return
		}
	}
}

// send streams a batch and waits until the core says that it has it: a stream whose core is gone takes lines as readily as any other.
func (p *logPump) send(ctx context.Context, batch []*corev1.WriteRequest) error {
	stream, err := p.client.Write(ctx, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	for _, line := range batch {
		if stream.Send(line) != nil {
			break // CloseAndRecv tells why
		}
	}
	_, err = stream.CloseAndRecv()
	return err
}

// take removes the oldest lines.
func (p *logPump) take() (batch []*corev1.WriteRequest, closing bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(len(p.ring), logBatch)
	if n == 0 {
		return nil, p.closing
	}
	batch = slices.Clone(p.ring[:n])
	clear(p.ring[:n])
	p.ring = p.ring[n:]
	batch[0].Dropped, p.dropped = p.dropped, 0
	return batch, p.closing
}

// putBack keeps a batch that did not arrive, as far as there is room: the oldest lines go.
func (p *logPump) putBack(batch []*corev1.WriteRequest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropped += batch[0].Dropped
	batch[0].Dropped = 0
	if over := len(batch) + len(p.ring) - logLines; over > 0 {
		p.dropped += uint64(over)
		batch = batch[over:]
	}
	p.ring = slices.Concat(batch, p.ring)
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
