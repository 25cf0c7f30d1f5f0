package leases

import (
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

const (
	// firstPause and lastPause bound the pause between two tries to get the locks that are not held.
	firstPause = 500 * time.Millisecond
	lastPause  = 10 * time.Second
	// restFactor is how many times the length of a try its pause is, so that thousands of lost locks cost a few percent of a CPU.
	restFactor = 20
	// menders is how many owners are mended at once, not counting those that are stuck.
	menders = 8
	// stuckAfter is when a try counts as stuck: it goes on, but nobody waits for it, and its folder is let be until it ends.
	stuckAfter = time.Second
)

// mend tries all leases whose locks are not held, first at once, then again and again while there are any.
func (t *Table) mend() {
	pause := t.round()
	close(t.first)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-t.done:
			return
		case <-t.wake:
		case <-timer.C:
		}
		timer.Reset(t.round())
	}
}

// rouse has the mender look round soon.
func (t *Table) rouse() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// round tries each owner that lacks a lock or the watch of its process, and returns how long to pause then.
func (t *Table) round() time.Duration {
	begun := time.Now()
	var hung atomic.Bool
	slots := make(chan struct{}, menders)
	for _, g := range t.ailing() {
		select {
		case slots <- struct{}{}:
		case <-t.done:
			return lastPause
		}
		if !t.attend(g, func(stuck bool) {
			hung.Store(hung.Load() || stuck)
			<-slots
		}) {
			<-slots
		}
	}
	// All that are not stuck have ended when every slot can be had.
	for range menders {
		select {
		case slots <- struct{}{}:
		case <-t.done:
			return lastPause
		}
	}
	took := time.Since(begun)
	if hung.Load() {
		// Waiting costs nobody anything.
		took = max(took-stuckAfter, 0)
	}
	return min(max(restFactor*took, firstPause), lastPause)
}

// attend mends one group on a goroutine of its own, and calls done once: when it has ended, or when it is stuck. It reports false,
// without calling done, if the group is let be.
func (t *Table) attend(g *group, done func(stuck bool)) bool {
	t.mu.Lock()
	folders := t.folders(g)
	busy := g.mending || t.isBlocked(folders)
	g.mending = g.mending || !busy
	t.mu.Unlock()
	if busy {
		return false
	}
	ended := make(chan struct{})
	return t.spawn(func() {
		defer close(ended)
		t.mendGroup(g)
	}) && t.spawn(func() {
		done(t.oversee(folders, ended))
	})
}

// oversee waits for the end of a try, or until it is stuck, and reports that. Then its folders are let be until it ends.
func (t *Table) oversee(folders []string, ended <-chan struct{}) (hangs bool) {
	stuck := time.NewTimer(stuckAfter)
	defer stuck.Stop()
	select {
	case <-ended:
		return false
	case <-stuck.C:
	}
	t.log.Warn("file system of locks does not answer", "folders", folders)
	t.block(folders, 1)
	t.spawn(func() {
		<-ended
		t.block(folders, -1)
		t.rouse()
	})
	return true
}

func (t *Table) mendGroup(g *group) {
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		g.mending = false
	}()
	// An owner that is at work itself is mended in the next round.
	ctx, cancel := context.WithTimeout(context.Background(), stuckAfter)
	defer cancel()
	entered, err := t.enter(ctx, g.key)
	if err != nil {
		return
	}
	defer t.leave(entered)
	t.restore(entered)
}

// folders returns where the lock files of a group's ailing leases are; Table.mu is held.
func (t *Table) folders(g *group) []string {
	seen := map[string]bool{}
	var out []string
	for _, l := range g.leases {
		folder := filepath.Dir(l.path)
		if l.ails() && !seen[folder] {
			seen[folder] = true
			out = append(out, folder)
		}
	}
	return out
}

// isBlocked reports whether one of the folders does not answer just now; Table.mu is held.
func (t *Table) isBlocked(folders []string) bool {
	for _, f := range folders {
		if t.blocked[f] > 0 {
			return true
		}
	}
	return false
}

func (t *Table) block(folders []string, change int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range folders {
		if t.blocked[f] += change; t.blocked[f] <= 0 {
			delete(t.blocked, f)
		}
	}
}

// ailing returns the owners that need care.
func (t *Table) ailing() []*group {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := &t.index.states
	if n[Unproven]+n[Lost]+t.index.mislaid == 0 && !t.unopened {
		return nil
	}
	t.unopened = false
	var out []*group
	for _, g := range t.groups {
		for _, l := range g.leases {
			unwatched := l.Owner.Process.PID != 0 && g.process == nil
			t.unopened = t.unopened || unwatched
			if l.ails() || unwatched {
				out = append(out, g)
				break
			}
		}
	}
	return out
}

// restore gets what can be had of a group: its process, and every lock that is not held. The caller has the group's turn.
func (t *Table) restore(g *group) {
	if !t.open(g) {
		return
	}
	var missing []*lease
	t.mu.Lock()
	for _, l := range g.leases {
		if l.ails() {
			missing = append(missing, l)
		}
	}
	t.mu.Unlock()
	if len(missing) == 0 {
		return
	}
	if !g.key.classic() {
		// A guest has inherited its locks. A shared one could be taken anew beside the guest's own, which nobody would drop then.
		for _, f := range t.search(g, missing) {
			t.settle(f.lease, f.lock)
			t.debug("lock taken back", f.lease)
		}
	}
	for _, l := range missing {
		if t.lockOf(l) == nil {
			t.retake(g, l)
		}
	}
}

// find is a lock that a lease's owner has.
type find struct {
	lease *lease
	lock  *lockspace.Lock
}

// search takes the locks of leases from the owner's process, by one look at its descriptors. The caller has the group's turn.
func (t *Table) search(g *group, leases []*lease) []find {
	p := t.processOf(g)
	if p == nil {
		return nil
	}
	files := map[lockspace.FileID]bool{}
	of := map[*lease]lockspace.FileID{}
	for _, l := range leases {
		if id, err := lockspace.Identify(l.path); err == nil {
			of[l] = id
			files[id] = true
		}
	}
	if len(files) == 0 {
		return nil
	}
	carriers, err := lockspace.Carriers(p, files)
	if err != nil {
		if !p.Exited() {
			t.log.Warn("cannot look for locks in a guest's process", "error", err)
		}
		return nil
	}
	return t.match(p, leases, of, carriers)
}

// match takes for each lease the first carrier that proves to have its lock.
func (t *Table) match(p *process.Process, leases []*lease, of map[*lease]lockspace.FileID, carriers []lockspace.Carrier) []find {
	byFile := map[lockspace.FileID][]lockspace.Carrier{}
	for _, c := range carriers {
		byFile[c.File] = append(byFile[c.File], c)
	}
	var out []find
	for _, l := range leases {
		id, ok := of[l]
		if !ok {
			continue
		}
		for _, c := range byFile[id] {
			if !c.Has(l.Resource.Mode) {
				continue
			}
			lock, err := c.Lock(p, l.Resource)
			if err == nil {
				out = append(out, find{lease: l, lock: lock})
				break
			}
			if !errors.Is(err, lockspace.ErrNoLock) && !p.Exited() {
				t.log.Warn("cannot take a lock back from a guest's process", "error", err)
			}
		}
	}
	return out
}

// retake tries to get one lock, and tells once if that does not work.
func (t *Table) retake(g *group, l *lease) {
	if t.found(l) {
		t.debug("lock file has its name again", l)
		return
	}
	err := t.take(g, l, nil)
	if err == nil {
		t.debug("lock taken back", l)
		return
	}
	state, detail := Lost, err.Error()
	var busy *BusyError
	t.mu.Lock()
	if l.hold == nil && errors.As(err, &busy) && busy.Holder == nil && busy.PID == 0 {
		// The kernel does not tell who has an OFD lock; a descriptor that the owner, the core or a plugin kept is likeliest.
		state = Unproven
	}
	known := l.state == state && l.detail == detail
	t.become(l, state, detail)
	t.mu.Unlock()
	if !known {
		t.log.Warn("lock cannot be taken back yet", "path", l.path, "guest", l.Owner.Name, "state", state, "error", err)
	}
}

// found reports whether a lease's lock is good after all, because its file has its name again.
func (t *Table) found(l *lease) bool {
	t.mu.Lock()
	h := l.hold
	t.mu.Unlock()
	if h == nil || !h.lock.Named() {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mislay(l, false)
	t.become(l, Held, "")
	return true
}

func (t *Table) debug(message string, l *lease) {
	if t.log.IsDebug() {
		t.log.Debug(message, "path", l.path, "guest", l.Owner.Name, "gen", l.Owner.Generation)
	}
}

// classic reports whether the key is of a client of virtlockd's protocol.
func (k key) classic() bool { return k.pid != 0 }
