package domain

import (
	"context"
	"errors"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	lockv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

// States and events of a guest that has lost a lock, in libvirt's numbers.
const (
	// pausedIOError is VIR_DOMAIN_PAUSED_IOERROR.
	pausedIOError = 5
	// eventSuspended and suspendedIOError are VIR_DOMAIN_EVENT_SUSPENDED and its detail IOERROR.
	eventSuspended   = 3
	suspendedIOError = 2
)

// LocksLost deals with locks of one life of the guest that are not held any more, as <on_lockfailure> says: somebody else may write to
// its disks from now on. Without a word of the definition the guest is paused, since that can be taken back. A guest that cannot be
// paused is ended. It breaks into whatever else is being done to the guest.
func (d *Domain) LocksLost(ctx context.Context, generation uint64, lost []LostLock) {
	concerned := func(s *state) bool { return s.phase == catalog.Active && s.Generation == generation }
	if concerned(d.state.Load()) {
		d.interrupt()
	}
	j, err := d.begin(ctx, "lock failure")
	if err != nil {
		d.inv.cfg.Log.Error("guest without its lock could not be dealt with", "guest", d.View().Name, "gen", generation, "error", err)
		return
	}
	defer j.end()
	s := *d.state.Load()
	if !concerned(&s) {
		return
	}
	wants, err := j.wants(&s)
	if err != nil {
		d.inv.cfg.Log.Warn("what to do about a lost lock is not known", "guest", s.Name, "error", err)
	}
	action := wants.OnFailure
	if action == lockv1.Action_ACTION_UNSPECIFIED {
		action = lockv1.Action_ACTION_PAUSE
	}
	d.inv.cfg.Log.Error("guest has lost locks", "guest", s.Name, "gen", generation, "action", action, "locks", lost)
	for _, l := range lost {
		d.inv.publish(s.View, leaseLost(l, &wants, action))
	}
	if err := j.enforce(&s, action); err != nil {
		d.inv.cfg.Log.Error("guest goes on without its lock", "guest", s.Name, "gen", generation, "action", action, "error", err)
	}
}

// leaseLost is the event about one lock.
func leaseLost(l LostLock, wants *Wants, action lockv1.Action) *pb.Event {
	e := &pb.LeaseLostEvent{Path: l.Path, Action: action, Detail: l.Detail}
	for _, disk := range wants.Disks {
		if disk.Path == l.Path {
			e.Target = disk.Target
		}
	}
	return &pb.Event{Event: &pb.Event_LeaseLost{LeaseLost: e}}
}

// enforce does to the guest what its definition says.
func (j *job) enforce(s *state, action lockv1.Action) error {
	switch action {
	case lockv1.Action_ACTION_IGNORE:
		return nil
	case lockv1.Action_ACTION_POWEROFF:
		return j.powerOff(s)
	case lockv1.Action_ACTION_RESTART:
		return j.startAnew(s)
	case lockv1.Action_ACTION_PAUSE, lockv1.Action_ACTION_UNSPECIFIED:
	}
	if s.State == Paused {
		return nil
	}
	err := j.pause(s)
	if err != nil {
		return errors.Join(err, j.powerOff(s))
	}
	return nil
}

// pause stops the vCPUs, and gives the other locks up too: a resume takes all of them again.
func (j *job) pause(s *state) error {
	i := j.d.inv
	rsp, err := pb.NewLifecycleServiceClient(i.cfg.Plugin).Suspend(j.ctx, &pb.SuspendRequest{
		Guest: s.guest(i.cfg.Connection), Handle: s.handle,
	})
	if err != nil {
		return err
	}
	change := rsp.GetChange()
	change.Reason = pausedIOError
	for _, e := range change.GetEvents() {
		if l := e.GetLifecycle(); l.GetEvent() == eventSuspended {
			l.Detail = suspendedIOError
		}
	}
	if err := j.apply(change, ""); err != nil {
		return err
	}
	now := *j.d.state.Load()
	j.yield(&now)
	return nil
}

// powerOff ends the guest.
func (j *job) powerOff(s *state) error {
	if _, err := j.stop(s); err != nil {
		return err
	}
	return j.finish(s, failed())
}

// startAnew ends the guest and starts it again, which needs its locks.
func (j *job) startAnew(s *state) error {
	i := j.d.inv
	xml, err := i.cfg.Catalog.Config(i.cfg.URI, j.d.uuid)
	if err != nil {
		return err
	}
	if _, err := j.stop(s); err != nil {
		return err
	}
	j.unlease(s)
	s.ID, s.State, s.Reason = inactiveID, ShutOff, shutOffFailed
	i.publish(s.View, lifecycle(eventStopped, stoppedFailed))
	return j.start(s, xml, 0)
}

// stop has the driver end the guest's life.
func (j *job) stop(s *state) (*pb.StopResponse, error) {
	return j.d.inv.driver.Stop(j.ctx, &pb.StopRequest{Guest: s.guest(j.d.inv.cfg.Connection), Handle: s.handle})
}

// failed is the end of a guest that could not be let run.
func failed() *pb.Change {
	return &pb.Change{
		State: pb.State_STATE_SHUTOFF, Reason: shutOffFailed,
		Events: []*pb.Event{lifecycle(eventStopped, stoppedFailed)},
	}
}
