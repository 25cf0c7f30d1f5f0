package leases

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/journal"
)

// ErrNotHeld says that a resource has no lease.
var ErrNotHeld = errors.New("no lease of this resource")

// ErrNotOwner says that a resource is leased to others only.
var ErrNotOwner = errors.New("lease belongs to somebody else")

// Release ends leases of an owner: those of the resources, in any mode, or all if there are none. It returns how many there were; none is
// no error, so that a release can be repeated. The locks are dropped for whoever inherited them too.
func (t *Table) Release(ctx context.Context, owner Owner, resources []lockspace.Resource) (int, error) {
	g, err := t.enter(ctx, keyOf(owner))
	if err != nil {
		return 0, err
	}
	defer t.leave(g)
	if len(resources) == 0 {
		return t.release(g, t.leasesOf(g)...)
	}
	chosen := map[*lease]bool{}
	var all []*lease
	t.mu.Lock()
	for _, r := range resources {
		for {
			l := t.find(g, r.Path(), func(l *lease) bool { return !chosen[l] })
			if l == nil {
				break
			}
			chosen[l] = true
			all = append(all, l)
		}
	}
	t.mu.Unlock()
	return t.release(g, all...)
}

// ReleaseOne ends one lease of a classic owner, which may have several of the same resource. Returns ErrNotHeld if nobody has
// the resource, ErrNotOwner if only others have.
func (t *Table) ReleaseOne(ctx context.Context, owner Owner, r lockspace.Resource) error {
	g, err := t.enter(ctx, keyOf(owner))
	if err != nil {
		return err
	}
	defer t.leave(g)
	path := r.Path()
	t.mu.Lock()
	l := t.find(g, path, func(*lease) bool { return true })
	others := t.index.places[path] != nil
	t.mu.Unlock()
	switch {
	case l != nil:
		_, err = t.release(g, l)
	case others:
		err = ErrNotOwner
	default:
		err = ErrNotHeld
	}
	if err != nil {
		return fmt.Errorf("release %q: %w", path, err)
	}
	return nil
}

// ForceRelease ends a lease whoever owns it, for an operator who knows better. The lock is dropped for whoever inherited it too. Returns the
// lease as it was, or ErrNotHeld.
func (t *Table) ForceRelease(ctx context.Context, number uint64) (Info, error) {
	was, err := t.force(ctx, number)
	if err != nil {
		return Info{}, fmt.Errorf("release lease %d by force: %w", number, err)
	}
	t.log.Warn("lock released by force", "lease", number, "path", was.Resource.Path(), "guest", was.Owner.Name, "pid", was.Owner.Process.PID)
	return was, nil
}

func (t *Table) force(ctx context.Context, number uint64) (Info, error) {
	t.mu.Lock()
	l := t.index.find(number)
	t.mu.Unlock()
	if l == nil {
		return Info{}, ErrNotHeld
	}
	g, err := t.enter(ctx, l.group.key)
	if err != nil {
		return Info{}, err
	}
	defer t.leave(g)
	t.mu.Lock()
	was, gone := l.info(), l.gone
	t.mu.Unlock()
	if gone {
		return Info{}, ErrNotHeld
	}
	if _, err := t.release(g, l); err != nil {
		return Info{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.publish(Change{Number: number, State: was.State, Ended: true})
	return was, nil
}

// release records and ends leases of a group. The caller has the group's turn.
func (t *Table) release(g *group, all ...*lease) (int, error) {
	if len(all) == 0 {
		return 0, nil
	}
	if t.unheld(all) && !t.open(g) {
		// The process is gone, and so are all its leases now.
		return len(all), nil
	}
	numbers := make([]uint64, len(all))
	for i, l := range all {
		numbers[i] = l.Number
	}
	if err := t.journal.Append(journal.Record{Op: journal.Release, Numbers: numbers}); err != nil {
		return 0, err
	}
	return len(t.drop(g, all)), nil
}

// unheld reports whether the table lacks a lock of one of the leases.
func (t *Table) unheld(all []*lease) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.ContainsFunc(all, func(l *lease) bool { return l.hold == nil })
}

// drop ends leases of a group and returns them.
func (t *Table) drop(g *group, all []*lease) []*lease {
	var without []*lease
	for _, l := range all {
		if !t.end(l, t.finish) {
			without = append(without, l)
		}
	}
	t.dropInherited(g, without)
	// Only now may another owner of this table ask the kernel for them.
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range all {
		t.remove(l)
	}
	return all
}

// dropInherited drops the locks of leases that the table has no descriptor for: those that the owner's process inherited and still has.
func (t *Table) dropInherited(g *group, all []*lease) {
	if len(all) == 0 {
		return
	}
	for _, f := range t.search(g, all) {
		f.lease.claim()
		t.finish(f.lock)
		f.lease.yield()
	}
	for _, l := range all {
		l.claim()
		sweep(l.Resource)
		l.yield()
	}
}

// finish drops the lock of a lease that ends.
func (t *Table) finish(lock *lockspace.Lock) {
	if err := lock.Release(); err != nil {
		t.log.Warn("lock was not released in good order", "error", err)
	}
}

// end takes a lease's lock from it, and gives it to a function if it is nobody else's. It reports whether there was one.
func (t *Table) end(l *lease, with func(*lockspace.Lock)) bool {
	l.claim()
	defer l.yield()
	t.mu.Lock()
	held := l.hold != nil
	lock := t.unhold(l)
	t.mu.Unlock()
	if lock != nil {
		with(lock)
	}
	return held
}

// sweep removes the file of a temporary resource if nobody has it locked.
func sweep(r lockspace.Resource) {
	r.Mode = lockspace.Exclusive
	if !r.Temporary || r.Lockspace == "" {
		return
	}
	if lock, err := lockspace.Take(r); err == nil {
		_ = lock.Release()
	}
}
