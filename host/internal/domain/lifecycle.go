package domain

import (
	"context"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// destroyGraceful is VIR_DOMAIN_DESTROY_GRACEFUL.
const destroyGraceful = 1 << 0

// Destroy ends the guest, breaking into whatever else is being done to it; flags are virDomainDestroyFlagsValues. It returns when the
// guest is gone for sure.
func (d *Domain) Destroy(ctx context.Context, flags uint32) error {
	if flags&^destroyGraceful != 0 {
		return unknownFlags(flags &^ destroyGraceful)
	}
	starting := d.state.Load().phase == catalog.Starting
	d.interrupt()
	j, err := d.begin(ctx, "destroy")
	if err != nil {
		if starting && verr.Is(err, verr.NoDomain) {
			return nil // a transient domain whose start we broke off
		}
		return err
	}
	defer j.end()
	s := *d.state.Load()
	if s.phase == catalog.Inactive {
		if starting {
			return nil
		}
		return notRunning()
	}
	rsp, err := d.inv.driver.Stop(j.ctx, &pb.StopRequest{
		Guest: s.guest(d.inv.cfg.Connection), Handle: s.handle, Graceful: flags&destroyGraceful != 0,
	})
	if err != nil {
		return err
	}
	change := rsp.GetChange()
	if !ended(change.GetState()) {
		return verr.New(verr.OperationFailed, "driver %s says that domain '%s' has not ended", d.inv.cfg.Driver, s.Name)
	}
	return j.finish(&s, change)
}

// Shutdown asks the guest to power off and does not wait for it; modes are virDomainShutdownFlagValues.
func (d *Domain) Shutdown(ctx context.Context, modes uint32) error {
	return d.change(ctx, "shutdown", NoState, func(ctx context.Context, c *call) (*pb.Change, error) {
		rsp, err := c.lifecycle.Shutdown(ctx, &pb.ShutdownRequest{Guest: c.guest, Handle: c.handle, Modes: modes})
		return rsp.GetChange(), err
	})
}

// Reboot asks the guest to reboot and does not wait for it; modes are virDomainRebootFlagValues.
func (d *Domain) Reboot(ctx context.Context, modes uint32) error {
	return d.change(ctx, "reboot", NoState, func(ctx context.Context, c *call) (*pb.Change, error) {
		rsp, err := c.lifecycle.Reboot(ctx, &pb.RebootRequest{Guest: c.guest, Handle: c.handle, Modes: modes})
		return rsp.GetChange(), err
	})
}

// Reset presses the reset button.
func (d *Domain) Reset(ctx context.Context) error {
	return d.change(ctx, "reset", NoState, func(ctx context.Context, c *call) (*pb.Change, error) {
		rsp, err := c.lifecycle.Reset(ctx, &pb.ResetRequest{Guest: c.guest, Handle: c.handle})
		return rsp.GetChange(), err
	})
}

// Suspend stops the vCPUs. The guest's locks are given up until it is resumed.
func (d *Domain) Suspend(ctx context.Context) error {
	return d.change(ctx, "suspend", Paused, func(ctx context.Context, c *call) (*pb.Change, error) {
		rsp, err := c.lifecycle.Suspend(ctx, &pb.SuspendRequest{Guest: c.guest, Handle: c.handle})
		return rsp.GetChange(), err
	}, after{Paused, (*job).yield})
}

// Resume takes the guest's locks, and lets its vCPUs run again. If somebody else has one of them, the guest stays as it is.
func (d *Domain) Resume(ctx context.Context) error {
	return d.change(ctx, "resume", Running, func(ctx context.Context, c *call) (*pb.Change, error) {
		leases, err := c.job.relock(c.state)
		if err != nil {
			return nil, err
		}
		rsp, err := c.lifecycle.Resume(ctx, &pb.ResumeRequest{Guest: c.guest, Handle: c.handle, Leases: leases})
		if err != nil && outcomeOf(err) == refused && c.state.State == Paused {
			now := *c.state
			c.job.yield(&now)
		}
		return rsp.GetChange(), err
	}, after{Running, (*job).forgetYield})
}

// after is what follows a change that has led to a state, whether its call was answered or the guest was looked at again.
type after struct {
	state State
	do    func(*job, *state)
}

// SendKey presses keys together for holdMS milliseconds; codeset is virKeycodeSet.
func (d *Domain) SendKey(ctx context.Context, codeset, holdMS uint32, keys []uint32) error {
	return d.change(ctx, "send-key", NoState, func(ctx context.Context, c *call) (*pb.Change, error) {
		_, err := c.lifecycle.SendKey(ctx, &pb.SendKeyRequest{
			Guest: c.guest, Handle: c.handle, Codeset: codeset, HoldMs: holdMS, Keycodes: keys,
		})
		return nil, err
	})
}

// InjectNMI sends the guest a non-maskable interrupt.
func (d *Domain) InjectNMI(ctx context.Context) error {
	return d.change(ctx, "inject-nmi", NoState, func(ctx context.Context, c *call) (*pb.Change, error) {
		_, err := c.lifecycle.InjectNMI(ctx, &pb.InjectNMIRequest{Guest: c.guest, Handle: c.handle})
		return nil, err
	})
}

// call is what a call about a living guest is made with.
type call struct {
	job       *job
	state     *state
	lifecycle pb.LifecycleServiceClient
	guest     *pb.Guest
	handle    *pb.Handle
}

// change runs a call that changes a living guest. If its answer is lost, the guest is looked at again: when it is then in the state
// that was wanted the call has succeeded, else the error says that it is not known whether it happened.
func (d *Domain) change(
	ctx context.Context, what string, want State, do func(context.Context, *call) (*pb.Change, error), then ...after,
) error {
	j, err := d.begin(ctx, what)
	if err != nil {
		return err
	}
	defer j.end()
	s, err := j.living(d.inv.driver)
	if err != nil {
		return err
	}
	err = j.try(what, s, want, do)
	if err != nil {
		return err
	}
	for _, a := range then {
		if now := *d.state.Load(); now.phase == catalog.Active && now.State == a.state {
			a.do(j, &now)
		}
	}
	return nil
}

// try makes the call of a change, and finds out what became of it if its answer is lost.
func (j *job) try(what string, s *state, want State, do func(context.Context, *call) (*pb.Change, error)) error {
	d := j.d
	change, err := do(j.ctx, &call{
		job: j, state: s, lifecycle: pb.NewLifecycleServiceClient(d.inv.cfg.Plugin), guest: s.guest(d.inv.cfg.Connection), handle: s.handle,
	})
	if err == nil {
		return j.apply(change, "")
	}
	if outcomeOf(err) != orphaned {
		return err
	}
	if rerr := j.recover(d.inv.driver); rerr != nil {
		return verr.New(verr.OperationFailed, "%s of domain '%s': %w; whether it happened is not known", what, s.Name, err)
	}
	if want != NoState && d.View().State == want {
		return nil
	}
	return verr.New(verr.OperationFailed, "%s of domain '%s': %w; whether it happened is not known", what, s.Name, err)
}

// living returns the state of a guest that lives and that the present driver process has taken charge of.
func (j *job) living(driver pb.DriverServiceClient) (*state, error) {
	s := j.d.state.Load()
	if s.phase != catalog.Active {
		return nil, notRunning()
	}
	if s.Unknown || j.d.recovered != j.d.inv.cfg.Incarnation() {
		if err := j.recover(driver); err != nil {
			return nil, err
		}
		if s = j.d.state.Load(); s.phase != catalog.Active {
			return nil, notRunning()
		}
	}
	if s.Unknown {
		return nil, verr.New(verr.OperationInvalid, "state of domain '%s' is not known; its driver cannot tell", s.Name)
	}
	return s, nil
}

func notRunning() error { return verr.New(verr.OperationInvalid, "domain is not running") }
