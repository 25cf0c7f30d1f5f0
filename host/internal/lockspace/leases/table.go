// Package leases knows who holds which lock: a lease is one lock of one owner, and the Table has them all.
//
// An owner is a guest in one generation (one start), or a client of virtlockd's protocol, told apart by its process. A lease ends only by a
// release that names its owner, or when the owner's process has exited, seen through a pidfd. While an owner has no process its
// leases stay. Nothing is freed on doubt: a lease whose lock cannot be had is listed as unproven or lost, keeps others away,
// and is tried again until it is held or ends.
//
// Every change is in the journal before it is answered. After a restart each lock is taken anew if it is free, or else taken back from
// the owner's process, which inherited it (see package lockspace for the proof), or from a descriptor that is adopted.
//
// All methods are safe concurrently. Changes of one owner happen one after another; owners do not wait for each other, and
// listing waits for nobody. Lock order: an owner's turn, then Table.mu. Table.mu is not held across a system call that can
// wait, nor across the journal.
package leases

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/journal"
	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

// Owner is who holds leases.
type Owner = journal.Owner

// State is how sure a lease is.
type State uint8

// States of a lease.
const (
	// Pending is being taken; the owner has not been told yet.
	Pending State = iota
	// Held means that the table has a descriptor of the description that holds the lock.
	Held
	// Unproven means that the lock is held through a descriptor that the table does not have, probably the owner's.
	Unproven
	// Lost means that somebody else holds the lock, or that it cannot be taken.
	Lost
)

// String returns the state as a word.
func (s State) String() string {
	return [...]string{"pending", "held", "unproven", "lost"}[s]
}

// Info is a copy of what the table knows about a lease.
type Info struct {
	journal.Lease
	// State is how sure it is.
	State State
	// Detail says why it is not held; empty if it is.
	Detail string
	// Kind is how the kernel keeps the lock, if it is held.
	Kind lockspace.Kind
}

// lease is one entry. It is guarded by Table.mu; its lock is used by whoever has the owner's turn.
type lease struct {
	journal.Lease
	state  State
	detail string
	hold   *hold
}

// hold is a lock that leases rest on: one, or several of classic owners that share a file, as virtlockd has one descriptor for them.
type hold struct {
	lock   *lockspace.Lock
	leases int // guarded by Table.mu
}

// key tells owners apart.
type key struct {
	uuid       uuid.UUID
	generation uint64
	pid        int32 // of classic owners only, which have nothing else
	unknown    bool
}

func keyOf(o Owner) key {
	switch {
	case o.Unknown:
		return key{unknown: true}
	case o.Classic:
		return key{pid: o.Process.PID}
	}
	return key{uuid: o.UUID, generation: o.Generation}
}

// group is the leases of one owner.
type group struct {
	key  key
	turn chan struct{} // holds a token while somebody changes the group

	// Guarded by Table.mu.
	users   int
	leases  map[uint64]*lease
	process *process.Process
}

// Table is all leases.
type Table struct {
	journal *journal.Journal
	log     hclog.Logger
	done    chan struct{}
	first   chan struct{} // closed when the mender has been round once
	work    sync.WaitGroup

	mu     sync.Mutex
	groups map[key]*group
	byPath map[string]map[uint64]*lease
	byFile map[lockspace.FileID]*lease // one of those that hold a lock on the file
	shared map[string]*hold            // of classic owners, by path
	spaces map[string]bool
	next   uint64
	closed bool
	gate   gate
}

// ErrClosed says that the table was closed.
var ErrClosed = errors.New("lease table is closed")

// Open reads the journal and starts to take back what it lists. Recovered tells when every lock was tried once.
func Open(path string, log hclog.Logger) (*Table, error) { return TakeOver(path, log, Inheritance{}) }

// TakeOver is Open in a process that was executed anew and has kept descriptors of locks, which it takes over: no lock that is described
// truly is let go even for a moment. What is described wrongly is logged and left alone.
func TakeOver(path string, log hclog.Logger, in Inheritance) (*Table, error) {
	boot, err := process.Boot()
	if err != nil {
		return nil, err
	}
	j, found, damaged, err := journal.Open(path, boot)
	if err != nil {
		return nil, err
	}
	if damaged > 0 {
		log.Warn("journal had damaged lines", "path", path, "lines", damaged)
	}
	t := &Table{
		journal: j, log: log,
		done: make(chan struct{}), first: make(chan struct{}),
		groups: map[key]*group{}, byPath: map[string]map[uint64]*lease{}, byFile: map[lockspace.FileID]*lease{},
		shared: map[string]*hold{}, spaces: found.Spaces, next: found.Next,
	}
	t.take(in, found.Leases)
	for _, l := range found.Leases {
		if found.Boot != boot && l.Owner.Process.PID != 0 {
			t.forget(l)
			continue
		}
		t.insert(t.group(keyOf(l.Owner)), &lease{Lease: l, state: Unproven, detail: "not looked for yet"})
	}
	t.work.Go(t.mend)
	return t, nil
}

// forget ends a lease of a process of an earlier boot.
func (t *Table) forget(l journal.Lease) {
	if err := t.journal.Append(journal.Record{Op: journal.Release, Numbers: []uint64{l.Number}}); err != nil {
		t.log.Warn("cannot record release", "error", err)
	}
	sweep(l.Resource)
}

// Recovered waits until each lock of the journal was tried once, or the context ends.
func (t *Table) Recovered(ctx context.Context) error {
	select {
	case <-t.first:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("recover locks: %w", ctx.Err())
	}
}

// Close ends all watching and closes the descriptors without dropping a lock that somebody else has a duplicate of. The journal
// keeps the leases for the next Open. After Handover it does nothing.
func (t *Table) Close() error {
	t.mu.Lock()
	if t.closed || t.gate.shut != nil {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	close(t.done)
	for _, g := range t.groups {
		g.watchNobody()
	}
	t.mu.Unlock()
	t.work.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, g := range t.groups {
		for _, l := range g.leases {
			if lock := t.unhold(l); lock != nil {
				lock.Close()
			}
		}
	}
	return t.journal.Close()
}

// group returns the group of a key, made if it is new. Table.mu is held, or nobody else has the table yet.
func (t *Table) group(k key) *group {
	g := t.groups[k]
	if g == nil {
		g = &group{key: k, turn: make(chan struct{}, 1), leases: map[uint64]*lease{}}
		t.groups[k] = g
	}
	return g
}

// enter waits for an owner's turn, and for the end of a handover. The caller ends it with leave.
func (t *Table) enter(ctx context.Context, k key) (g *group, leave func(), err error) {
	if err := t.begin(ctx); err != nil {
		return nil, nil, err
	}
	t.mu.Lock()
	g = t.group(k)
	g.users++
	t.mu.Unlock()
	select {
	case g.turn <- struct{}{}:
		// The turn ends late: a group that was emptied must not lose the process that the next change attaches.
		return g, func() { t.unuse(g); <-g.turn; t.end() }, nil
	case <-ctx.Done():
		err = fmt.Errorf("wait for another change of the same owner: %w", ctx.Err())
	case <-t.done:
		err = ErrClosed
	}
	t.unuse(g)
	t.end()
	return nil, nil, err
}

// unuse forgets a group that has nothing left and nobody waiting.
func (t *Table) unuse(g *group) {
	t.mu.Lock()
	defer t.mu.Unlock()
	g.users--
	if len(g.leases) == 0 {
		g.watchNobody()
	}
	if g.users == 0 && len(g.leases) == 0 && t.groups[g.key] == g {
		delete(t.groups, g.key)
	}
}

// watchNobody ends the watch of the group's process; Table.mu is held.
func (g *group) watchNobody() {
	if g.process != nil {
		g.process.Close()
		g.process = nil
	}
}

// insert adds a lease to the indexes; Table.mu is held, or nobody else has the table yet.
func (t *Table) insert(g *group, l *lease) {
	path := l.Resource.Path()
	if t.byPath[path] == nil {
		t.byPath[path] = map[uint64]*lease{}
	}
	t.byPath[path][l.Number] = l
	g.leases[l.Number] = l
}

// remove takes a lease out of the indexes; Table.mu is held.
func (t *Table) remove(g *group, l *lease) {
	path := l.Resource.Path()
	delete(g.leases, l.Number)
	delete(t.byPath[path], l.Number)
	if len(t.byPath[path]) == 0 {
		delete(t.byPath, path)
	}
}

// List returns all leases that were granted, in no order.
func (t *Table) List() []Info {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []Info
	for _, g := range t.groups {
		for _, l := range g.leases {
			if l.state != Pending {
				out = append(out, l.info())
			}
		}
	}
	return out
}

// Counts is the table at a glance.
type Counts struct {
	// Held, Unproven and Lost count leases by state.
	Held, Unproven, Lost int
	// Owners have leases.
	Owners int
}

// Counts counts the leases that were granted. It is asked for every other second, so it copies nothing.
func (t *Table) Counts() Counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	var n [Lost + 1]int
	owners := 0
	for _, g := range t.groups {
		granted := len(g.leases)
		for _, l := range g.leases {
			n[l.state]++
			if l.state == Pending {
				granted--
			}
		}
		if granted > 0 {
			owners++
		}
	}
	return Counts{Held: n[Held], Unproven: n[Unproven], Lost: n[Lost], Owners: owners}
}

// info copies a lease; Table.mu is held.
func (l *lease) info() Info {
	i := Info{Lease: l.Lease, State: l.state, Detail: l.detail}
	if l.hold != nil {
		i.Kind = l.hold.lock.Kind()
	}
	return i
}

// settle writes down what became of the try to get a lease's lock.
func (t *Table) settle(l *lease, lock *lockspace.Lock, state State, detail string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unhold(l)
	l.state, l.detail = state, detail
	if lock != nil {
		t.rest(l, &hold{lock: lock})
	}
}

// rest has a lease rest on a lock; Table.mu is held.
func (t *Table) rest(l *lease, h *hold) {
	h.leases++
	l.hold = h
	t.byFile[h.lock.File()] = l
	if l.Owner.Classic && l.Resource.Mode == lockspace.Shared {
		t.shared[l.Resource.Path()] = h
	}
}

// unhold takes a lease's lock from it, and returns the lock if no other lease rests on it; Table.mu is held.
func (t *Table) unhold(l *lease) *lockspace.Lock {
	h := l.hold
	if h == nil {
		return nil
	}
	l.hold = nil
	h.leases--
	if t.byFile[h.lock.File()] == l {
		delete(t.byFile, h.lock.File())
		for _, other := range t.byPath[l.Resource.Path()] {
			if other.hold != nil && other.hold.lock.File() == h.lock.File() {
				t.byFile[h.lock.File()] = other
				break
			}
		}
	}
	if h.leases > 0 {
		return nil
	}
	if t.shared[l.Resource.Path()] == h {
		delete(t.shared, l.Resource.Path())
	}
	return h.lock
}

func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }
