package leases

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
)

const (
	// patrolPause is the shortest pause between two looks at the lock files, and patrolRest how many times the length of a look it is,
	// so that a hundred thousand locks cost a few percent of a CPU.
	patrolPause = 2 * time.Second
	patrolRest  = 30
	// stride is how many leases are looked up at once.
	stride = 256
)

// patrol looks at all lock files now and then: one that was removed or replaced protects nobody any more. Each file system has a
// goroutine of its own, so that one that does not answer holds up nothing but itself.
func (t *Table) patrol() {
	timer := time.NewTimer(patrolPause)
	defer timer.Stop()
	for {
		select {
		case <-t.done:
			return
		case <-timer.C:
		}
		begun := time.Now()
		for _, device := range t.unattended() {
			t.walk(device)
		}
		timer.Reset(max(patrolPause, patrolRest*time.Since(begun)))
	}
}

// unattended returns the file systems that are not being looked at.
func (t *Table) unattended() []uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []uint64
	for device := range t.index.devices {
		if !t.patrols[device] {
			out = append(out, device)
		}
	}
	return out
}

// walk looks at all lock files of a file system, and waits for that unless it takes long.
func (t *Table) walk(device uint64) {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return
	}
	t.patrols[device] = true
	ended := make(chan struct{})
	t.work.Go(func() {
		defer close(ended)
		defer func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			delete(t.patrols, device)
		}()
		t.look(device)
	})
	t.mu.Unlock()
	slow := time.NewTimer(stuckAfter)
	defer slow.Stop()
	select {
	case <-ended:
	case <-slow.C:
	case <-t.done:
	}
}

// beat is a lease on a patrol's way.
type beat struct {
	lease *lease
	hold  *hold
}

// look compares the names of all locks of a file system with their files.
func (t *Table) look(device uint64) {
	mislaid := false
	beats := make([]beat, 0, stride)
	for after, more := uint64(0), true; more; {
		beats, after, more = t.next256(beats[:0], device, after)
		for _, b := range beats {
			select {
			case <-t.done:
				return
			default:
			}
			if lost(b) {
				mislaid = t.lose(b) || mislaid
			}
		}
	}
	if mislaid {
		t.rouse()
	}
}

// next256 returns the next leases on the way.
func (t *Table) next256(beats []beat, device, after uint64) ([]beat, uint64, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.index.after(after)
	some := all[:min(stride, len(all))]
	for _, l := range some {
		after = l.Number
		if !l.gone && l.hold != nil && !l.ails() && l.hold.lock.File().Dev == device {
			beats = append(beats, beat{lease: l, hold: l.hold})
		}
	}
	return beats, after, len(some) < len(all)
}

// lost reports whether a lock's file has lost its name. An answer that tells neither way is none.
func lost(b beat) bool {
	id, err := lockspace.Identify(b.lease.path)
	if err != nil {
		return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
	}
	return id != b.hold.lock.File()
}

// lose marks a lease whose lock file has lost its name, for the mender to take the new one. It reports false if the lease has
// another lock by now, or none.
func (t *Table) lose(b beat) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b.lease.gone || b.lease.hold != b.hold {
		return false
	}
	t.log.Warn("lock file was removed or replaced, and is locked anew", "path", b.lease.path, "guest", b.lease.Owner.Name)
	t.mislay(b.lease, true)
	return true
}

// mislay says whether a lease's path leads to its file; Table.mu is held.
func (t *Table) mislay(l *lease, mislaid bool) {
	if l.mislaid == mislaid {
		return
	}
	l.mislaid = mislaid
	if mislaid {
		t.index.mislaid++
	} else {
		t.index.mislaid--
	}
}
