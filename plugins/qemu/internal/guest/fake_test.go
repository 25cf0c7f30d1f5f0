package guest

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/process"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp/qmptest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// fake is a guest whose QEMU is a process that sleeps and whose monitor does what a test says.
type fake struct {
	*rig
	server *qmptest.Server
	// status is what query-status answers.
	status atomic.Value
}

func newFake(t *testing.T) *fake {
	t.Helper()
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	spec := process.Spec{
		Marker: process.Marker{Driver: "test", UUID: uuid.NewString(), Generation: 1},
		Path:   "/bin/sleep", Args: []string{"60"}, Dir: dir, Log: log,
	}
	p, _, err := process.Launch(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := process.Sweep(context.Background(), spec.Marker); err != nil {
			t.Error(err)
		}
		log.Close()
	})
	f := &fake{server: qmptest.Listen(t)}
	f.rig = &rig{t: t, heard: make(chan *pb.Change, 100), ended: make(chan *pb.Change, 1)}
	f.status.Store("running")
	f.server.Handle("query-status", func(json.RawMessage) (any, error) { return runState{Status: f.status.Load().(string)}, nil })
	f.server.Reply("query-chardev", []any{})
	f.answer("stop", "STOP", "paused")
	f.answer("cont", "RESUME", "running")
	dial := func(ctx context.Context) (*qmp.Client, error) { return qmp.Dial(ctx, f.server.Path()) }
	mon, err := dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f.cfg = Config{
		Process: p, Monitor: mon, Dial: dial, Log: hclog.NewNullLogger(),
		Changed: func(c *pb.Change) { f.heard <- c }, Ended: func(c *pb.Change) { f.ended <- c },
		Remember: func(m Memory) { f.memory = m },
	}
	return f
}

// answer has a command change the state and tell it.
func (f *fake) answer(command, event, status string) {
	f.server.Handle(command, func(json.RawMessage) (any, error) {
		f.status.Store(status)
		f.server.Event(event, nil)
		return struct{}{}, nil
	})
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func TestMonitorThatAnswersLate(t *testing.T) {
	f := newFake(t)
	g := f.begin(false)
	answer := f.server.Stall()
	if _, err := g.Suspend(soon(t)); !verr.Is(err, verr.OperationTimeout) {
		t.Errorf("suspending: %v", err)
	}
	answer()
	// What the call has brought about after its end is told to everybody, and nothing is left that stands in a later call's way.
	f.expect("paused/1 suspended/0")(<-f.heard, nil)
	f.expect("running/5 resumed/0")(g.Resume(t.Context(), 0))
}

func TestMonitorThatTalksGarbage(t *testing.T) {
	for name, text := range map[string]string{
		"no json":         "}{\n",
		"no object":       "[1, 2]\n",
		"half a line":     `{"event": "ST`,
		"an endless line": string(make([]byte, 1<<20)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			f.begin(false)
			f.status.Store("paused")
			f.server.Raw(text)
			f.server.HangUp()
			// The guest is asked again by a monitor that is connected anew.
			f.expect("paused/1 suspended/0")(<-f.heard, nil)
		})
	}
}

func TestEventsThatMakeNoSenseArePassedOver(t *testing.T) {
	f := newFake(t)
	f.begin(false)
	f.server.Event("GUEST_PANICKED", "help")
	f.server.Event("SHUTDOWN", []int{1})
	f.server.Event("BLOCK_IO_ERROR", map[string]any{"action": "dance"})
	f.server.Event("NO_SUCH_EVENT", nil)
	f.server.Event("STOP", nil)
	f.expect("paused/0 suspended/0")(<-f.heard, nil)
}

func TestMonitorThatNeverAnswers(t *testing.T) {
	f := newFake(t)
	_ = f.cfg.Monitor.Close()
	f.cfg.Monitor = nil
	f.cfg.Dial = func(ctx context.Context) (*qmp.Client, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	g, change, err := Recall(t.Context(), f.cfg, &Memory{Condition: condition{pb.State_STATE_RUNNING, runningBooted}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	f.expect("running/1")(change, nil)
	if _, err := g.Suspend(t.Context()); !verr.Is(err, verr.OperationFailed) {
		t.Errorf("suspending: %v", err)
	}
	f.expect("shutoff/2 stopped/1")(g.Stop(t.Context(), true))
}

func TestCommandThatQEMURefuses(t *testing.T) {
	f := newFake(t)
	g := f.begin(false)
	f.server.Fail("stop", "GenericError", "not today")
	if _, err := g.Suspend(t.Context()); !verr.Is(err, verr.Internal) {
		t.Errorf("suspending: %v", err)
	}
	f.answer("stop", "STOP", "paused")
	f.expect("paused/1 suspended/0")(g.Suspend(t.Context()))
}
