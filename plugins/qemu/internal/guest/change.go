package guest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/process"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Modes of Shutdown and Reboot: libvirt's virDomainShutdownFlagValues and virDomainRebootFlagValues, which agree in these.
const (
	ModeACPI  = 1 << 0
	ModeAgent = 1 << 1
)

// Grace of Stop before SIGKILL: time to flush images if the caller wants that, and time for an answer if not.
const (
	gracefulTime = 15 * time.Second
	hastyTime    = 2 * time.Second
)

// Begin lets a guest that was just launched run, or leaves it paused, and returns the change that tells of the start.
func (g *Guest) Begin(ctx context.Context, paused bool) (*pb.Change, error) {
	started := lifecycle(eventStarted, startedBooted)
	if paused {
		var change *pb.Change
		err := g.with(ctx, func() error {
			change = g.machine.become(pb.State_STATE_PAUSED, pausedUser, started, lifecycle(eventSuspended, suspendedPaused))
			g.remember(change)
			return nil
		})
		return change, err
	}
	change, err := g.ask(ctx, "RESUME", "cont", func(m *machine) error {
		m.resumeReason = runningBooted
		return nil
	})
	if err != nil {
		return nil, err
	}
	change.Events = append(change.Events, started)
	return change, nil
}

// State returns the present state as QEMU has told it, without events.
func (g *Guest) State(ctx context.Context) (*pb.Change, error) {
	var change *pb.Change
	err := g.with(ctx, func() error {
		change = g.machine.present(nil)
		return nil
	})
	return change, err
}

// Inspect asks QEMU for the present state; the reason is the one that was told last, where it still fits.
func (g *Guest) Inspect(ctx context.Context) (*pb.Change, error) {
	status, err := g.queryStatus(ctx)
	if err != nil {
		return nil, Explain(ctx, "query-status", err)
	}
	change, err := g.State(ctx)
	if now := conditionOf(status); err == nil && now.State != change.GetState() {
		change.State, change.Reason = now.State, now.Reason
	}
	return change, err
}

// Suspend stops the vCPUs. A guest that does not run is refused with OperationInvalid.
func (g *Guest) Suspend(ctx context.Context) (*pb.Change, error) {
	return g.ask(ctx, "STOP", "stop", func(m *machine) error {
		if m.now.State != pb.State_STATE_RUNNING {
			return verr.New(verr.OperationInvalid, "domain is %s", stateNames[m.now.State])
		}
		m.pauseReason = pausedUser
		return nil
	})
}

// Resume lets the vCPUs of a paused guest run; any other is refused with OperationInvalid. A reason other than 0 is that of a guest which
// was restored.
func (g *Guest) Resume(ctx context.Context, reason int32) (*pb.Change, error) {
	return g.ask(ctx, "RESUME", "cont", func(m *machine) error {
		switch m.now.State {
		case pb.State_STATE_PAUSED, pb.State_STATE_CRASHED:
			if reason != 0 {
				m.resumeReason, m.resumeDetail = reason, resumedFromSnapshot
			}
			return nil
		case pb.State_STATE_RUNNING:
			return verr.New(verr.OperationInvalid, "domain is already running")
		default:
			return verr.New(verr.OperationInvalid, "domain is %s", stateNames[m.now.State])
		}
	})
}

// Reset is the reset button.
func (g *Guest) Reset(ctx context.Context) (*pb.Change, error) {
	return g.ask(ctx, "RESET", "system_reset", func(*machine) error { return nil })
}

var stateNames = map[pb.State]string{
	pb.State_STATE_RUNNING: "running", pb.State_STATE_PAUSED: "paused", pb.State_STATE_SHUTDOWN: "being shut down",
	pb.State_STATE_SHUTOFF: "not running", pb.State_STATE_CRASHED: "crashed", pb.State_STATE_PMSUSPENDED: "pmsuspended",
}

// ask has QEMU run a command whose effect is told by an event, and returns that event's change. check runs first, in the owner's
// goroutine, and may refuse.
func (g *Guest) ask(ctx context.Context, event, command string, check func(*machine) error) (*pb.Change, error) {
	w := &wish{event: event, got: make(chan *pb.Change, 1)}
	err := g.with(ctx, func() error {
		if g.wish != nil {
			return verr.New(verr.ResourceBusy, "another change of the guest is under way")
		}
		if err := check(g.machine); err != nil {
			return err
		}
		g.wish = w
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := g.Query(ctx, &qmp.Command{Name: command}); err != nil {
		g.forget(w)
		return nil, Explain(ctx, command, err)
	}
	return g.await(ctx, w)
}

// await waits for the change of a wish. Where its event stays out, QEMU was in the state already, and is asked for it.
func (g *Guest) await(ctx context.Context, w *wish) (*pb.Change, error) {
	late := time.NewTimer(eventGrace)
	defer late.Stop()
	select {
	case change := <-w.got:
		return change, nil
	case <-g.finished:
		return nil, errNotRunning
	case <-late.C:
	case <-ctx.Done():
	}
	g.forget(w)
	select {
	case change := <-w.got:
		return change, nil
	default:
	}
	status, err := g.queryStatus(ctx)
	if err != nil {
		return nil, Explain(ctx, "query-status", err)
	}
	change := &pb.Change{}
	err = g.with(ctx, func() error {
		if seen, next := g.machine.observe(status); seen != nil {
			change = seen
			g.remember(seen)
			g.do(next)
		}
		return nil
	})
	return change, err
}

// forget withdraws a wish. The owner is never away for long, and gone for good only once finished is closed.
func (g *Guest) forget(w *wish) {
	_ = g.with(context.Background(), func() error {
		if g.wish == w {
			g.wish = nil
		}
		return nil
	})
}

// Explain turns an error of Query into libvirt's, with the wording for QEMU's refusals that tools look for.
func Explain(ctx context.Context, command string, err error) error {
	var refused *qmp.Error
	switch {
	case errors.As(err, &refused):
		return verr.New(verr.Internal, "unable to execute QEMU command '%s': %w", command, refused)
	case ctx.Err() != nil:
		return verr.New(verr.OperationTimeout, "QEMU did not answer in time: %w", err)
	case errors.Is(err, qmp.ErrGone):
		return verr.New(verr.OperationFailed, "domain ended or its monitor broke: %w", err)
	default:
		return verr.New(verr.OperationFailed, "monitor of domain: %w", err)
	}
}

// Shutdown asks the guest to power off and does not wait for it. modes 0 tries the agent, if one is connected, and then ACPI.
func (g *Guest) Shutdown(ctx context.Context, modes uint32) error {
	return g.powerDown(ctx, modes, "powerdown", false)
}

// Reboot asks the guest to reboot and does not wait for it; with ACPI by a power-down that is followed by a reset.
func (g *Guest) Reboot(ctx context.Context, modes uint32) error {
	return g.powerDown(ctx, modes, "reboot", true)
}

func (g *Guest) powerDown(ctx context.Context, modes uint32, agentMode string, reboot bool) error {
	if unknown := modes &^ (ModeACPI | ModeAgent); unknown != 0 {
		return verr.New(verr.InvalidArg, "unsupported flags (0x%x)", unknown)
	}
	var connected bool
	var agent string
	err := g.with(ctx, func() error {
		connected, agent = g.machine.agent, g.machine.facts.AgentPath
		if s := g.machine.now.State; s != pb.State_STATE_RUNNING && s != pb.State_STATE_PAUSED {
			return verr.New(verr.OperationInvalid, "domain is %s", stateNames[s])
		}
		return nil
	})
	if err != nil {
		return err
	}
	if modes&ModeAgent != 0 || (modes == 0 && connected) {
		err := agentShutdown(ctx, agent, agentMode, connected)
		if err == nil || modes&ModeACPI == 0 && modes != 0 {
			return err
		}
		g.cfg.Log.Info("guest agent did not help, using acpi", "error", err)
	}
	if err := g.with(ctx, func() error { g.machine.rebooting = reboot; return nil }); err != nil {
		return err
	}
	if err := g.Query(ctx, &qmp.Command{Name: "system_powerdown"}); err != nil {
		return Explain(ctx, "system_powerdown", err)
	}
	return nil
}

// Stop ends QEMU for sure, and returns how the guest's life ended when its process is gone. It does not need QEMU to answer. The
// change has no events if the guest had ended by itself.
func (g *Guest) Stop(ctx context.Context, graceful bool) (*pb.Change, error) {
	err := g.with(ctx, func() error {
		g.machine.stopping = true
		g.signal(unix.SIGTERM)
		return nil
	})
	if err != nil && !errors.Is(err, errNotRunning) {
		return nil, fmt.Errorf("stop guest: %w", err)
	}
	grace := hastyTime
	if graceful {
		grace = gracefulTime
	}
	patience := time.NewTimer(grace)
	defer patience.Stop()
	select {
	case <-g.finished:
	case <-patience.C:
		g.signal(unix.SIGKILL)
	case <-ctx.Done():
	}
	select {
	case <-g.finished:
	case <-ctx.Done():
		return nil, verr.New(verr.OperationTimeout, "process %d of the guest does not end: %w", g.Process().PID, process.ErrAlive)
	}
	if g.final != nil {
		return g.final, nil
	}
	return &pb.Change{State: pb.State_STATE_SHUTOFF}, nil
}
