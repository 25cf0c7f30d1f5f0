package guest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// stateFile is the name that QEMU is told for the pipe of a guest's state.
	stateFile = "state"
	// wholeSpeed lets QEMU write as fast as it can, in bytes a second: nothing else wants the pipe.
	wholeSpeed = math.MaxInt64 &^ (1<<20 - 1)
	// usualSpeed is QEMU's own limit of a migration.
	usualSpeed = 128 << 20
	// The pause between two looks at a migration.
	firstLook = 5 * time.Millisecond
	lastLook  = 250 * time.Millisecond
)

// errMigration is a migration that QEMU has ended without success.
var errMigration = errors.New("QEMU could not move the state")

// Migration is how far QEMU has come with a guest's state.
type Migration struct {
	Status string `json:"status"`
	// Why is QEMU's sentence about a failure.
	Why string `json:"error-desc"`
	RAM struct {
		Total       uint64 `json:"total"`
		Transferred uint64 `json:"transferred"`
		Remaining   uint64 `json:"remaining"`
	} `json:"ram"`
}

// The states of a migration (qapi/migration.json) that do not change any more by themselves.
func (m *Migration) over() bool {
	switch m.Status {
	case "", "none", "completed", "failed", "cancelled":
		return true
	}
	return false
}

// Stand stops the vCPUs of a guest that is to be saved, if they run. One that neither runs nor is paused is refused with OperationInvalid.
func (g *Guest) Stand(ctx context.Context) (change *pb.Change, ran bool, err error) {
	now, err := g.State(ctx)
	if err != nil {
		return nil, false, err
	}
	switch now.GetState() {
	case pb.State_STATE_RUNNING:
	case pb.State_STATE_PAUSED:
		return now, false, nil
	default:
		return nil, false, verr.New(verr.OperationInvalid, "domain is %s", stateNames[now.GetState()])
	}
	change, err = g.ask(ctx, "STOP", "stop", func(m *machine) error {
		m.pauseReason = pausedSave
		return nil
	})
	if err == nil && change.GetState() != pb.State_STATE_PAUSED {
		err = verr.New(verr.OperationFailed, "domain does not stop: it is %s", stateNames[change.GetState()])
	}
	return change, true, err
}

// SaveTo has QEMU write the state of a guest that stands into a pipe, and returns when all is written or QEMU has given up. look is told
// how far it is.
func (g *Guest) SaveTo(ctx context.Context, pipe *os.File, look func(*Migration)) error {
	if err := g.setSpeed(ctx, wholeSpeed); err != nil {
		return Explain(ctx, "migrate-set-parameters", err)
	}
	if err := g.handOver(ctx, pipe); err != nil {
		return Explain(ctx, "getfd", err)
	}
	if err := g.Query(ctx, &qmp.Command{Name: "migrate", Args: map[string]any{"uri": "fd:" + stateFile}}); err != nil {
		// QEMU takes the descriptor with the command, or has it still; then it is to close it.
		_ = g.Query(ctx, &qmp.Command{Name: "closefd", Args: map[string]any{"fdname": stateFile}})
		return Explain(ctx, "migrate", err)
	}
	return g.awaitMigration(ctx, look)
}

// RestoreFrom has a QEMU that was launched for it read a guest's state from a pipe, and returns when the guest stands as it was saved.
func (g *Guest) RestoreFrom(ctx context.Context, pipe *os.File, look func(*Migration)) error {
	if err := g.handOver(ctx, pipe); err != nil {
		return Explain(ctx, "getfd", err)
	}
	if err := g.Query(ctx, &qmp.Command{Name: "migrate-incoming", Args: map[string]any{"uri": "fd:" + stateFile}}); err != nil {
		return Explain(ctx, "migrate-incoming", err)
	}
	return g.awaitMigration(ctx, look)
}

// handOver gives QEMU a descriptor under the name of the state.
func (g *Guest) handOver(ctx context.Context, pipe *os.File) error {
	mon := g.monitor()
	if mon == nil {
		return errNoMonitor
	}
	return mon.ExecuteWithFile(ctx, pipe, "getfd", map[string]any{"fdname": stateFile}, nil)
}

func (g *Guest) setSpeed(ctx context.Context, speed int64) error {
	return g.Query(ctx, &qmp.Command{Name: "migrate-set-parameters", Args: map[string]any{"max-bandwidth": speed}})
}

// awaitMigration looks at a migration until it is over.
func (g *Guest) awaitMigration(ctx context.Context, look func(*Migration)) error {
	pause := firstLook
	for {
		var m Migration
		if err := g.Query(ctx, &qmp.Command{Name: "query-migrate", Reply: &m}); err != nil {
			return Explain(ctx, "query-migrate", err)
		}
		look(&m)
		switch m.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return verr.New(verr.OperationFailed, "%w: it has %s %s", errMigration, m.Status, m.Why)
		}
		select {
		case <-time.After(pause):
		case <-g.finished:
			return errNotRunning
		case <-ctx.Done():
			return fmt.Errorf("wait for the state of the domain: %w", context.Cause(ctx))
		}
		pause = min(2*pause, lastLook)
	}
}

// GoOn ends whatever QEMU does about a save, and lets the guest run again if it ran before. A guest that runs is left alone. The change
// has the state in any case, and events if this call has changed it.
func (g *Guest) GoOn(ctx context.Context, ran bool) (*pb.Change, error) {
	if err := g.cancelMigration(ctx); err != nil {
		return nil, err
	}
	if err := g.setSpeed(ctx, usualSpeed); err != nil {
		g.cfg.Log.Warn("speed of migrations is not as usual", "error", err)
	}
	now, err := g.State(ctx)
	if err != nil || !ran || now.GetState() != pb.State_STATE_PAUSED {
		return now, err
	}
	return g.ask(ctx, "RESUME", "cont", func(m *machine) error {
		m.resumeReason = runningSaveCanceled
		return nil
	})
}

// cancelMigration returns when QEMU writes nothing any more.
func (g *Guest) cancelMigration(ctx context.Context) error {
	var m Migration
	if err := g.Query(ctx, &qmp.Command{Name: "query-migrate", Reply: &m}); err != nil {
		return Explain(ctx, "query-migrate", err)
	}
	if m.over() {
		return nil
	}
	if err := g.Query(ctx, &qmp.Command{Name: "migrate_cancel"}); err != nil {
		return Explain(ctx, "migrate_cancel", err)
	}
	err := g.awaitMigration(ctx, func(*Migration) {})
	if errors.Is(err, errMigration) {
		return nil
	}
	return err
}

// Stay leaves a guest that was just restored standing, by the wish of whoever has restored it, or because it is yet to be let run.
func (g *Guest) Stay(ctx context.Context, wish bool) (*pb.Change, error) {
	reason := int32(pausedStartingUp)
	if wish {
		reason = pausedUser
	}
	var change *pb.Change
	err := g.with(ctx, func() error {
		change = g.machine.become(pb.State_STATE_PAUSED, reason)
		g.remember(change)
		return nil
	})
	return change, err
}
