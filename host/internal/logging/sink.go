package logging

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// queueLength is how many messages may wait for an output.
const queueLength = 1024

// sink is an output in use: a queue, and a goroutine that writes what is in it.
type sink struct {
	level Level
	queue chan record
	// stop is closed to end the goroutine, done when it has ended, with the error of closing the output in err.
	stop, done chan struct{}
	err        error
	// lost counts messages that found no room or could not be written, until that could be told.
	lost atomic.Int64
}

// newSink returns a sink that owns w.
func newSink(level Level, w writer) *sink {
	s := &sink{level: level, queue: make(chan record, queueLength), stop: make(chan struct{}), done: make(chan struct{})}
	go s.run(w)
	return s
}

// put leaves a message to be written, or counts it as lost. It never waits.
func (s *sink) put(r record) {
	select {
	case s.queue <- r:
	default:
		s.lost.Add(1)
	}
}

// flush waits until what was put before is written, or given up.
func (s *sink) flush(ctx context.Context) error {
	flushed := make(chan struct{})
	select {
	case s.queue <- record{flushed: flushed}:
	case <-s.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("flush log: %w", ctx.Err())
	}
	select {
	case <-flushed:
	case <-s.done:
	case <-ctx.Done():
		return fmt.Errorf("flush log: %w", ctx.Err())
	}
	return nil
}

// close writes what waits and ends the goroutine. One that is stuck for longer is left alone.
func (s *sink) close(timeout time.Duration) error {
	close(s.stop)
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-s.done:
		return s.err
	case <-timer.C:
		return fmt.Errorf("close log: an output is stuck for %v", timeout)
	}
}

func (s *sink) run(w writer) {
	defer close(s.done)
	for {
		select {
		case r := <-s.queue:
			s.write(w, r)
		case <-s.stop:
			s.drain(w)
			s.err = w.close()
			return
		}
	}
}

// drain writes what is left.
func (s *sink) drain(w writer) {
	for {
		select {
		case r := <-s.queue:
			s.write(w, r)
		default:
			return
		}
	}
}

// write writes one message, and before it how many were lost.
func (s *sink) write(w writer, r record) {
	if r.flushed != nil {
		close(r.flushed)
		return
	}
	if n := s.lost.Load(); n > 0 {
		told := record{time: r.time, level: Warning, text: fmt.Sprintf("log messages were lost here: count=%d", n)}
		if w.write(told) == nil {
			s.lost.Add(-n)
		}
	}
	if w.write(r) != nil {
		s.lost.Add(1)
	}
}
