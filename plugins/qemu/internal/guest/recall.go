package guest

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// Recall takes charge of a guest that lived on while nobody listened, and returns what has changed since the memory; a nil memory is
// that of a guest whose start was not finished. A guest that ended by itself in the meantime, whose QEMU only waits to be
// ended, is ended: then the Guest is nil and the change is the last one. Where QEMU does not answer, the guest is taken to be as
// remembered, and asked for its state as soon as it answers.
//
// On an error the caller keeps the process and the monitor.
func Recall(ctx context.Context, cfg Config, memory *Memory) (*Guest, *pb.Change, error) {
	m := newMachine(cfg.Facts, condition{pb.State_STATE_PAUSED, pausedStartingUp})
	if memory != nil {
		m.now, m.panicked = memory.Condition, memory.Panicked
	}
	if cfg.Monitor == nil {
		return take(cfg, m), m.present(nil), nil
	}
	status, err := m.ask(ctx, cfg.Monitor)
	if err != nil {
		return nil, nil, fmt.Errorf("recall guest: %w", err)
	}
	change, next := m.observe(status)
	if memory == nil && m.now.State == pb.State_STATE_RUNNING {
		// The start was cut off between letting the guest run and telling so.
		change = m.become(pb.State_STATE_RUNNING, runningBooted, lifecycle(eventResumed, 0), lifecycle(eventStarted, startedBooted))
	}
	if next == stepEnd {
		last, err := bury(ctx, cfg, m, change)
		return nil, last, err
	}
	if change != nil {
		cfg.Remember(Memory{Condition: m.now, Panicked: m.panicked})
	}
	g := take(cfg, m)
	if next == stepRestart {
		if err := g.with(ctx, func() error { g.do(next); return nil }); err != nil {
			g.Close()
			return nil, nil, fmt.Errorf("recall guest: %w", err)
		}
	}
	return g, m.present(change), nil
}

// present completes a change with the state, also where it has not changed.
func (m *machine) present(change *pb.Change) *pb.Change {
	if change == nil {
		change = &pb.Change{}
	}
	change.State, change.Reason = m.now.State, m.now.Reason
	return change
}

// ask learns the run state, and whether the guest agent is there.
func (m *machine) ask(ctx context.Context, mon *qmp.Client) (string, error) {
	var state runState
	var devices []struct {
		Label string `json:"label"`
		Open  bool   `json:"frontend-open"`
	}
	err := mon.Batch(ctx, &qmp.Command{Name: "query-status", Reply: &state}, &qmp.Command{Name: "query-chardev", Reply: &devices})
	if err != nil {
		return "", err
	}
	for _, d := range devices {
		if m.facts.AgentAlias != "" && d.Label == "char"+m.facts.AgentAlias {
			m.agent = d.Open
		}
	}
	return state.Status, nil
}

// bury ends the QEMU of a guest that has ended.
func bury(ctx context.Context, cfg Config, m *machine, change *pb.Change) (*pb.Change, error) {
	if err := cfg.Process.Signal(unix.SIGTERM); err != nil {
		cfg.Log.Debug("ended guest not signalled", "error", err)
	}
	patient, cancel := context.WithTimeout(ctx, hastyTime)
	defer cancel()
	if cfg.Process.Wait(patient) != nil {
		if err := cfg.Process.Kill(ctx); err != nil {
			return nil, fmt.Errorf("end qemu of a guest that has ended: %w", err)
		}
	}
	events := change.GetEvents()
	last := m.exited()
	last.Events = append(events, last.GetEvents()...)
	_ = cfg.Monitor.Close()
	cfg.Process.Close()
	return last, nil
}

// Destroyed is the last change of a guest that was ended without anybody in charge of it.
func Destroyed() *pb.Change {
	return (&machine{stopping: true}).exited()
}

// Gone is the last change of a guest whose QEMU has gone while nobody listened.
func Gone(memory *Memory) *pb.Change {
	m := newMachine(Facts{}, condition{})
	if memory != nil {
		m.now, m.panicked = memory.Condition, memory.Panicked
		m.sawShutdown = memory.Condition.State == pb.State_STATE_SHUTDOWN
	}
	return m.exited()
}
