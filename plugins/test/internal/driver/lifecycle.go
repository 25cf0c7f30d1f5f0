package driver

import (
	"context"
	"time"

	"github.com/lodgevirt/lodge/plugins/test/internal/record"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Shutdown powers off at once: a pretended guest never ignores its power button.
func (d *Driver) Shutdown(ctx context.Context, req *pb.ShutdownRequest) (*pb.ShutdownResponse, error) {
	change, err := d.change(ctx, req.GetGuest(), "shutdown", func(g *guest, r *record.Record) (*pb.Change, error) {
		if r.State != pb.State_STATE_RUNNING {
			return nil, notRunning()
		}
		return d.turnOff(g, r, r.Shape.RestartsOnPoweroff)
	})
	return &pb.ShutdownResponse{Change: change}, err
}

// Reboot boots again at once, in any state.
func (d *Driver) Reboot(ctx context.Context, req *pb.RebootRequest) (*pb.RebootResponse, error) {
	change, err := d.change(ctx, req.GetGuest(), "reboot", func(g *guest, r *record.Record) (*pb.Change, error) {
		return d.turnOff(g, r, r.Shape.RestartsOnReboot)
	})
	return &pb.RebootResponse{Change: change}, err
}

// turnOff ends the guest's life, or boots it again where its definition says so. libvirt's test driver sends no event for a boot.
func (d *Driver) turnOff(g *guest, r *record.Record, restart bool) (*pb.Change, error) {
	if !restart {
		ended, err := d.end(g)
		if err == nil && !ended {
			err = notRunning()
		}
		return poweredOff.change(), err
	}
	return d.become(g, r, pb.State_STATE_RUNNING, runningBooted)
}

// Reset changes nothing that can be seen.
func (d *Driver) Reset(ctx context.Context, req *pb.ResetRequest) (*pb.ResetResponse, error) {
	change, err := d.change(ctx, req.GetGuest(), "reset", func(_ *guest, r *record.Record) (*pb.Change, error) {
		return &pb.Change{State: r.State, Reason: r.Reason}, nil
	})
	return &pb.ResetResponse{Change: change}, err
}

// Suspend stops the guest's clock.
func (d *Driver) Suspend(ctx context.Context, req *pb.SuspendRequest) (*pb.SuspendResponse, error) {
	change, err := d.change(ctx, req.GetGuest(), "suspend", func(g *guest, r *record.Record) (*pb.Change, error) {
		if r.State != pb.State_STATE_RUNNING {
			return nil, notRunning()
		}
		return d.become(g, r, pb.State_STATE_PAUSED, pausedByUser, lifecycle(eventSuspended, suspendedPaused))
	})
	return &pb.SuspendResponse{Change: change}, err
}

// Resume lets it go on, with the locks that were taken for it again.
func (d *Driver) Resume(ctx context.Context, req *pb.ResumeRequest) (*pb.ResumeResponse, error) {
	leases, err := d.takeLeases(ctx, req.GetLeases())
	if err != nil {
		return nil, err
	}
	change, err := d.change(ctx, req.GetGuest(), "resume", func(g *guest, r *record.Record) (*pb.Change, error) {
		if r.State != pb.State_STATE_PAUSED {
			return nil, verr.New(verr.OperationInvalid, "domain is not paused")
		}
		reason, detail := int32(runningUnpaused), int32(resumedUnpaused)
		if r := req.GetReason(); r != 0 {
			reason, detail = r, resumedFromSnapshot
		}
		change, err := d.become(g, r, pb.State_STATE_RUNNING, reason, lifecycle(eventResumed, detail))
		if err == nil && len(leases) > 0 {
			leases = g.relock(leases)
		}
		return change, err
	})
	closeAll(leases)
	return &pb.ResumeResponse{Change: change}, err
}

// SendKey lets the keys fall to the ground.
func (d *Driver) SendKey(ctx context.Context, req *pb.SendKeyRequest) (*pb.SendKeyResponse, error) {
	_, err := d.change(ctx, req.GetGuest(), "send-key", nothing)
	return &pb.SendKeyResponse{}, err
}

// InjectNMI has no effect.
func (d *Driver) InjectNMI(ctx context.Context, req *pb.InjectNMIRequest) (*pb.InjectNMIResponse, error) {
	_, err := d.change(ctx, req.GetGuest(), "inject-nmi", nothing)
	return &pb.InjectNMIResponse{}, err
}

func nothing(*guest, *record.Record) (*pb.Change, error) { return nil, nil }

// change finds a living guest, passes the two points around what is to be done, and does it with a copy of the guest's record.
func (d *Driver) change(
	ctx context.Context, identity *pb.Guest, point string, do func(*guest, *record.Record) (*pb.Change, error),
) (*pb.Change, error) {
	g, err := d.find(identity)
	if err != nil {
		return nil, err
	}
	if err := d.pass(ctx, g, point); err != nil {
		return nil, err
	}
	r := g.snapshot()
	change, err := do(g, &r)
	if err != nil {
		return nil, err
	}
	return change, d.hit(ctx, identity.GetUuid(), point+".done")
}

// become writes a guest's new state down, and makes it true in memory only once that is done.
func (d *Driver) become(g *guest, r *record.Record, state pb.State, reason int32, events ...*pb.Event) (*pb.Change, error) {
	r.SetState(time.Now(), state, reason)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over { // ended meanwhile: writing the record would bring it back
		return nil, notRunning()
	}
	if err := d.records.Save(r); err != nil {
		return nil, err
	}
	g.record = *r
	return &pb.Change{State: state, Reason: reason, Events: events}, nil
}
