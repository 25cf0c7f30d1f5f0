package leases

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/journal"
	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

// Want is one resource that an owner asks for.
type Want struct {
	Resource lockspace.Resource
	// File is a descriptor that may hold the lock already, to be adopted; or nil. The caller closes it.
	File *os.File
}

// Acquire grants all resources or none. What a guest in the same generation holds already is granted again and costs nothing; a
// classic owner gets another lease instead. An owner with a process is watched from now on; if the process is gone,
// process.ErrGone is returned. Returns *BusyError if somebody else holds one of the locks.
//
// A lock that is not free is nevertheless had if its descriptor is given, or found in the owner's process.
func (t *Table) Acquire(ctx context.Context, owner Owner, wants []Want) ([]Info, error) {
	for _, w := range wants {
		if err := w.Resource.Check(); err != nil {
			return nil, err
		}
	}
	g, leave, err := t.enter(ctx, keyOf(owner))
	if err != nil {
		return nil, err
	}
	defer leave()
	t.bury(g)
	if err := t.attach(g, owner); err != nil {
		return nil, err
	}
	all, fresh, err := t.reserve(g, owner, wants)
	if err != nil {
		return nil, err
	}
	if err = t.takeAll(g, all, wants); err == nil {
		err = t.record(owner, fresh)
	}
	if err != nil {
		t.undo(g, fresh)
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Info, len(all))
	for i, l := range all {
		l.state = Held
		out[i] = l.info()
	}
	return out, nil
}

// reserve enters all new leases as pending, or none. Leases that the group has are returned as they are.
func (t *Table) reserve(g *group, owner Owner, wants []Want) (all, fresh []*lease, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range wants {
		l := g.find(owner, w.Resource)
		if l == nil {
			if other := t.conflict(w.Resource); other != nil {
				err = heldBy(w.Resource, other)
				break
			}
			l = &lease{Lease: journal.Lease{Number: t.next, Owner: owner, Resource: w.Resource, Since: now()}}
			t.next++
			t.insert(g, l)
			fresh = append(fresh, l)
		}
		all = append(all, l)
	}
	if err != nil {
		for _, l := range fresh {
			t.remove(g, l)
		}
		return nil, nil, err
	}
	return all, fresh, nil
}

// find returns the group's lease of a resource; classic owners may have one resource more than once and find none.
func (g *group) find(owner Owner, r lockspace.Resource) *lease {
	if owner.Classic {
		return nil
	}
	for _, l := range g.leases {
		if l.Resource.Path() == r.Path() && l.Resource.Mode == r.Mode {
			return l
		}
	}
	return nil
}

// takeAll gets the locks that the table does not have yet.
func (t *Table) takeAll(g *group, all []*lease, wants []Want) error {
	for i, l := range all {
		if t.lockOf(l) != nil || t.share(l) {
			continue
		}
		lock, err := t.obtain(g, l.Resource, wants[i].File)
		if err != nil {
			return err
		}
		state := Held
		if l.state == Pending {
			state = Pending
		}
		t.settle(l, lock, state, "")
	}
	return nil
}

// lockOf returns the lock that a lease rests on, or nil.
func (t *Table) lockOf(l *lease) *lockspace.Lock {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.hold == nil {
		return nil
	}
	return l.hold.lock
}

// share has a classic owner's lease rest on the lock of another, and reports whether there is one.
func (t *Table) share(l *lease) bool {
	if !l.Owner.Classic || l.Resource.Mode != lockspace.Shared {
		return false
	}
	t.mu.Lock()
	h := t.shared[l.Resource.Path()]
	if h == nil {
		t.mu.Unlock()
		return false
	}
	t.rest(l, h)
	if l.state > Held {
		l.state, l.detail = Held, ""
	}
	t.mu.Unlock()
	if h.lock.Named() {
		return true
	}
	// The file has lost its name, and whoever locks the new one must conflict with us.
	t.mu.Lock()
	lock := t.unhold(l)
	if t.shared[l.Resource.Path()] == h {
		delete(t.shared, l.Resource.Path())
	}
	t.mu.Unlock()
	if lock != nil {
		lock.Close()
	}
	return false
}

// obtain gets a lock: from the kernel if it is free, else from a descriptor that was given, else from the owner's process.
func (t *Table) obtain(g *group, r lockspace.Resource, file *os.File) (*lockspace.Lock, error) {
	lock, err := lockspace.Take(r)
	var busy *lockspace.BusyError
	if !errors.As(err, &busy) {
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

func (t *Table) processOf(g *group) *process.Process {
	t.mu.Lock()
	defer t.mu.Unlock()
	return g.process
}

// record writes new leases into the journal.
func (t *Table) record(owner Owner, fresh []*lease) error {
	if len(fresh) == 0 {
		return nil
	}
	rec := journal.Record{Op: journal.Acquire, Owner: owner}
	for _, l := range fresh {
		rec.Leases = append(rec.Leases, l.Lease)
	}
	return t.journal.Append(rec)
}

// undo takes back leases that nobody was told about. Locks that were taken are dropped; those that were had from a descriptor of a
// living guest stay the guest's.
func (t *Table) undo(g *group, fresh []*lease) {
	for _, l := range fresh {
		lock := t.letGo(l)
		switch {
		case lock == nil:
		case lock.Inherited():
			lock.Close()
		default:
			t.finish(lock)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range fresh {
		t.remove(g, l)
	}
}

// Files returns descriptors of the locks of some of an owner's resources, for the guest to inherit, in their order. The caller
// closes them with lockspace.CloseFile.
func (t *Table) Files(ctx context.Context, owner Owner, resources []lockspace.Resource) (files []*os.File, err error) {
	g, leave, err := t.enter(ctx, keyOf(owner))
	if err != nil {
		return nil, err
	}
	defer leave()
	defer func() {
		if err != nil {
			closeAll(files)
			files = nil
		}
	}()
	for _, r := range resources {
		t.mu.Lock()
		l := g.find(owner, r)
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
