// Package leases knows who holds which lock: a lease is one lock of one owner, and the Table has them all.
//
// An owner is a guest in one generation (one start), or a client of virtlockd's protocol, told apart by its process. A lease ends only by a
// release that names its owner, by an operator's force, or when the owner's process has exited, seen through a pidfd. While an owner
// has no process its leases stay. Nothing is freed on doubt: a lease whose lock cannot be had is listed as unproven or lost, keeps
// others away, and is tried again until it is held or ends. So is one whose lock file has lost its name while it was held.
//
// Every change is in the journal before it is answered. After a restart each lock is taken anew if it is free, or else taken back from
// the owner's process, which inherited it (see package lockspace for the proof), or from a descriptor that is adopted. A process
// that is executed anew keeps its descriptors instead: see Handover and TakeOver.
//
// All methods are safe concurrently. Changes of one owner happen one after another; owners do not wait for each other, and
// listing waits for nobody. Lock order: an owner's turn, then that of
// unknown owners, then place.kernel, then Table.mu. Table.mu is not held across a system call that can
// wait, nor across the journal. A file system that does not answer costs the owners whose locks it has, and nobody else.
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
	"github.com/lodgevirt/lodge/sdk/procfs"
)

// closeWait bounds how long Close waits for work that a file system holds up.
const closeWait = 3 * time.Second

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
	leases  []*lease
	granted int // of the leases, all but pending ones
	process *process.Process
	mending bool
	idle    idleLinks
}

// Table is all leases.
type Table struct {
	journal *journal.Journal
	log     hclog.Logger
	poller  *process.Poller
	done    chan struct{}
	first   chan struct{} // closed when the mender has been round once
	wake    chan struct{} // tells the mender that there is something to mend
	work    sync.WaitGroup

	mu       sync.Mutex
	groups   map[key]*group
	idle     idleList
	index    index
	spaces   map[string]bool
	watches  map[*Watch]bool
	blocked  map[string]int // folders of lock files that do not answer just now
	dead     map[uint64]int // file systems by how many of their folders do not
	next     uint64
	unopened bool // there may be owners whose processes are not watched
	closed   bool
	gate     gate
}

// ErrClosed says that the table was closed.
var ErrClosed = errors.New("lease table is closed")

// Open reads the journal and starts to take back what it lists. Recovered tells when every lock was tried once.
func Open(path string, log hclog.Logger) (*Table, error) { return TakeOver(path, log, Inheritance{}) }

// TakeOver is Open in a process that was executed anew and has kept descriptors of locks, which it takes over: no lock that is described
// truly is let go even for a moment. What is described wrongly is logged and left alone.
func TakeOver(path string, log hclog.Logger, in Inheritance) (*Table, error) {
	boot, err := procfs.BootID()
	if err != nil {
		return nil, err
	}
	poller, err := process.NewPoller()
	if err != nil {
		return nil, err
	}
	j, found, damaged, err := journal.Open(path, boot)
	if err != nil {
		poller.Close()
		return nil, err
	}
	if damaged > 0 {
		log.Warn("journal had damaged places", "path", path, "places", damaged)
	}
	t := &Table{
		journal: j, log: log, poller: poller,
		done: make(chan struct{}), first: make(chan struct{}), wake: make(chan struct{}, 1),
		groups: map[key]*group{}, index: newIndex(), spaces: found.Spaces, watches: map[*Watch]bool{},
		blocked: map[string]int{}, dead: map[uint64]int{}, next: found.Next, unopened: true,
	}
	t.inherit(in, found.Leases)
	for _, l := range found.Sorted() {
		if found.Boot != boot && l.Owner.Process.PID != 0 {
			t.forget(l)
			continue
		}
		t.insert(t.group(keyOf(l.Owner)), newLease(l, Unproven, notTried))
	}
	t.work.Go(func() {
		if err := t.poller.Run(); err != nil {
			t.log.Error("guests' ends are not seen any more", "error", err)
		}
	})
	t.work.Go(t.mend)
	t.work.Go(t.patrol)
	return t, nil
}

// notTried is the detail of a lease after a restart.
const notTried = "not looked for yet"

// forget ends a lease of a process of an earlier boot.
func (t *Table) forget(l journal.Lease) {
	if err := t.journal.Append(journal.Record{Op: journal.Release, Numbers: []uint64{l.Number}}); err != nil {
		t.log.Warn("cannot record release", "error", err)
	}
	sweep(l.Resource)
}

// Recovered waits until each lock of the journal was tried once, or the context ends. A lock on a file system that does not answer
// counts as tried.
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
	t.mu.Unlock()
	t.poller.Close()
	ended := make(chan struct{})
	go func() { t.work.Wait(); close(ended) }()
	stuck := time.NewTimer(closeWait)
	defer stuck.Stop()
	var hung error
	select {
	case <-ended:
	case <-stuck.C:
		hung = errors.New("close leases: a file system does not answer")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, g := range t.groups {
		t.watchNobody(g)
		if g.users > 0 {
			// What hangs may still use its descriptors, which go with this process.
			continue
		}
		for _, l := range g.leases {
			if lock := t.unhold(l); lock != nil {
				lock.Close()
			}
		}
	}
	return errors.Join(hung, t.journal.Close())
}

// spawn starts work that Close waits for, and reports whether the table is open.
func (t *Table) spawn(work func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.work.Go(work)
	return true
}

// group returns the group of a key, made if it is new. Table.mu is held, or nobody else has the table yet.
func (t *Table) group(k key) *group {
	g := t.groups[k]
	if g == nil {
		g = &group{key: k, turn: make(chan struct{}, 1)}
		t.groups[k] = g
	}
	return g
}

// enter waits for an owner's turn, and for the end of a handover. The caller ends it with leave.
func (t *Table) enter(ctx context.Context, k key) (*group, error) {
	if err := t.begin(ctx); err != nil {
		return nil, err
	}
	g := t.group(k)
	g.users++
	t.idle.remove(g)
	t.mu.Unlock()
	select {
	case g.turn <- struct{}{}:
		return g, nil
	default:
		// A context may make its channel only when it is asked for.
	}
	var err error
	select {
	case g.turn <- struct{}{}:
		return g, nil
	case <-ctx.Done():
		err = fmt.Errorf("wait for another change of the same owner: %w", ctx.Err())
	case <-t.done:
		err = ErrClosed
	}
	t.unuse(g)
	return nil, err
}

// leave ends an owner's turn. The turn ends late: a group that is given up must not get what the next change attaches.
func (t *Table) leave(g *group) {
	t.unuse(g)
	<-g.turn
}

// unuse gives up a group that has nothing left and nobody waiting. One whose process is watched stays for a while, because its owner
// may come back.
func (t *Table) unuse(g *group) {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.ended()
	g.users--
	if g.users > 0 || len(g.leases) > 0 {
		return
	}
	if g.process != nil && !t.closed {
		g = t.idle.add(g)
	}
	if g != nil {
		t.watchNobody(g)
		delete(t.groups, g.key)
	}
}

// watchNobody ends the watch of the group's process; Table.mu is held.
func (t *Table) watchNobody(g *group) {
	if g.process != nil {
		t.poller.Remove(g.process)
		g.process.Close()
		g.process = nil
	}
}

// List returns all leases that were granted, in the order of their numbers.
func (t *Table) List() []Info {
	all, _ := t.Page(0, 0)
	return all
}

// Page returns at most limit leases that were granted and have numbers above after, in the order of their numbers, and whether there
// are more. A limit of 0 is none.
func (t *Table) Page(after uint64, limit int) (page []Info, more bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.index.after(after) {
		if l.gone || l.state == Pending {
			continue
		}
		if limit > 0 && len(page) == limit {
			return page, true
		}
		page = append(page, l.info())
	}
	return page, false
}

// Counts is the table at a glance.
type Counts struct {
	// Held, Unproven and Lost count leases by state.
	Held, Unproven, Lost int
	// Owners have leases.
	Owners int
}

// Counts counts the leases that were granted. It is asked for every other second, so it counts nothing anew.
func (t *Table) Counts() Counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := &t.index.states
	return Counts{Held: n[Held], Unproven: n[Unproven], Lost: n[Lost], Owners: t.index.owners}
}

func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }
