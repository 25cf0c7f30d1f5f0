package leases

import (
	"errors"
	"path/filepath"
	"slices"
	"sync/atomic"
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
	// deadFolders is how many folders of a file system may hang until all of it is let be.
	deadFolders = 2
)

// patrol looks at all lock files now and then: one that was removed or replaced protects nobody any more.
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
		mislaid := false
		for after, more := uint64(0), true; more; {
			var beats []beat
			beats, after, more = t.way(after)
			mislaid = t.walk(beats) || mislaid
		}
		if mislaid {
			t.rouse()
		}
		timer.Reset(max(patrolPause, patrolRest*time.Since(begun)))
	}
}

// beat is a lease on a patrol's way.
type beat struct {
	lease *lease
	hold  *hold
}

func (b beat) folder() string { return filepath.Dir(b.lease.path) }

// way returns the next leases to look at, those after a number, and whether there are more.
func (t *Table) way(after uint64) ([]beat, uint64, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.index.after(after)
	some := all[:min(stride, len(all))]
	beats := make([]beat, 0, len(some))
	for _, l := range some {
		after = l.Number
		if l.gone || l.hold == nil || l.ails() || t.dead[l.hold.lock.File().Dev] >= deadFolders {
			continue
		}
		if len(t.blocked) > 0 && t.blocked[filepath.Dir(l.path)] > 0 {
			continue
		}
		beats = append(beats, beat{lease: l, hold: l.hold})
	}
	return beats, after, len(some) < len(all) && !t.closed
}

// walk looks at lock files one after another, and reports whether one was lost. A file system that does not answer for long costs the
// files of that folder their look, and nobody else.
func (t *Table) walk(beats []beat) (mislaid bool) {
	for len(beats) > 0 {
		n, lost := t.look(beats)
		for i, b := range beats[:n] {
			mislaid = lost[i] && t.lose(b) || mislaid
		}
		if n == len(beats) {
			return mislaid
		}
		stuck := beats[n].folder()
		// What hangs still has the slice.
		beats = slices.DeleteFunc(slices.Clone(beats[n+1:]), func(b beat) bool { return b.folder() == stuck })
	}
	return mislaid
}

// look looks at lock files and says of how many, and which of them have lost their names. It ends early at one that hangs, or with the
// table.
func (t *Table) look(beats []beat) (n int, lost []bool) {
	var progress atomic.Int32
	var given atomic.Bool // up: the file that hangs is the last
	lost = make([]bool, len(beats))
	ended := make(chan struct{})
	spawned := t.spawn(func() {
		defer close(ended)
		for i, b := range beats {
			gone := isLost(b)
			if given.Load() {
				return
			}
			lost[i] = gone
			progress.Store(int32(i + 1))
		}
	})
	if !spawned {
		return 0, nil
	}
	tick := time.NewTicker(stuckAfter)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return len(beats), lost
		case <-t.done:
			given.Store(true)
			return int(progress.Load()), lost
		case <-tick.C:
		}
		now := int(progress.Load())
		if now > n || now == len(beats) {
			n = now
			continue
		}
		given.Store(true)
		t.giveUp(beats[n], ended)
		return n, lost
	}
}

// giveUp lets a folder be until a look at one of its files has ended.
func (t *Table) giveUp(b beat, ended <-chan struct{}) {
	folders, device := []string{b.folder()}, b.hold.lock.File().Dev
	t.log.Warn("file system of a held lock does not answer", "folder", folders[0])
	t.block(folders, 1)
	t.bury(device, 1)
	t.spawn(func() {
		<-ended
		t.block(folders, -1)
		t.bury(device, -1)
	})
}

// bury counts folders of a file system that do not answer.
func (t *Table) bury(device uint64, change int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dead[device] += change; t.dead[device] == 0 {
		delete(t.dead, device)
	}
}

// isLost reports whether a lock's file has lost its name. An answer that tells neither way is none.
func isLost(b beat) bool {
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
	t.log.Warn("lock file was removed or replaced", "path", b.lease.path, "guest", b.lease.Owner.Name)
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
