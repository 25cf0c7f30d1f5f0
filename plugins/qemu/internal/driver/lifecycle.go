package driver

import (
	"context"
	"errors"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/guest"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/process"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Stop implements hypervisor.Driver. A start under way is given up. While another life of the guest lives, nothing is stopped, and
// the answer is OperationInvalid.
func (d *Driver) Stop(ctx context.Context, req *pb.StopRequest) (*pb.StopResponse, error) {
	l := d.find(req.GetGuest())
	if l == nil {
		return d.stopUnknown(ctx, req)
	}
	if l.ref.GetGeneration() != req.GetGuest().GetGeneration() {
		return nil, otherLife(req.GetGuest())
	}
	if l.cancel != nil {
		l.cancel()
	}
	select {
	case <-l.settled:
	case <-ctx.Done():
		return nil, verr.New(verr.OperationTimeout, "start of the domain does not end: %w", ctx.Err())
	}
	_, g, err := d.living(req.GetGuest())
	if err != nil {
		return d.stopUnknown(ctx, req)
	}
	change, err := g.Stop(ctx, req.GetGraceful())
	if err != nil {
		return nil, err
	}
	return &pb.StopResponse{Change: change}, nil
}

func otherLife(ref *pb.Guest) error {
	return verr.New(verr.OperationInvalid, "generation %d of the domain is not running, another life of it is", ref.GetGeneration())
}

// stopUnknown ends a guest that the driver is not in charge of, and answers for one that is gone.
func (d *Driver) stopUnknown(ctx context.Context, req *pb.StopRequest) (*pb.StopResponse, error) {
	l, err := d.newLife(req.GetGuest(), req.GetHandle().GetCgroup())
	if err != nil {
		return nil, err
	}
	id, foreign, err := d.locate(ctx, l, req.GetHandle())
	if err != nil {
		return nil, err
	}
	if foreign {
		l.clean()
		return nil, otherLife(req.GetGuest())
	}
	resp := &pb.StopResponse{Change: &pb.Change{State: pb.State_STATE_SHUTOFF}}
	if id.PID != 0 {
		p, err := process.Open(id)
		if err == nil {
			defer p.Close()
			err = p.Kill(ctx)
			resp.Change = guest.Destroyed()
		}
		if err != nil && !errors.Is(err, process.ErrGone) {
			return nil, err
		}
	}
	l.clean()
	return resp, nil
}

// Inspect implements hypervisor.Driver.
func (d *Driver) Inspect(ctx context.Context, req *pb.InspectRequest) (*pb.InspectResponse, error) {
	_, g, err := d.living(req.GetGuest())
	if err != nil {
		return &pb.InspectResponse{State: pb.State_STATE_SHUTOFF}, nil
	}
	change, err := g.Inspect(ctx)
	if err != nil {
		return nil, err
	}
	return &pb.InspectResponse{State: change.GetState(), Reason: change.GetReason()}, nil
}

// Shutdown implements hypervisor.Lifecycle.
func (d *Driver) Shutdown(ctx context.Context, req *pb.ShutdownRequest) (*pb.ShutdownResponse, error) {
	_, g, err := d.living(req.GetGuest())
	if err == nil {
		err = g.Shutdown(ctx, req.GetModes())
	}
	if err != nil {
		return nil, err
	}
	return &pb.ShutdownResponse{Change: &pb.Change{}}, nil
}

// Reboot implements hypervisor.Lifecycle.
func (d *Driver) Reboot(ctx context.Context, req *pb.RebootRequest) (*pb.RebootResponse, error) {
	_, g, err := d.living(req.GetGuest())
	if err == nil {
		err = g.Reboot(ctx, req.GetModes())
	}
	if err != nil {
		return nil, err
	}
	return &pb.RebootResponse{Change: &pb.Change{}}, nil
}

// change runs a change of a living guest.
func (d *Driver) change(ctx context.Context, ref *pb.Guest, f func(*guest.Guest, context.Context) (*pb.Change, error)) (*pb.Change, error) {
	_, g, err := d.living(ref)
	if err != nil {
		return nil, err
	}
	return f(g, ctx)
}

// Reset implements hypervisor.Lifecycle.
func (d *Driver) Reset(ctx context.Context, req *pb.ResetRequest) (*pb.ResetResponse, error) {
	change, err := d.change(ctx, req.GetGuest(), (*guest.Guest).Reset)
	if err != nil {
		return nil, err
	}
	return &pb.ResetResponse{Change: change}, nil
}

// Suspend implements hypervisor.Lifecycle.
func (d *Driver) Suspend(ctx context.Context, req *pb.SuspendRequest) (*pb.SuspendResponse, error) {
	change, err := d.change(ctx, req.GetGuest(), (*guest.Guest).Suspend)
	if err != nil {
		return nil, err
	}
	return &pb.SuspendResponse{Change: change}, nil
}

// Resume implements hypervisor.Lifecycle. QEMU gets the locks that were taken again before the guest goes on, and loses those of before.
func (d *Driver) Resume(ctx context.Context, req *pb.ResumeRequest) (*pb.ResumeResponse, error) {
	c, err := d.begin(ctx, req.GetGuest())
	if err != nil {
		return nil, err
	}
	defer c.end(ctx)
	after, err := c.relock(ctx, req.GetLeases())
	if err != nil {
		return nil, err
	}
	change, err := c.guest.Resume(ctx, req.GetReason())
	if err != nil {
		return nil, err
	}
	after()
	return &pb.ResumeResponse{Change: change}, nil
}
