package leases

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/journal"
)

// Want is one resource that an owner asks for.
type Want struct {
	Resource lockspace.Resource
	// File is a descriptor that may hold the lock already, to be adopted; or nil. The caller closes it.
	File *os.File
}

// Acquire grants all resources or none. What a guest in the same generation holds already is granted again and costs nothing; a
// classic owner gets another lease instead. An owner with a process is watched from now on; if the process is gone,
// process.ErrGone is returned. An owner whose process is known already need not name it. Returns *BusyError if somebody else
// holds one of the locks.
//
// A lock that is not free is nevertheless had if its descriptor is given, or found in the owner's process. Each lock has a description
// of its own, also when the owner has had it before and released it: a guest that wants to keep it without this table needs a
// new duplicate (see Files).
func (t *Table) Acquire(ctx context.Context, owner Owner, wants []Want) ([]Info, error) {
	for _, w := range wants {
		if err := w.Resource.Check(); err != nil {
			return nil, err
		}
	}
	g, err := t.enter(ctx, keyOf(owner))
	if err != nil {
		return nil, err
	}
	defer t.leave(g)
	if owner.Process, err = t.live(g, owner); err != nil {
		return nil, err
	}
	all, fresh, err := t.reserve(g, owner, wants)
	var busy *BusyError
	if errors.As(err, &busy) && busy.Holder != nil && busy.Holder.Unknown {
		var again bool
		if again, err = t.reclaim(ctx, g, wants); again {
			all, fresh, err = t.reserve(g, owner, wants)
		} else if err == nil {
			err = busy
		}
	}
	if err != nil {
		return nil, err
	}
	if err = t.takeAll(g, all, wants); err == nil {
		err = t.record(owner, fresh)
	}
	if err != nil {
		t.undo(fresh)
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Info, len(all))
	for i, l := range all {
		t.become(l, Held, "")
		out[i] = l.info()
	}
	return out, nil
}

// reserve enters all new leases as pending, or none. Leases that the group has are returned as they are.
func (t *Table) reserve(g *group, owner Owner, wants []Want) (all, fresh []*lease, err error) {
	all = make([]*lease, 0, len(wants))
	since := now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range wants {
		r := &wants[i].Resource
		path := r.Path()
		// Classic owners may have one resource more than once.
		if !owner.Classic {
			if l := t.find(g, path, func(l *lease) bool { return l.Resource.Mode == r.Mode }); l != nil {
				all = append(all, l)
				continue
			}
		}
		if other := t.conflict(path, r.Mode); other != nil {
			err = heldBy(*r, other)
			break
		}
		l := &lease{path: path, Lease: journal.Lease{Number: t.next, Owner: owner, Resource: *r, Since: since}}
		t.next++
		t.insert(g, l)
		all = append(all, l)
		fresh = append(fresh, l)
	}
	if err != nil {
		for _, l := range fresh {
			t.remove(l)
		}
		return nil, nil, err
	}
	return all, fresh, nil
}

// takeAll gets the locks that the table does not have yet.
func (t *Table) takeAll(g *group, all []*lease, wants []Want) error {
	for i, l := range all {
		if t.lockOf(l) != nil {
			continue
		}
		if err := t.take(g, l, wants[i].File); err != nil {
			return err
		}
	}
	return nil
}

// take gets one lock, which may be another lease's that can be shared.
func (t *Table) take(g *group, l *lease, file *os.File) error {
	l.claim()
	defer l.yield()
	if t.share(l) {
		return nil
	}
	lock, err := t.obtain(g, l, file)
	if err == nil {
		t.settle(l, lock)
	}
	return err
}

// lockOf returns the lock that a lease rests on, or nil if there is none that is any good.
func (t *Table) lockOf(l *lease) *lockspace.Lock {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.hold == nil || l.ails() {
		return nil
	}
	return l.hold.lock
}

// settle has a lease rest on a lock. One that it rested on before had lost its name, and is let go.
func (t *Table) settle(l *lease, lock *lockspace.Lock) {
	t.mu.Lock()
	old := t.unhold(l)
	t.rest(l, &hold{lock: lock})
	if l.state != Pending {
		t.become(l, Held, "")
	}
	t.mu.Unlock()
	if old != nil {
		old.Close()
	}
}

// share has a classic owner's lease rest on the lock of another, and reports whether there is one.
func (t *Table) share(l *lease) bool {
	if !l.Owner.Classic || l.Resource.Mode != lockspace.Shared {
		return false
	}
	t.mu.Lock()
	h := l.place.shared
	if h == nil || h == l.hold {
		t.mu.Unlock()
		return false
	}
	t.mu.Unlock()
	named := h.lock.Named()
	t.mu.Lock()
	if l.place.shared != h || !named {
		if l.place.shared == h {
			// The file has lost its name, and whoever locks the new one must conflict with us.
			l.place.shared = nil
		}
		t.mu.Unlock()
		return false
	}
	old := t.unhold(l)
	t.rest(l, h)
	if l.state != Pending {
		t.become(l, Held, "")
	}
	t.mu.Unlock()
	if old != nil {
		old.Close()
	}
	return true
}

// obtain gets a lock: from the kernel if it is free, else from a descriptor that was given, else from the owner's process.
func (t *Table) obtain(g *group, l *lease, file *os.File) (*lockspace.Lock, error) {
	r := l.Resource
	lock, err := lockspace.Take(r)
	var busy *lockspace.BusyError
	if err == nil || !errors.As(err, &busy) {
		return lock, err
	}
	if file != nil {
		if lock, err := lockspace.FromFile(file, r); err == nil {
			return lock, nil
		}
	}
	if p := t.processOf(g); p != nil {
		lock, err := lockspace.FromProcess(p, r, busy.File)
		if err == nil {
			return lock, nil
		}
		if !errors.Is(err, lockspace.ErrNoLock) {
			t.log.Warn("cannot look for a lock in a guest's process", "error", err)
		}
	}
	return nil, t.name(err)
}

// record writes new leases into the journal.
func (t *Table) record(owner Owner, fresh []*lease) error {
	if len(fresh) == 0 {
		return nil
	}
	rec := journal.Record{Op: journal.Acquire, Owner: owner, Leases: make([]journal.Lease, len(fresh))}
	for i, l := range fresh {
		rec.Leases[i] = l.Lease
	}
	return t.journal.Append(rec)
}

// undo takes back leases that nobody was told about. Locks that were taken are dropped; those that were had from a descriptor of a
// living guest stay the guest's.
func (t *Table) undo(fresh []*lease) {
	for _, l := range fresh {
		t.end(l, func(lock *lockspace.Lock) {
			if lock.Inherited() {
				lock.Close()
			} else {
				t.finish(lock)
			}
		})
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range fresh {
		t.remove(l)
	}
}

// Files returns descriptors of the locks of some of an owner's resources, for the guest to inherit, in their order. The caller
// closes them with lockspace.CloseFile.
func (t *Table) Files(ctx context.Context, owner Owner, resources []lockspace.Resource) (files []*os.File, err error) {
	g, err := t.enter(ctx, keyOf(owner))
	if err != nil {
		return nil, err
	}
	defer t.leave(g)
	defer func() {
		if err != nil {
			closeAll(files)
			files = nil
		}
	}()
	for _, r := range resources {
		t.mu.Lock()
		l := t.find(g, r.Path(), func(l *lease) bool { return l.Resource.Mode == r.Mode })
		t.mu.Unlock()
		var lock *lockspace.Lock
		if l != nil {
			lock = t.lockOf(l)
		}
		if lock == nil {
			return files, fmt.Errorf("find lock of %q: %w", r, ErrNotHeld)
		}
		f, err := lock.Duplicate()
		if err != nil {
			return files, err
		}
		files = append(files, f)
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = lockspace.CloseFile(f)
	}
}
