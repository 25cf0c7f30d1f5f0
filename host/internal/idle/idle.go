// Package idle ends a daemon that nobody has used for a time, as libvirt's daemons do with --timeout.
//
// A Watch asks now and then whether the daemon is in use. It asks nothing while there is no timeout. Its methods are safe
// concurrently; Run belongs to one goroutine.
package idle

import (
	"context"
	"sync"
	"time"
)

const (
	// mostBetween and leastBetween bound the time between two questions; it is a part of the timeout in between.
	mostBetween  = time.Second
	leastBetween = 5 * time.Millisecond
	part         = 20
)

// Use is how a daemon is used.
type Use struct {
	// Busy says that it must not end now.
	Busy bool
	// Mark is another number whenever it was used since the last question, such as the number of clients so far.
	Mark uint64
}

// Watch waits for idleness.
type Watch struct {
	use func() Use

	mu      sync.Mutex
	after   time.Duration
	changed chan struct{}
}

// New returns a watch without a timeout. It asks use.
func New(use func() Use) *Watch { return &Watch{use: use, changed: make(chan struct{})} }

// SetTimeout says how long the daemon may be idle, from now on; 0 is for ever.
func (w *Watch) SetTimeout(after time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.after = after
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *Watch) timeout() (after time.Duration, changed <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.after, w.changed
}

// Run returns true once the daemon has been idle for the timeout, false when the context ends first.
func (w *Watch) Run(ctx context.Context) bool {
	for {
		after, changed := w.timeout()
		if w.wait(ctx, after, changed) {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
	}
}

// wait waits for idleness, until the context ends or the timeout is changed.
func (w *Watch) wait(ctx context.Context, after time.Duration, changed <-chan struct{}) bool {
	var look <-chan time.Time
	if after > 0 {
		ticker := time.NewTicker(min(max(after/part, leastBetween), mostBetween))
		defer ticker.Stop()
		look = ticker.C
	}
	since, last := time.Now(), w.use().Mark
	for {
		select {
		case <-ctx.Done():
			return false
		case <-changed:
			return false
		case <-look:
		}
		now := w.use()
		if now.Busy || now.Mark != last {
			since, last = time.Now(), now.Mark
		}
		if time.Since(since) >= after {
			return true
		}
	}
}
