package domain

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// handWait bounds the wait for a driver that is to take descriptors.
	handWait = 20 * time.Second
	// reaffirmWait is how long a job under way may keep its guest's locks from being reaffirmed.
	reaffirmWait = 2 * time.Second
)

// claim is what a start under way says to the driver's question whether its process may go on.
type claim struct {
	owner Owner
	wants Wants
}

// lease takes the locks of a guest that is about to start.
func (j *job) lease(s *state, wants Wants) (Prepared, error) {
	locks, owner := j.d.inv.cfg.Locks, j.d.owner(s)
	prepared, err := locks.Prepare(j.ctx, owner, wants)
	if err != nil || wants.none() || prepared.Claim {
		return prepared, err
	}
	j.d.leases, err = locks.Acquire(j.ctx, owner, wants)
	return prepared, err
}

// Claim takes the locks of a guest that is being started for its process. The start's job is under way meanwhile.
func (d *Domain) Claim(ctx context.Context, generation uint64, pid int32, startTime uint64) error {
	c := d.claim.Load()
	if c == nil || c.owner.Generation != generation {
		return verr.New(verr.OperationInvalid, "generation %d of domain '%s' is not being started", generation, d.View().Name)
	}
	owner := c.owner
	owner.PID, owner.StartTime = pid, startTime
	return d.inv.cfg.Locks.Claim(ctx, owner, c.wants)
}

// hand gives the driver's present process the descriptors of locks.
func (j *job) hand(held []HeldLock) ([]*pb.Lease, error) {
	ctx, cancel := context.WithTimeout(j.ctx, handWait)
	defer cancel()
	leases := make([]*pb.Lease, len(held))
	for n, h := range held {
		leases[n] = &pb.Lease{Lockspace: h.Lockspace, Resource: h.Resource, Shared: h.Shared}
		if h.File == nil {
			continue
		}
		leases[n].Token = make([]byte, 16)
		rand.Read(leases[n].Token) // never fails
		if err := j.d.inv.cfg.Files.SendFile(ctx, leases[n].Token, h.File); err != nil {
			return nil, fmt.Errorf("hand lock of %q to driver: %w", h.Resource, err)
		}
	}
	return leases, nil
}

// settleLeases gives the locks to the guest's process, or keeps duplicates for a guest without one.
func (j *job) settleLeases(ctx context.Context, s *state) {
	if s.PID == 0 {
		return
	}
	wants, err := j.startWants(s)
	if err == nil && !wants.none() {
		err = j.d.inv.cfg.Locks.Claim(ctx, j.d.owner(s), wants)
	}
	if err != nil {
		j.d.inv.cfg.Log.Warn("lock manager was not told of the guest's process", "guest", s.Name, "error", err)
		return
	}
	j.closeLeases()
}

// startWants is what the start under way has locked, or, where it is another core's, what the guest needs.
func (j *job) startWants(s *state) (Wants, error) {
	if c := j.d.claim.Load(); c != nil {
		return c.wants, nil
	}
	return j.wants(s)
}

// wants lists what a living guest needs locked.
func (j *job) wants(s *state) (Wants, error) {
	xml, err := j.d.text(s, true)
	if err != nil {
		return Wants{}, err
	}
	wants, err := wantsOf(xml, s.volumes)
	wants.State = s.lockState
	return wants, err
}

// yield gives the locks of a guest up whose vCPUs were stopped by request. One that cannot be given up now is had again by relock.
func (j *job) yield(s *state) {
	j.closeLeases()
	j.keepLockState(s, j.release(s, Release{Suspend: true}))
}

// forgetYield ends what yield began: the guest has its locks again.
func (j *job) forgetYield(s *state) { j.keepLockState(s, nil) }

func (j *job) keepLockState(s *state, lockState []byte) {
	if len(lockState)+len(s.lockState) == 0 {
		return
	}
	s.lockState = lockState
	if err := j.save(s, nil); err != nil {
		j.d.inv.cfg.Log.Warn("state of a suspended guest's locks could not be stored", "guest", s.Name, "error", err)
	}
}

// relock takes the locks of a guest that is to be resumed, and hands them to its driver.
func (j *job) relock(s *state) ([]*pb.Lease, error) {
	wants, err := j.wants(s)
	if err != nil || wants.none() {
		return nil, err
	}
	held, err := j.d.inv.cfg.Locks.Acquire(j.ctx, j.d.owner(s), wants)
	if err != nil {
		return nil, err
	}
	leases, err := j.hand(held)
	j.closeLeases()
	if s.PID == 0 {
		j.d.leases = held
	} else {
		closeAll(held)
	}
	return leases, err
}

// release frees locks. A lock manager that is away is told when it is back.
func (j *job) release(s *state, what Release) []byte {
	ctx, cancel := detached(j.ctx)
	defer cancel()
	state, err := j.d.inv.cfg.Locks.Release(ctx, j.d.owner(s), what)
	if err != nil {
		j.d.inv.cfg.Log.Warn("locks of a guest that needs them no more are still held", "guest", s.Name, "gen", s.Generation, "error", err)
	}
	return state
}

// unlease frees the locks of one life. A lock manager that is away frees them when it is back and asks what is still in use.
func (j *job) unlease(s *state) {
	j.closeLeases()
	s.lockState, s.loose = nil, Wants{}
	j.release(s, Release{})
}

func (j *job) closeLeases() {
	closeAll(j.d.leases)
	j.d.leases = nil
}

func closeAll(held []HeldLock) {
	for _, h := range held {
		if h.File != nil {
			h.File.Close()
		}
	}
}

// Reaffirm tells a lock manager that has come back of the connection's guests: which processes hold their locks, and the descriptors of
// guests without one. Guests whose locks are lost are dealt with as their definitions say.
func (i *Inventory) Reaffirm(ctx context.Context) {
	var g errgroup.Group
	g.SetLimit(recoverers)
	for _, d := range i.all() {
		if d.state.Load().phase == catalog.Inactive {
			continue
		}
		g.Go(func() error {
			wait, cancel := context.WithTimeout(ctx, reaffirmWait)
			defer cancel()
			j, err := d.begin(wait, "lock")
			if err != nil {
				return nil // gone, or its own job tells the lock manager
			}
			lost := j.reaffirm(ctx)
			j.end()
			if len(lost) > 0 {
				d.LocksLost(ctx, d.View().Generation, lost)
			}
			return nil
		})
	}
	_ = g.Wait()
}

func (j *job) reaffirm(ctx context.Context) []LostLock {
	s := j.d.state.Load()
	if s.phase != catalog.Active {
		return nil
	}
	now := *s
	j.tidy(&now)
	wants, err := j.wants(s)
	if s.State == Paused {
		wants = Wants{} // it may have given them up, and gets them again before it goes on
	}
	var again []HeldLock
	var lost []LostLock
	if err == nil {
		again, lost, err = j.d.inv.cfg.Locks.Reaffirm(ctx, j.d.owner(s), wants, j.d.leases)
	}
	if err != nil {
		j.d.inv.cfg.Log.Warn("lock manager was not told of the guest", "guest", s.Name, "error", err)
		return nil
	}
	switch {
	case s.PID != 0:
		closeAll(again)
	case again != nil:
		j.closeLeases()
		j.d.leases = again
	}
	return lost
}
