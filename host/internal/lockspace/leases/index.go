package leases

import (
	"cmp"
	"slices"
	"sync"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/journal"
)

// lease is one entry. It is guarded by Table.mu; its lock is used by whoever has the owner's turn.
type lease struct {
	journal.Lease
	path   string
	state  State
	detail string
	hold   *hold
	// mislaid says that the path does not lead to the locked file any more.
	mislaid bool
	// gone says that the lease has left the table.
	gone bool

	group *group
	at    int // its place in the group's leases
	place *place
	// before and behind are its neighbours in the place.
	before, behind *lease
}

func newLease(l journal.Lease, state State, detail string) *lease {
	return &lease{Lease: l, path: l.Resource.Path(), state: state, detail: detail}
}

// info copies a lease; Table.mu is held.
func (l *lease) info() Info {
	i := Info{Lease: l.Lease, State: l.state, Detail: l.detail}
	if l.hold != nil {
		i.Kind = l.hold.lock.Kind()
	}
	return i
}

// ails reports whether the mender has to look after a lease.
func (l *lease) ails() bool { return l.state > Held || l.mislaid }

// hold is a lock that leases rest on: one, or several of classic owners that share a file, as virtlockd has one descriptor for them.
type hold struct {
	lock   *lockspace.Lock
	leases int // guarded by Table.mu
}

// place is the leases of one path: one exclusive lease or any number of shared ones, unless the journal was damaged. Exclusive ones are
// in front. As in virtlockd, the first lease says for all that follow it whether the file goes with the last.
type place struct {
	// kernel is held while the kernel is asked for a shared lock or given one back: whoever gives back the last one has it alone for a
	// moment, to remove the file, and nobody may be refused for that. It comes after an owner's turn and before Table.mu.
	kernel sync.Mutex

	first  *lease
	count  int
	shared *hold // of classic owners
}

// claim begins what the kernel is asked for a lease's lock; yield ends it.
func (l *lease) claim() {
	if l.Resource.Mode == lockspace.Shared {
		l.place.kernel.Lock()
	}
}

func (l *lease) yield() {
	if l.Resource.Mode == lockspace.Shared {
		l.place.kernel.Unlock()
	}
}

// index finds leases. It is guarded by Table.mu.
type index struct {
	// all are in the order of their numbers, with those that have gone, which are swept out now and then.
	all  []*lease
	dead int

	places  map[string]*place
	files   map[lockspace.FileID]*lease // one of those that hold a lock on the file
	states  [Lost + 1]int
	mislaid int
	owners  int
}

func newIndex() index {
	return index{places: map[string]*place{}, files: map[lockspace.FileID]*lease{}}
}

func byNumber(l *lease, number uint64) int { return cmp.Compare(l.Number, number) }

// after returns the leases with higher numbers, with those that have gone.
func (x *index) after(number uint64) []*lease {
	i, found := slices.BinarySearchFunc(x.all, number, byNumber)
	if found {
		i++
	}
	return x.all[i:]
}

// find returns the lease of a number, or nil.
func (x *index) find(number uint64) *lease {
	i, found := slices.BinarySearchFunc(x.all, number, byNumber)
	if !found || x.all[i].gone {
		return nil
	}
	return x.all[i]
}

// insert adds a lease; Table.mu is held, or nobody else has the table yet.
func (t *Table) insert(g *group, l *lease) {
	x := &t.index
	l.group, l.at = g, len(g.leases)
	g.leases = append(g.leases, l)
	x.enter(l)
	p := x.places[l.path]
	if p == nil {
		p = &place{}
		x.places[l.path] = p
	}
	p.add(l)
	x.states[l.state]++
	if l.state != Pending {
		t.grantedBy(g, 1)
	}
}

// enter puts a lease in its place among all.
func (x *index) enter(l *lease) {
	if n := len(x.all); n == 0 || x.all[n-1].Number < l.Number {
		x.all = append(x.all, l)
		return
	}
	i, found := slices.BinarySearchFunc(x.all, l.Number, byNumber)
	if found {
		// Only a lease that has gone can have the number.
		x.all[i] = l
		x.dead--
		return
	}
	x.all = slices.Insert(x.all, i, l)
}

func (p *place) add(l *lease) {
	l.place = p
	p.count++
	if p.first == nil || l.Resource.Mode == lockspace.Exclusive {
		l.behind = p.first
		if p.first != nil {
			p.first.before = l
		}
		p.first = l
		return
	}
	l.Resource.Temporary = p.first.Resource.Temporary
	// Behind the first, which may be exclusive. With several exclusive ones it may come between them, which does no harm.
	l.before, l.behind = p.first, p.first.behind
	if l.behind != nil {
		l.behind.before = l
	}
	p.first.behind = l
}

// remove takes a lease out; Table.mu is held.
func (t *Table) remove(l *lease) {
	x, g, p := &t.index, l.group, l.place
	t.mislay(l, false)
	l.gone = true
	x.dead++
	if x.dead > 64 && x.dead > len(x.all)/2 {
		x.all = slices.DeleteFunc(x.all, func(l *lease) bool { return l.gone })
		x.dead = 0
	}
	last := len(g.leases) - 1
	g.leases[l.at] = g.leases[last]
	g.leases[l.at].at = l.at
	g.leases[last] = nil
	g.leases = g.leases[:last]
	p.count--
	if l.before != nil {
		l.before.behind = l.behind
	} else {
		p.first = l.behind
	}
	if l.behind != nil {
		l.behind.before = l.before
	}
	if p.count == 0 {
		delete(x.places, l.path)
	}
	l.before, l.behind = nil, nil
	x.states[l.state]--
	if l.state != Pending {
		t.grantedBy(g, -1)
	}
}

// grantedBy counts granted leases of an owner; Table.mu is held.
func (t *Table) grantedBy(g *group, change int) {
	if g.granted == 0 {
		t.index.owners++
	}
	g.granted += change
	if g.granted == 0 {
		t.index.owners--
	}
}

// become changes a lease's state, and tells whoever watches; Table.mu is held.
func (t *Table) become(l *lease, state State, detail string) {
	l.detail = detail
	if l.state == state {
		return
	}
	was := l.state
	t.index.states[was]--
	t.index.states[state]++
	l.state = state
	if was == Pending {
		t.grantedBy(l.group, 1)
		return
	}
	t.publish(Change{Number: l.Number, State: state})
}

// rest has a lease rest on a lock; Table.mu is held.
func (t *Table) rest(l *lease, h *hold) {
	id := h.lock.File()
	h.leases++
	l.hold = h
	t.mislay(l, false)
	t.index.files[id] = l
	if l.Owner.Classic && l.Resource.Mode == lockspace.Shared {
		l.place.shared = h
	}
}

// unhold takes a lease's lock from it, and returns the lock if no other lease rests on it; Table.mu is held.
func (t *Table) unhold(l *lease) *lockspace.Lock {
	h := l.hold
	if h == nil {
		return nil
	}
	id := h.lock.File()
	l.hold = nil
	h.leases--
	if t.index.files[id] == l {
		delete(t.index.files, id)
		for other := l.place.first; other != nil; other = other.behind {
			if other.hold != nil && other.hold.lock.File() == id {
				t.index.files[id] = other
				break
			}
		}
	}
	if h.leases > 0 {
		return nil
	}
	if l.place.shared == h {
		l.place.shared = nil
	}
	return h.lock
}

// conflict returns a lease that keeps a new one of the same path away, or nil. Table.mu is held.
func (t *Table) conflict(path string, mode lockspace.Mode) *lease {
	p := t.index.places[path]
	if p == nil || (mode == lockspace.Shared && p.first.Resource.Mode == lockspace.Shared) {
		return nil
	}
	return p.first
}

// find returns a lease of a group at a path that matches, or nil. Table.mu is held.
func (t *Table) find(g *group, path string, match func(*lease) bool) *lease {
	p := t.index.places[path]
	if p == nil {
		return nil
	}
	if len(g.leases) < p.count {
		for _, l := range g.leases {
			if l.place == p && match(l) {
				return l
			}
		}
		return nil
	}
	for l := p.first; l != nil; l = l.behind {
		if l.group == g && match(l) {
			return l
		}
	}
	return nil
}
