package leases

import (
	"context"
	"errors"
	"fmt"
)

// ErrMissed says that a watch has missed changes: whoever watches has to list the leases anew.
var ErrMissed = errors.New("changes of leases were missed")

// Change is a lease that is not what it was.
type Change struct {
	// Number is the lease's.
	Number uint64
	// State is what it has become; the last one if it has ended.
	State State
	// Ended says that the lease was ended by force.
	Ended bool
}

// Watch is a bounded queue of the changes of leases that happen by themselves: a lock that is lost, one that is had again, and one that an
// operator has taken away. What an owner does itself is not told.
type Watch struct {
	table   *Table
	changes chan Change
	missed  bool // guarded by Table.mu
}

// Watch starts to collect changes, up to size. The caller ends it with Close.
func (t *Table) Watch(size int) *Watch {
	w := &Watch{table: t, changes: make(chan Change, max(size, 1))}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.watches[w] = true
	return w
}

// Next waits for a change. It returns ErrMissed once after more changes than there was room for, ErrClosed with the table, or the
// context's error. One Next at a time.
func (w *Watch) Next(ctx context.Context) (Change, error) {
	if w.lost() {
		return Change{}, ErrMissed
	}
	select {
	case c := <-w.changes:
		return c, nil
	case <-w.table.done:
		return Change{}, ErrClosed
	case <-ctx.Done():
		return Change{}, fmt.Errorf("watch leases: %w", ctx.Err())
	}
}

// lost reports once that changes were missed. Those that are still queued are missed too, for whoever lists anew sees them.
func (w *Watch) lost() bool {
	w.table.mu.Lock()
	defer w.table.mu.Unlock()
	if !w.missed {
		return false
	}
	w.missed = false
	for len(w.changes) > 0 {
		<-w.changes
	}
	return true
}

// Close ends the watch.
func (w *Watch) Close() {
	w.table.mu.Lock()
	defer w.table.mu.Unlock()
	delete(w.table.watches, w)
}

// publish tells a change to whoever watches; Table.mu is held.
func (t *Table) publish(c Change) {
	for w := range t.watches {
		select {
		case w.changes <- c:
		default:
			w.missed = true
		}
	}
}
