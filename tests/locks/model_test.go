package locks

import (
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lodgevirt/lodge/tests/lockd"
)

// verdict is an answer: libvirt's error code and domain, or zeros.
type verdict struct{ code, domain int }

// Verdicts of virtlockd's program.
var (
	fine       = verdict{}
	noOwner    = verdict{55, 7}
	denied     = verdict{29, 7}
	badFlags   = verdict{8, 7}
	noSpace    = verdict{1, 7}
	busy       = verdict{87, 51}
	notOwner   = verdict{1, 51}
	missing    = verdict{38, 51}
	ownBusy    = verdict{87, 42}
	ownMissing = verdict{38, 42}
)

// party is who owns leases: a process for whom others ask in virtlockd's program, or a guest of our own program that is one.
type party struct {
	owner lockd.Owner
	// guest says that it is one of our own program: it has duplicates of the descriptors of its locks.
	guest bool
	cmd   *exec.Cmd
	// conn is the connection of a process that asks for itself, as virtlockd sees it.
	conn *lockd.Client
}

func (p *party) String() string { return p.owner.Name }

// share is one lease.
type share struct {
	party  *party
	shared bool
}

// thing is a file that can be locked.
type thing struct {
	space, name string
	exists      bool
	// temporary says that the first of the leases has made the lock one whose file goes with it.
	temporary bool
	shares    []share
	// outsider says that a process that is no client has it locked.
	outsider bool
}

func (f *thing) String() string { return f.path() }

func (f *thing) path() string {
	if f.space == "" {
		return f.name
	}
	return filepath.Join(f.space, f.name)
}

// model is what a lock daemon must know and what there must be.
type model struct {
	spaces map[string]bool
	things []*thing
}

// conflict says whether a lock cannot be had.
func (f *thing) conflict(shared bool) bool {
	if f.outsider {
		return true
	}
	return len(f.shares) > 0 && (!shared || !f.shares[0].shared)
}

// acquire is what comes of a try to take a lock in virtlockd's program.
func (m *model) acquire(p *party, f *thing, flags uint32) verdict {
	shared, temporary := flags&lockd.Shared != 0, flags&lockd.Autocreate != 0
	switch {
	case flags&^(lockd.Shared|lockd.Autocreate) != 0:
		return badFlags
	case f.space != "" && !m.spaces[f.space]:
		return noSpace
	case len(f.shares) > 0 && f.conflict(shared):
		return busy
	case !f.exists && !temporary:
		return missing
	case f.outsider:
		return busy
	}
	f.grant(p, shared, temporary)
	return fine
}

func (f *thing) grant(p *party, shared, temporary bool) {
	f.exists = true
	if len(f.shares) == 0 {
		f.temporary = temporary
	}
	f.shares = append(f.shares, share{p, shared})
}

// release is what comes of a release in virtlockd's program.
func (m *model) release(p *party, f *thing) verdict {
	if f.space != "" && !m.spaces[f.space] {
		return noSpace
	}
	if len(f.shares) == 0 {
		return busy
	}
	i := slices.IndexFunc(f.shares, func(s share) bool { return s.party == p })
	if i < 0 {
		return notOwner
	}
	f.drop(i)
	return fine
}

// drop ends a lease.
func (f *thing) drop(i int) {
	f.shares = slices.Delete(f.shares, i, i+1)
	if len(f.shares) == 0 && f.temporary && f.space != "" {
		f.exists = false
	}
}

// create is what comes of making a file.
func (m *model) create(f *thing) verdict {
	switch {
	case f.space != "" && !m.spaces[f.space]:
		return noSpace
	case len(f.shares) > 0:
		return busy
	}
	f.exists = true
	return fine
}

// remove is what comes of removing a file.
func (m *model) remove(f *thing) verdict {
	switch {
	case f.space != "" && !m.spaces[f.space]:
		return noSpace
	case len(f.shares) > 0 || f.outsider:
		return busy
	}
	f.exists = false
	return fine
}

// add is what comes of adding a lockspace that must be new, or need not be.
func (m *model) add(space string, fresh bool) verdict {
	switch {
	case fresh && space == "":
		return noOwner
	case fresh && m.spaces[space]:
		return noSpace
	}
	m.spaces[space] = true
	return fine
}

// take is what comes of a guest's try to take locks in our own program.
func (m *model) take(p *party, temporary bool, shared bool, things []*thing) verdict {
	for _, f := range things {
		// The daemon makes a lockspace known before it looks at locks.
		if f.space != "" {
			m.spaces[f.space] = true
		}
	}
	for _, f := range things {
		if len(f.shares) > 0 && f.conflict(shared) {
			return ownBusy
		}
	}
	for i, f := range things {
		v := fine
		switch {
		case !f.exists && !temporary:
			v = ownMissing
		case f.outsider:
			v = ownBusy
		}
		if v != fine {
			// What was taken before is given back, and its file with it if nobody else has it.
			for _, f := range things[:i] {
				f.undo(temporary)
			}
			return v
		}
	}
	for _, f := range things {
		f.grant(p, shared, temporary)
	}
	return fine
}

// undo is what is left of a file whose lock was taken and given back.
func (f *thing) undo(temporary bool) {
	switch {
	case !temporary || len(f.shares) > 0:
	case f.space == "":
		f.exists = true
	default:
		f.exists = false
	}
}

// leave ends all leases of a party and returns how many there were.
func (m *model) leave(p *party) int {
	n := 0
	for _, f := range m.things {
		for i := len(f.shares) - 1; i >= 0; i-- {
			if f.shares[i].party == p {
				f.drop(i)
				n++
			}
		}
	}
	return n
}

// held lists what a party has.
func (m *model) held(p *party) []*thing {
	var held []*thing
	for _, f := range m.things {
		if slices.ContainsFunc(f.shares, func(s share) bool { return s.party == p }) {
			held = append(held, f)
		}
	}
	return held
}

// sight is what an eye must see of a file.
func (f *thing) sight() lockd.Sight {
	switch {
	case !f.exists:
		return lockd.Missing
	case f.outsider:
		return lockd.Written
	case len(f.shares) == 0:
		return lockd.Free
	case f.shares[0].shared:
		return lockd.Read
	}
	return lockd.Written
}

// leases lists what our daemon must list, sorted.
func (m *model) leases(describe func(o lockd.Owner, classic bool, path string, shared bool, state uint32) string) []string {
	var all []string
	for _, f := range m.things {
		for _, s := range f.shares {
			all = append(all, describe(s.party.owner, !s.party.guest, f.path(), s.shared, lockd.Held))
		}
	}
	slices.Sort(all)
	return all
}

// files lists the files that must be in a lockspace, sorted.
func (m *model) files(space string) []string {
	var names []string
	for _, f := range m.things {
		if f.space == space && f.exists {
			names = append(names, f.name)
		}
	}
	slices.Sort(names)
	return names
}

// difference says in lines what is only in one of two sorted lists; "" is no difference.
func difference(want, got []string) string {
	count := map[string]int{}
	for _, w := range want {
		count[w]--
	}
	for _, g := range got {
		count[g]++
	}
	var out strings.Builder
	for _, line := range slices.Sorted(maps.Keys(count)) {
		switch n := count[line]; {
		case n < 0:
			fmt.Fprintf(&out, "\n  missing: %s", line)
		case n > 0:
			fmt.Fprintf(&out, "\n  too many: %s", line)
		}
	}
	return out.String()
}
