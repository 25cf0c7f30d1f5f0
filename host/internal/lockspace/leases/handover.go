package leases

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
)

// Inherited describes a descriptor of a lock that this process had before it was executed anew.
type Inherited struct {
	// FD is the descriptor.
	FD int
	// Resource is what it locks. The mode is the kernel's to say.
	Resource lockspace.Resource
	// Exclusive says that the lock is known to be exclusive, which is cheaper to prove.
	Exclusive bool
	// Owners have one lease each. Of a classic owner the process's number is enough. With no owners it is a lock that nobody
	// describes: it goes to a lease of the journal of the same file, or else to an unknown owner until it is released by force.
	Owners []Owner
	// Number is the lease's in the journal, or 0 if that is not known. It counts if there is one owner at most.
	Number uint64
	// Since is when the lock was taken; zero is now.
	Since time.Time
	// Others are descriptors that must not be closed as long as the lock is held.
	Others []int
}

// Inheritance is what a process had before it was executed anew.
type Inheritance struct {
	Locks []Inherited
	// Spaces are lockspaces that are to be known.
	Spaces []string
	// Complete says that nothing else is leased: leases of the journal that match none of the locks have ended, because another
	// daemon had the locks meanwhile.
	Complete bool
}

// Orphans makes an inheritance of all locks that this process holds, for when nothing describes them.
func Orphans() (Inheritance, error) {
	found, err := lockspace.Scan()
	if err != nil {
		return Inheritance{}, err
	}
	var in Inheritance
	for _, f := range found {
		in.Locks = append(in.Locks, Inherited{FD: f.FD, Resource: lockspace.Resource{Name: f.Path, Mode: f.Mode}})
	}
	return in, nil
}

// ErrHandover says that a handover is under way already.
var ErrHandover = errors.New("handover is under way")

// gate holds changes back during a handover. It is guarded by Table.mu.
type gate struct {
	// changes are under way.
	changes int
	// shut is closed when changes may begin again, idle when none is under way any more.
	shut, idle chan struct{}
}

// begin waits for the end of a handover and counts a change in; its end is ended's to say. Without an error it returns with Table.mu held.
func (t *Table) begin(ctx context.Context) error {
	for {
		t.mu.Lock()
		shut := t.gate.shut
		if shut == nil {
			if t.closed {
				t.mu.Unlock()
				return ErrClosed
			}
			t.gate.changes++
			return nil
		}
		t.mu.Unlock()
		select {
		case <-shut:
		case <-t.done:
			return ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("wait for a handover: %w", ctx.Err())
		}
	}
}

// ended counts a change out; Table.mu is held.
func (t *Table) ended() {
	t.gate.changes--
	if t.gate.idle != nil && t.gate.changes == 0 {
		close(t.gate.idle)
		t.gate.idle = nil
	}
}

// join begins a change that belongs to no owner; quit ends it.
func (t *Table) join() error {
	err := t.begin(context.Background())
	if err == nil {
		t.mu.Unlock()
	}
	return err
}

func (t *Table) quit() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended()
}

// Handover stops all changes, waits for those under way as long as the context allows, and makes the locks' descriptors survive an
// execve. It returns all locks that are held; leases without one are in the journal only. The table stays as it is, whatever
// ends, until the process is executed anew or Resume is called; changes wait meanwhile, and Close does nothing. On an error
// everything goes on.
func (t *Table) Handover(ctx context.Context) ([]Inherited, error) {
	t.mu.Lock()
	if t.closed || t.gate.shut != nil {
		defer t.mu.Unlock()
		if t.closed {
			return nil, ErrClosed
		}
		return nil, ErrHandover
	}
	t.gate.shut = make(chan struct{})
	var idle chan struct{}
	if t.gate.changes > 0 {
		idle = make(chan struct{})
		t.gate.idle = idle
	}
	t.mu.Unlock()
	if idle != nil {
		select {
		case <-idle:
		case <-ctx.Done():
			t.Resume()
			return nil, fmt.Errorf("hand over locks: wait for changes: %w", ctx.Err())
		}
	}
	if err := t.keep(true); err != nil {
		t.Resume()
		return nil, err
	}
	return t.describe(), nil
}

// Resume lets changes begin again when the process was not executed anew after all.
func (t *Table) Resume() {
	if err := t.keep(false); err != nil {
		t.log.Warn("cannot take back a handover", "error", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gate.shut != nil {
		close(t.gate.shut)
	}
	t.gate.shut, t.gate.idle = nil, nil
}

// keep says whether the locks' descriptors survive an execve.
func (t *Table) keep(keep bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all error
	for _, l := range t.index.all {
		if !l.gone && l.hold != nil {
			all = errors.Join(all, l.hold.lock.Keep(keep))
		}
	}
	return all
}

// describe describes all locks that are held, in the order of their leases' numbers.
func (t *Table) describe() []Inherited {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []Inherited
	for _, l := range t.index.all {
		if l.gone || l.hold == nil {
			continue
		}
		lock := l.hold.lock
		out = append(out, Inherited{
			FD: lock.Descriptor(), Resource: l.Resource, Number: l.Number, Owners: []Owner{l.Owner}, Since: l.Since,
			Others: lock.Others(), Exclusive: lock.Resource().Mode == lockspace.Exclusive,
		})
	}
	return out
}
