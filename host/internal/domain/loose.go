package domain

import (
	"slices"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/sdk/domxml"
)

// A lock is loose while it may be held for a guest and its live definition does not name what it is for: a device is being attached, or
// has gone. Which ones are loose is on disk before the first is taken and until the last is freed, so that after a crash at any moment
// the live definition, which the driver brings, decides about each. Another device that uses the same image keeps its lock.

// and returns the locks of two.
func (w Wants) and(other Wants) Wants {
	w.Disks = append(slices.Clip(w.Disks), other.without(w).Disks...)
	w.Leases = append(slices.Clip(w.Leases), other.without(w).Leases...)
	return w
}

// without returns the locks that another one does not want.
func (w Wants) without(other Wants) Wants {
	w.Disks = slices.DeleteFunc(slices.Clone(w.Disks), func(d LockedDisk) bool {
		return slices.ContainsFunc(other.Disks, func(o LockedDisk) bool { return o.Path == d.Path })
	})
	w.Leases = slices.DeleteFunc(slices.Clone(w.Leases), func(l NamedLease) bool { return slices.Contains(other.Leases, l) })
	return w
}

// record is what the catalog keeps of locks.
func (w Wants) record() []catalog.Lock {
	var locks []catalog.Lock
	for _, d := range w.Disks {
		locks = append(locks, catalog.Lock{Disk: d.Path, Target: d.Target, Shared: d.Shared})
	}
	for _, l := range w.Leases {
		locks = append(locks, catalog.Lock{Lockspace: l.Lockspace, Key: l.Key, Path: l.Path, Offset: l.Offset})
	}
	return locks
}

// wantsFrom reads what record has made.
func wantsFrom(locks []catalog.Lock) Wants {
	var w Wants
	for _, l := range locks {
		if l.Disk != "" {
			w.Disks = append(w.Disks, LockedDisk{Target: l.Target, Path: l.Disk, Shared: l.Shared})
		} else {
			w.Leases = append(w.Leases, NamedLease{Lockspace: l.Lockspace, Key: l.Key, Path: l.Path, Offset: l.Offset})
		}
	}
	return w
}

// leaseMore takes further locks for a living guest, before a device that needs them is attached. They are loose until its live definition
// says that it is. The caller closes the descriptors, or keeps them for a guest without a process.
func (j *job) leaseMore(s *state, more Wants) ([]HeldLock, error) {
	locks := j.d.inv.cfg.Locks
	have, err := j.wants(s)
	if err != nil {
		return nil, err
	}
	if more = more.without(have); more.none() {
		return nil, nil
	}
	more.OnFailure = have.OnFailure
	if _, err := locks.Prepare(j.ctx, j.d.owner(s), have.and(more)); err != nil {
		return nil, err
	}
	s.loose = s.loose.and(more)
	if err := j.save(s, nil); err != nil {
		return nil, err
	}
	held, err := locks.Acquire(j.ctx, j.d.owner(s), more)
	j.d.inv.cfg.Log.Debug("locks for a device", "guest", s.Name, "gen", s.Generation, "disks", more.Disks, "leases", more.Leases, "error", err)
	if err != nil {
		j.tidy(s) // it may have been granted without our hearing of it
	}
	return held, err
}

// loosen notes that locks and volumes are no longer needed once a definition is the live one.
func (j *job) loosen(s *state, live string) error {
	def, err := domxml.Parse(live)
	if err != nil {
		return err
	}
	used := inUse(s.volumes, def)
	after, err := wantsOf(live, used)
	if err != nil {
		return err
	}
	before, err := j.wants(s)
	if err != nil {
		return err
	}
	s.loose = s.loose.and(before.without(after)).without(after)
	s.volumes = used
	return nil
}

// tidy frees loose locks, if the live definition is that of the driver's present process: after a crash it may be older than what the guest has,
// until the driver was asked. What cannot be freed now stays on disk, for the next time that guest or lock manager are looked at.
func (j *job) tidy(s *state) {
	if s.loose.none() || s.Unknown || j.d.recovered == 0 || j.d.recovered != j.d.inv.cfg.Incarnation() {
		return
	}
	wants, err := j.wants(s)
	if err == nil {
		s.loose = s.loose.without(wants)
		err = j.unleaseSome(s, s.loose)
	}
	if err == nil {
		s.loose = Wants{}
		err = j.save(s, nil)
	}
	if err != nil {
		j.d.inv.cfg.Log.Warn("locks of devices that have gone are still held", "guest", s.Name, "gen", s.Generation, "error", err)
	}
}

// unleaseSome frees some locks of a living guest, after the devices that needed them are gone.
func (j *job) unleaseSome(s *state, some Wants) error {
	if some.none() {
		return nil
	}
	ctx, cancel := detached(j.ctx)
	defer cancel()
	_, err := j.d.inv.cfg.Locks.Release(ctx, j.d.owner(s), Release{Only: &some})
	j.d.inv.cfg.Log.Debug("locks of devices that are not there", "guest", s.Name, "gen", s.Generation, "during", j.what,
		"disks", some.Disks, "leases", some.Leases, "error", err)
	if err != nil {
		return err
	}
	var kept []HeldLock
	for _, h := range j.d.leases {
		if some.names(h) {
			closeAll([]HeldLock{h})
		} else {
			kept = append(kept, h)
		}
	}
	j.d.leases = kept
	return nil
}

// names reports whether a lock that is held is one of those.
func (w Wants) names(h HeldLock) bool {
	if h.Disk != "" {
		return slices.ContainsFunc(w.Disks, func(d LockedDisk) bool { return d.Path == h.Disk })
	}
	return slices.ContainsFunc(w.Leases, func(l NamedLease) bool { return l.Key == h.Resource })
}
