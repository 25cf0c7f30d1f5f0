package leases

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// firstPause and lastPause bound the pause between two tries to get the locks that are not held.
	firstPause = 500 * time.Millisecond
	lastPause  = 10 * time.Second
	// restFactor is how many times the length of a try its pause is, so that thousands of lost locks cost a few percent of a CPU.
	restFactor = 20
	// menders is how many owners are mended at once.
	menders = 8
)

// mend tries all leases whose locks are not held, first at once, then again and again while there are any. It ends then: only a restart
// makes a lease without its lock.
func (t *Table) mend() {
	pause := t.round()
	close(t.first)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for len(t.ailing()) > 0 {
		select {
		case <-t.done:
			return
		case <-timer.C:
			timer.Reset(t.round())
		}
	}
}

// round tries each owner that lacks a lock or the watch of its process, and returns how long to pause then.
func (t *Table) round() time.Duration {
	begun := time.Now()
	var each errgroup.Group
	each.SetLimit(menders)
	for _, k := range t.ailing() {
		each.Go(func() error {
			g, leave, err := t.enter(context.Background(), k)
			if err != nil {
				return err
			}
			defer leave()
			t.restore(g)
			return nil
		})
	}
	if err := each.Wait(); err != nil && !errors.Is(err, ErrClosed) {
		t.log.Warn("cannot mend locks", "error", err)
	}
	return min(max(restFactor*time.Since(begun), firstPause), lastPause)
}

// ailing returns the owners that need care.
func (t *Table) ailing() []key {
	t.mu.Lock()
	defer t.mu.Unlock()
	var keys []key
	for k, g := range t.groups {
		for _, l := range g.leases {
			if l.state > Held || (l.Owner.Process.PID != 0 && g.process == nil) {
				keys = append(keys, k)
				break
			}
		}
	}
	return keys
}

// restore gets what can be had of a group after a restart: its process, and every lock that is not held. The caller has the
// group's turn.
func (t *Table) restore(g *group) {
	if !t.open(g) {
		return
	}
	t.mu.Lock()
	var missing []*lease
	for _, l := range g.leases {
		if l.hold == nil {
			missing = append(missing, l)
		}
	}
	t.mu.Unlock()
	for _, l := range missing {
		t.retake(g, l)
	}
}

// retake tries to get one lock, and tells once if that does not work.
func (t *Table) retake(g *group, l *lease) {
	if t.share(l) {
		return
	}
	lock, err := t.obtain(g, l.Resource, nil)
	if err == nil {
		t.settle(l, lock, Held, "")
		t.log.Debug("lock taken back", "path", l.Resource.Path(), "guest", l.Owner.Name, "gen", l.Owner.Generation)
		return
	}
	state := Lost
	var busy *BusyError
	if errors.As(err, &busy) && busy.Holder == nil && busy.PID == 0 {
		// The kernel does not tell who has an OFD lock; a descriptor that the owner, the core or a plugin kept is likeliest.
		state = Unproven
	}
	if l.detail != err.Error() {
		t.log.Warn("lock cannot be taken back yet", "path", l.Resource.Path(), "guest", l.Owner.Name, "state", state, "error", err)
	}
	t.settle(l, nil, state, err.Error())
}
