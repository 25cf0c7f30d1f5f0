// Package journal makes changes of a Ceph pool that take several steps whole, although whoever makes them may be killed at any moment.
//
// librbd makes, renames, shrinks and removes images in steps, and what a crash leaves in between is half an image. So an image is made under a
// name that no client sees, and given its name last; one that is removed loses its name first; and before the first step an entry in
// an object of the pool says what is to be done. An entry is removed when its work is done, or undone. The next Sweep, by any host,
// settles entries whose owners are gone: it finishes what had its last word, and takes back the rest.
//
// An owner is a connection of a driver's process. It has a lock on the object that ends by itself if it is not renewed, whose cookie names the process:
// on the same machine its end is known at once, elsewhere within lockTime. Who is found gone is fenced first, so that nothing
// it had under way is done later, and so that Ceph does not take its images for open.
//
// A Journal belongs to one connection, is safe concurrently, and its methods block as Ceph does.
package journal

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/ceph"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/define"
)

const (
	// Object is the object of a pool that has the entries.
	Object = "lodge_journal"
	// ownerPrefix and workPrefix begin the names of its values.
	ownerPrefix, workPrefix = "owner.", "work."
	// lockTime is how long an owner's lock lasts that is not renewed, and renewEvery when it is.
	lockTime, renewEvery = time.Minute, 15 * time.Second
	// sweepLock is the lock of who settles entries.
	sweepLock = "sweep"
)

// Kind is a kind of work.
type Kind string

// Kinds of work.
const (
	// Make makes the image Name, as Hidden until it is complete.
	Make Kind = "make"
	// Remove removes the image Name, as Hidden once it has lost its name.
	Remove Kind = "remove"
	// Shrink sets the capacity of the image Name, whose id is ID, to Size bytes.
	Shrink Kind = "shrink"
)

// Entry says what is to be done.
type Entry struct {
	Kind Kind
	Name string
	// Hidden is the name that no client sees; Begin gives it.
	Hidden string
	// Parent and Snapshot are what was made for a clone, and goes if it is not made.
	Parent, Snapshot string `json:",omitempty"`
	// Zero says that an image that is removed is overwritten before.
	Zero bool   `json:",omitempty"`
	ID   string `json:",omitempty"`
	Size uint64 `json:",omitempty"`
	// Owner is the owner's id; Begin gives it.
	Owner string
}

// Journal is a connection's.
type Journal struct {
	pool ceph.Pool
	log  hclog.Logger
	id   string
	self string

	stop   chan struct{}
	beater sync.WaitGroup

	claiming sync.Mutex // held while the owner is made known; before mu
	mu       sync.Mutex // guards all below
	claimed  bool
	active   map[string]bool
}

// New makes the journal of a connection. Nothing is written before the first change.
func New(pool ceph.Pool, log hclog.Logger) (*Journal, error) {
	self, err := thisProcess()
	if err != nil {
		return nil, err
	}
	return &Journal{pool: pool, log: log, id: token(), self: self.String(), stop: make(chan struct{}), active: map[string]bool{}}, nil
}

// token is a random name.
func token() string {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

// Claim makes the owner known. It is to be called before any change, and does nothing the second time.
func (j *Journal) Claim() error {
	j.claiming.Lock()
	defer j.claiming.Unlock()
	j.mu.Lock()
	claimed := j.claimed
	j.mu.Unlock()
	if claimed {
		return nil
	}
	if err := j.show(); err != nil {
		return err
	}
	values, err := j.pool.AllValues(Object, ownerPrefix)
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	if _, err := j.gone(values); err != nil {
		return err
	}
	j.mu.Lock()
	j.claimed = true
	j.mu.Unlock()
	j.beater.Go(j.beat)
	return nil
}

// beat renews the owner's lock.
func (j *Journal) beat() {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-j.stop:
			return
		case <-tick.C:
		}
		if err := j.show(); err != nil {
			j.log.Warn("lock of the journal could not be renewed", "error", err)
		}
	}
}

// show takes or renews the owner's lock, and lists the owner, also when a long silence has had it taken off the list.
func (j *Journal) show() error {
	if err := j.pool.Lock(Object, ownerPrefix+j.id, j.self, lockTime); err != nil {
		return fmt.Errorf("lock journal: %w", err)
	}
	if err := j.pool.SetValues(Object, map[string][]byte{ownerPrefix + j.id: []byte(j.self)}); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// Close ends the owner. Entries that it leaves are settled by the next Sweep.
func (j *Journal) Close() {
	close(j.stop)
	j.beater.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.claimed {
		return
	}
	err := j.pool.Unlock(Object, ownerPrefix+j.id, j.self)
	if len(j.active) == 0 && err == nil {
		err = j.pool.RemoveValues(Object, ownerPrefix+j.id)
	}
	if err != nil {
		j.log.Warn("journal could not be closed", "error", err)
	}
}

// Begin writes an entry, and gives it its hidden name.
func (j *Journal) Begin(e Entry) (*Entry, error) {
	if err := j.Claim(); err != nil {
		return nil, err
	}
	e.Owner, e.Hidden = j.id, define.Hidden+token()
	j.mark(&e, true)
	if err := j.write(&e); err != nil {
		j.mark(&e, false)
		return nil, err
	}
	return &e, nil
}

func (j *Journal) write(e *Entry) error {
	text, err := json.Marshal(e)
	if err == nil {
		err = j.pool.SetValues(Object, map[string][]byte{e.key(): text})
	}
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// End ends an entry whose work is done.
func (j *Journal) End(e *Entry) error {
	defer j.mark(e, false)
	if err := j.pool.RemoveValues(Object, e.key()); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// Undo settles an entry whose work has failed.
func (j *Journal) Undo(e *Entry) error {
	defer j.mark(e, false)
	return j.settle(e)
}

// Leave leaves an entry to the next Sweep.
func (j *Journal) Leave(e *Entry) { j.mark(e, false) }

// mark notes whether somebody works on an entry.
func (j *Journal) mark(e *Entry, busy bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if busy {
		j.active[e.Hidden] = true
		return
	}
	delete(j.active, e.Hidden)
}

func (j *Journal) busy(e *Entry) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.active[e.Hidden]
}

func (e *Entry) key() string { return workPrefix + e.Hidden }

// Sweep settles what nobody works on any more. One that cannot be settled now stays for the next time.
func (j *Journal) Sweep() error {
	values, err := j.pool.AllValues(Object, "")
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	delete(values, ownerPrefix+j.id)
	if len(values) == 0 {
		return nil
	}
	entries := j.entries(values)
	for _, e := range entries { // an owner that is not listed may be one that was silent for long
		if key := ownerPrefix + e.Owner; values[key] == nil {
			values[key] = []byte{}
		}
	}
	gone, err := j.gone(values)
	if err != nil {
		return err
	}
	todo := slices.DeleteFunc(entries, func(e *Entry) bool { return !gone[e.Owner] && (e.Owner != j.id || j.busy(e)) })
	if len(todo) == 0 && len(gone) == 0 {
		return nil
	}
	err = j.pool.Lock(Object, sweepLock, j.id, lockTime)
	if errors.Is(err, unix.EBUSY) {
		return nil // somebody else does it
	}
	if err != nil {
		return fmt.Errorf("lock journal: %w", err)
	}
	kept := map[string]bool{}
	for _, e := range todo {
		if settleErr := j.settle(e); settleErr != nil {
			err = errors.Join(err, fmt.Errorf("settle %s of image %q: %w", e.Kind, e.Name, settleErr))
			kept[e.Owner] = true
		}
	}
	for id := range gone {
		if !kept[id] {
			err = errors.Join(err, j.pool.RemoveValues(Object, ownerPrefix+id))
		}
	}
	return errors.Join(err, j.pool.Unlock(Object, sweepLock, j.id))
}

// entries reads the entries.
func (j *Journal) entries(values map[string][]byte) []*Entry {
	var all []*Entry
	for key, text := range values {
		e := &Entry{}
		if !strings.HasPrefix(key, workPrefix) {
			continue
		}
		if json.Unmarshal(text, e) != nil || e.key() != key || !strings.HasPrefix(e.Hidden, define.Hidden) {
			j.log.Warn("entry of the journal cannot be read", "key", key)
			continue
		}
		all = append(all, e)
	}
	return all
}

// gone finds the owners that are no more, and fences them.
func (j *Journal) gone(values map[string][]byte) (map[string]bool, error) {
	gone := map[string]bool{}
	for key, self := range values {
		id, is := strings.CutPrefix(key, ownerPrefix)
		if !is || id == j.id {
			continue
		}
		holder, err := j.pool.Holder(Object, key)
		if err != nil {
			return nil, fmt.Errorf("read journal: %w", err)
		}
		if holder == nil {
			gone[id] = true // its lock has ended, and with it, long before, all that it had under way
			continue
		}
		if !ended(string(self)) {
			continue
		}
		j.log.Info("fencing a driver's process that has ended", "client", holder.Client)
		if err := j.pool.Fence(holder.Addr); err != nil {
			return nil, err
		}
		if err := j.pool.Break(Object, key, *holder); err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("break lock of the journal: %w", err)
		}
		gone[id] = true
	}
	return gone, nil
}
