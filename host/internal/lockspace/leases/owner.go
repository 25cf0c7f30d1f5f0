package leases

import (
	"context"
	"errors"
	"fmt"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/journal"
	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

// SetProcess says which process a guest has become: from now on its exit ends the guest's leases. Locks that are not held yet are
// looked for in it. Saying the same again changes nothing; an owner without leases is no error. Returns process.ErrGone if
// there is no such process any more, and then changes nothing.
func (t *Table) SetProcess(ctx context.Context, owner Owner) error {
	g, err := t.enter(ctx, keyOf(owner))
	if err != nil {
		return err
	}
	defer t.leave(g)
	if err := t.attach(g, owner); err != nil {
		return err
	}
	t.restore(g)
	return nil
}

// live sees to it that a group has the owner's process, and returns the process. The leases of a process that is gone but whose end was not
// dealt with yet end first, so that a life that begins under the same name does not take them for its own and lose them. The caller
// has the group's turn.
func (t *Table) live(g *group, owner Owner) (process.ID, error) {
	p := t.processOf(g)
	if p == nil {
		t.open(g)
	} else if p.ID() == owner.Process {
		// If it is gone, whoever waits for its end ends what it gets now.
		return owner.Process, nil
	} else if p.Exited() {
		t.exited(g, p.ID())
	}
	if err := t.attach(g, owner); err != nil {
		return process.ID{}, err
	}
	if p := t.processOf(g); p != nil {
		return p.ID(), nil
	}
	return owner.Process, nil
}

// attach makes the owner's process, if it has one, the group's: recorded with the leases that are there, and watched. The caller
// has the group's turn.
func (t *Table) attach(g *group, owner Owner) error {
	current := t.processOf(g)
	if owner.Process.PID == 0 || (current != nil && current.ID() == owner.Process) {
		return nil
	}
	p, err := process.Open(owner.Process)
	if err != nil {
		return err
	}
	if err := t.recordProcess(g, owner); err != nil {
		p.Close()
		return err
	}
	if err := t.watch(g, p); err != nil {
		return err
	}
	t.prefer(g)
	return nil
}

// prefer has a guest's shared leases rest on what its process has inherited. A table that was opened anew before it knew the process has
// taken such locks beside the guest's, which would then be left to nobody to drop. The caller has the group's turn.
func (t *Table) prefer(g *group) {
	if g.key.classic() {
		return
	}
	var shared []*lease
	t.mu.Lock()
	for _, l := range g.leases {
		if l.Resource.Mode == lockspace.Shared && l.hold != nil && !l.ails() {
			shared = append(shared, l)
		}
	}
	t.mu.Unlock()
	if len(shared) == 0 {
		return
	}
	for _, f := range t.search(g, shared) {
		f.lease.claim()
		t.settle(f.lease, f.lock)
		f.lease.yield()
	}
}

// recordProcess writes the process of the group's leases into the journal, and then into the leases.
func (t *Table) recordProcess(g *group, owner Owner) error {
	numbers := t.numbers(g)
	if len(numbers) == 0 {
		return nil
	}
	if err := t.journal.Append(journal.Record{Op: journal.Process, Owner: owner, Numbers: numbers}); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range g.leases {
		l.Owner.Process = owner.Process
	}
	return nil
}

func (t *Table) numbers(g *group) []uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	numbers := make([]uint64, len(g.leases))
	for i, l := range g.leases {
		numbers[i] = l.Number
	}
	return numbers
}

func (t *Table) processOf(g *group) *process.Process {
	t.mu.Lock()
	defer t.mu.Unlock()
	return g.process
}

// watch replaces the group's process and starts to wait for its exit. The process is the table's from now on.
func (t *Table) watch(g *group, p *process.Process) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		p.Close()
		return ErrClosed
	}
	if err := t.poller.Add(p, func() { t.gone(g.key, p) }); err != nil {
		p.Close()
		return err
	}
	t.watchNobody(g)
	g.process = p
	return nil
}

// gone ends the leases of a process that has exited, on a goroutine of its own, because the owner's turn may be long in coming.
func (t *Table) gone(k key, p *process.Process) {
	t.spawn(func() {
		g, err := t.enter(context.Background(), k)
		if err != nil {
			return
		}
		defer t.leave(g)
		if t.processOf(g) == p {
			t.exited(g, p.ID())
		}
	})
}

// exited ends all leases of a group whose process is gone. The caller has the group's turn.
func (t *Table) exited(g *group, id process.ID) {
	if numbers := t.numbers(g); len(numbers) > 0 {
		if err := t.journal.Append(journal.Record{Op: journal.Release, Numbers: numbers}); err != nil {
			// After a restart the process is still gone, and this is done again.
			t.log.Warn("cannot record release", "error", err)
		}
	}
	// The dead have no descriptors.
	t.mu.Lock()
	t.watchNobody(g)
	t.mu.Unlock()
	for _, l := range t.drop(g, t.leasesOf(g)) {
		if t.log.IsDebug() {
			t.log.Debug("lock released", "path", l.path, "guest", l.Owner.Name, "gen", l.Owner.Generation, "pid", id.PID)
		}
	}
}

// leasesOf returns the leases of a group.
func (t *Table) leasesOf(g *group) []*lease {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]*lease(nil), g.leases...)
}

// open opens the process that a group's leases name, after a restart. It reports false if there is none to wait for: the owner has no
// process, or it is gone, and then its leases have ended.
func (t *Table) open(g *group) bool {
	if t.processOf(g) != nil {
		return true
	}
	id := t.recorded(g)
	if id.PID == 0 {
		return true
	}
	p, err := process.Open(id)
	if errors.Is(err, process.ErrGone) {
		t.exited(g, id)
		return false
	}
	if err == nil {
		err = t.watch(g, p)
	}
	if err != nil {
		t.log.Warn("cannot watch a guest's process", "error", fmt.Errorf("recover locks: %w", err))
	}
	return true
}

// recorded returns the process in the group's leases, or zero.
func (t *Table) recorded(g *group) process.ID {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range g.leases {
		if l.Owner.Process.PID != 0 {
			return l.Owner.Process
		}
	}
	return process.ID{}
}
