package leases

import (
	"context"
	"errors"
	"fmt"

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
	g, leave, err := t.enter(ctx, keyOf(owner))
	if err != nil {
		return 0, err
	}
	defer leave()
	paths := map[string]bool{}
	for _, r := range resources {
		paths[r.Path()] = true
	}
	return t.release(g, func(l *lease) bool { return len(paths) == 0 || paths[l.Resource.Path()] })
}

// ForceRelease ends a lease whoever owns it, for an operator who knows better. The lock is dropped for whoever inherited it too. Returns the
// lease as it was, or ErrNotHeld.
func (t *Table) ForceRelease(ctx context.Context, number uint64) (Info, error) {
	k, ok := t.ownerOf(number)
	if !ok {
		return Info{}, fmt.Errorf("release lease %d by force: %w", number, ErrNotHeld)
	}
	g, leave, err := t.enter(ctx, k)
	if err != nil {
		return Info{}, err
	}
	defer leave()
	t.mu.Lock()
	l := g.leases[number]
	var was Info
	if l != nil {
		was = l.info()
	}
	t.mu.Unlock()
	if l != nil {
		_, err = t.release(g, func(l *lease) bool { return l.Number == number })
	} else {
		err = ErrNotHeld
	}
	if err != nil {
		return Info{}, fmt.Errorf("release lease %d by force: %w", number, err)
	}
	t.log.Warn("lock released by force", "lease", number, "path", was.Resource.Path(), "guest", was.Owner.Name, "pid", was.Owner.Process.PID)
	return was, nil
}

// ownerOf returns whose a lease is.
func (t *Table) ownerOf(number uint64) (key, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, g := range t.groups {
		if g.leases[number] != nil {
			return k, true
		}
	}
	return key{}, false
}

// release records and ends the leases that match. The caller has the group's turn.
func (t *Table) release(g *group, match func(*lease) bool) (int, error) {
	var numbers []uint64
	t.mu.Lock()
	for n, l := range g.leases {
		if match(l) {
			numbers = append(numbers, n)
		}
	}
	t.mu.Unlock()
	if len(numbers) == 0 {
		return 0, nil
	}
	if err := t.journal.Append(journal.Record{Op: journal.Release, Numbers: numbers}); err != nil {
		return 0, err
	}
	return len(t.drop(g, match)), nil
}

// drop ends the leases that match and returns them.
func (t *Table) drop(g *group, match func(*lease) bool) []*lease {
	t.mu.Lock()
	var ended []*lease
	for _, l := range g.leases {
		if match(l) {
			ended = append(ended, l)
		}
	}
	t.mu.Unlock()
	for _, l := range ended {
		held := t.lockOf(l) != nil
		if lock := t.letGo(l); lock != nil {
			t.finish(lock)
		} else if !held {
			sweep(l.Resource)
		}
	}
	// Only now may another owner of this table ask the kernel for them.
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range ended {
		t.remove(g, l)
	}
	return ended
}

// finish drops the lock of a lease that ends.
func (t *Table) finish(lock *lockspace.Lock) {
	if err := lock.Release(); err != nil {
		t.log.Warn("lock was not released in good order", "error", err)
	}
}

// letGo takes a lease's lock from it, and returns it if it is nobody else's.
func (t *Table) letGo(l *lease) *lockspace.Lock {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.unhold(l)
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
