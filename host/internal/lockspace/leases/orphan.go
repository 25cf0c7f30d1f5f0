package leases

import (
	"context"
	"errors"
	"os"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/journal"
)

// reclaim gives an owner the leases of unknown owners that are its own: those whose lock is proven to be in a descriptor that it gives, or
// in its process. It reports whether there was one. Only exclusive locks are considered, because only one description can have
// such a lock, and unknown shared ones are in nobody's way. The caller has the group's turn, and the unknown owners' turn comes
// after it.
func (t *Table) reclaim(ctx context.Context, g *group, wants []Want) (bool, error) {
	any := false
	for _, w := range wants {
		orphan := t.orphanAt(w.Resource)
		if orphan == nil {
			continue
		}
		proof := t.proof(g, w.Resource, w.File)
		if proof == nil {
			continue
		}
		done, err := t.adopt(ctx, orphan, proof)
		proof.Close()
		if err != nil {
			return any, err
		}
		any = any || done
	}
	return any, nil
}

// orphanAt returns the unknown owners' lease of a resource that is wanted exclusively, or nil.
func (t *Table) orphanAt(r lockspace.Resource) *lease {
	if r.Mode != lockspace.Exclusive {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.conflict(r.Path(), r.Mode)
	if l == nil || !l.Owner.Unknown || l.Resource.Mode != lockspace.Exclusive {
		return nil
	}
	return l
}

// proof returns a lock of the resource that the owner has itself, or nil.
func (t *Table) proof(g *group, r lockspace.Resource, file *os.File) *lockspace.Lock {
	if file != nil {
		if lock, err := lockspace.FromFile(file, r); err == nil {
			return lock
		}
	}
	p := t.processOf(g)
	if p == nil {
		return nil
	}
	id, err := lockspace.Identify(r.Path())
	if err != nil {
		return nil
	}
	lock, err := lockspace.FromProcess(p, r, id)
	if err != nil {
		if !errors.Is(err, lockspace.ErrNoLock) {
			t.log.Warn("cannot look for a lock in a guest's process", "error", err)
		}
		return nil
	}
	return lock
}

// adopt ends a lease of an unknown owner whose lock is the proof's, without dropping the lock.
func (t *Table) adopt(ctx context.Context, orphan *lease, proof *lockspace.Lock) (bool, error) {
	g, err := t.enter(ctx, key{unknown: true})
	if err != nil {
		return false, err
	}
	defer t.leave(g)
	t.mu.Lock()
	same := !orphan.gone && orphan.hold != nil && orphan.hold.lock.File() == proof.File()
	t.mu.Unlock()
	if !same {
		return false, nil
	}
	if err := t.journal.Append(journal.Record{Op: journal.Release, Numbers: []uint64{orphan.Number}}); err != nil {
		return false, err
	}
	t.end(orphan, (*lockspace.Lock).Close)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.remove(orphan)
	return true, nil
}
