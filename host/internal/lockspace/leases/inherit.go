package leases

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/journal"
	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

// heir brings together what a process inherited and what the journal says. Nobody else has the table yet.
type heir struct {
	*Table
	// found are the journal's leases that nothing was found for yet.
	found  map[uint64]journal.Lease
	byPath map[string][]uint64
	byFile map[lockspace.FileID][]uint64 // made when it is needed
	holds  map[int]*hold
}

// identifyFor bounds how long the files of the journal's leases are looked for when nothing describes a lock.
const identifyFor = 2 * time.Second

// inherit enters all that was inherited, and removes what it belongs to from the journal's leases.
func (t *Table) inherit(in Inheritance, found map[uint64]journal.Lease) {
	if len(in.Locks) == 0 && !in.Complete && len(in.Spaces) == 0 {
		return
	}
	h := &heir{Table: t, found: found, byPath: map[string][]uint64{}, holds: map[int]*hold{}}
	for n, l := range found {
		h.byPath[l.Resource.Path()] = append(h.byPath[l.Resource.Path()], n)
	}
	for _, numbers := range h.byPath {
		slices.Sort(numbers)
	}
	for _, space := range in.Spaces {
		if !t.spaces[space] && space != "" {
			h.note(journal.Record{Op: journal.Space, Space: space})
			t.spaces[space] = true
		}
	}
	// What is described goes first, so that it is not taken for a lock that nobody describes.
	locks := slices.Clone(in.Locks)
	slices.SortStableFunc(locks, func(a, b Inherited) int { return cmp.Compare(a.doubt(), b.doubt()) })
	for _, i := range locks {
		h.enter(i)
	}
	if in.Complete {
		var ended []uint64
		for n := range found {
			ended = append(ended, n)
			delete(found, n)
		}
		h.note(journal.Record{Op: journal.Release, Numbers: ended})
	}
	h.tidy()
}

// doubt orders descriptions by how little they say.
func (i Inherited) doubt() int {
	switch {
	case i.Number != 0:
		return 0
	case len(i.Owners) > 0:
		return 1
	}
	return 2
}

// note records something that is true already.
func (h *heir) note(rec journal.Record) {
	if err := h.journal.Append(rec); err != nil {
		h.log.Warn("cannot record an inherited lock", "error", err)
	}
}

// enter makes the leases of one inherited descriptor.
func (h *heir) enter(i Inherited) {
	if l, ok := h.found[i.Number]; ok && i.Resource.Name == "" {
		i.Resource = l.Resource
	}
	on := h.holds[i.FD]
	if on == nil {
		inherit := lockspace.Inherit
		if i.Exclusive {
			inherit = lockspace.InheritExclusive
		}
		lock, err := inherit(i.FD, i.Resource)
		if err != nil {
			h.log.Warn("inherited descriptor carries no lock", "fd", i.FD, "path", i.Resource.Path(), "error", err)
		} else {
			on = &hold{lock: lock}
			h.holds[i.FD] = on
			i.Resource.Mode = lock.Resource().Mode
		}
	} else {
		i.Resource.Mode = on.lock.Resource().Mode
	}
	for _, fd := range i.Others {
		lockspace.KeepOpen(fd)
	}
	switch l, ok := h.found[i.Number]; {
	case ok && l.Resource.Path() == i.Resource.Path():
		h.has(l, on)
	case len(i.Owners) > 0:
		for _, o := range i.Owners {
			h.owned(i, o, on)
		}
	case on != nil:
		h.orphan(i, on)
	}
}

// has enters a lease of the journal.
func (h *heir) has(l journal.Lease, on *hold) {
	delete(h.found, l.Number)
	h.insertHeld(l, on)
}

func (h *heir) insertHeld(l journal.Lease, on *hold) {
	entry := newLease(l, Held, "")
	if on == nil {
		entry.state, entry.detail = Unproven, notTried
	} else {
		entry.Resource.Mode = on.lock.Resource().Mode
	}
	h.insert(h.group(keyOf(l.Owner)), entry)
	if on != nil {
		h.rest(entry, on)
	}
}

// owned enters one lease of an owner: the journal's, or else a new one, unless the owner's process is gone.
func (h *heir) owned(i Inherited, o Owner, on *hold) {
	for _, n := range h.byPath[i.Resource.Path()] {
		if l, ok := h.found[n]; ok && sameOwner(l.Owner, o) {
			h.has(l, on)
			return
		}
	}
	if o.Process.PID != 0 && o.Process.StartTime == 0 {
		id, err := process.Find(o.Process.PID)
		if errors.Is(err, process.ErrGone) {
			return
		}
		if err != nil {
			h.log.Warn("cannot tell the owner of an inherited lock", "pid", o.Process.PID, "error", err)
			o = Owner{Unknown: true}
		}
		o.Process = id
	}
	h.fresh(i, o, on)
}

// sameOwner reports whether what is known of an owner is true of one of the journal's.
func sameOwner(known, o Owner) bool {
	if keyOf(known) == keyOf(o) {
		return true
	}
	p, q := known.Process, o.Process
	return o.Classic && p.PID != 0 && p.PID == q.PID && (q.StartTime == 0 || q.StartTime == p.StartTime)
}

// orphan finds leases for a lock that nobody describes.
func (h *heir) orphan(i Inherited, on *hold) {
	for _, n := range h.candidates(i, on) {
		l, ok := h.found[n]
		if !ok || l.Resource.Mode != i.Resource.Mode {
			continue
		}
		h.has(l, on)
		// Only classic owners that share a file share a descriptor too.
		if !l.Owner.Classic || i.Resource.Mode != lockspace.Shared {
			return
		}
	}
	if on.leases > 0 || (h.index.files[on.lock.File()] != nil && i.Resource.Mode == lockspace.Exclusive) {
		return
	}
	h.log.Warn("lock of an unknown owner", "path", i.Resource.Path(), "mode", i.Resource.Mode)
	h.fresh(i, Owner{Unknown: true}, on)
}

// candidates returns leases of the journal whose lock it may be, in order: those of its path, or else those whose paths lead to the file,
// because the kernel calls files by their real paths.
func (h *heir) candidates(i Inherited, on *hold) []uint64 {
	numbers := h.byPath[i.Resource.Path()]
	if slices.ContainsFunc(numbers, func(n uint64) bool { _, ok := h.found[n]; return ok }) {
		return numbers
	}
	if h.byFile == nil {
		h.identify()
	}
	return h.byFile[on.lock.File()]
}

// identify looks for the files of the leases that nothing was found for. A file system that does not answer costs them this chance only.
func (h *heir) identify() {
	type answer struct {
		path string
		file lockspace.FileID
	}
	paths := map[string]bool{}
	for _, l := range h.found {
		paths[l.Resource.Path()] = true
	}
	answers := make(chan answer, len(paths))
	h.spawn(func() {
		defer close(answers)
		for path := range paths {
			if id, err := lockspace.Identify(path); err == nil {
				answers <- answer{path, id}
			}
		}
	})
	h.byFile = map[lockspace.FileID][]uint64{}
	late := time.NewTimer(identifyFor)
	defer late.Stop()
	for {
		select {
		case a, more := <-answers:
			if !more {
				return
			}
			h.byFile[a.file] = append(h.byFile[a.file], h.byPath[a.path]...)
		case <-late.C:
			return
		}
	}
}

// fresh enters a lease that the journal does not know, and records it.
func (h *heir) fresh(i Inherited, o Owner, on *hold) {
	l := journal.Lease{Number: i.Number, Owner: o, Resource: i.Resource, Since: i.Since}
	if _, used := h.found[l.Number]; used || l.Number == 0 || len(i.Owners) > 1 || l.Number < h.next {
		l.Number = h.next
	}
	h.next = max(h.next, l.Number+1)
	if l.Since.IsZero() {
		l.Since = now()
	}
	h.insertHeld(l, on)
	h.note(journal.Record{Op: journal.Acquire, Owner: o, Leases: []journal.Lease{l}})
}

// tidy drops locks whose owners are all gone, and closes second descriptors of the same description.
func (h *heir) tidy() {
	for _, on := range h.holds {
		switch {
		case on.leases > 0:
		case h.index.files[on.lock.File()] != nil:
			on.lock.Close()
		default:
			h.finish(on.lock)
		}
	}
}
