package guest

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/process"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == process.StageCommand {
		os.Exit(process.Stage(os.Args[2:]))
	}
	goleak.VerifyTestMain(m)
}

// rig is a real QEMU without a guest system, and what its Guest has said.
type rig struct {
	t      *testing.T
	cfg    Config
	heard  chan *pb.Change
	ended  chan *pb.Change
	memory Memory
}

func newRig(t *testing.T, facts Facts, args ...string) *rig {
	t.Helper()
	binary, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("no qemu-system-x86_64")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "qmp.sock")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	socket, err := listener.File()
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	spec := process.Spec{
		Marker: process.Marker{Driver: "test", UUID: uuid.NewString(), Generation: 1},
		Path:   binary, Dir: dir, Log: log, Files: []*os.File{socket},
		Args: append([]string{
			"-S", "-no-user-config", "-nodefaults", "-no-shutdown", "-display", "none", "-machine", "pc,accel=tcg", "-m", "16",
			"-chardev", "socket,id=charmonitor,fd=3,server=on,wait=off", "-mon", "chardev=charmonitor,mode=control",
		}, args...),
	}
	p, _, err := process.Launch(t.Context(), spec)
	listener.Close()
	socket.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := process.Sweep(context.Background(), spec.Marker); err != nil {
			t.Error(err)
		}
		log.Close()
	})
	r := &rig{t: t, heard: make(chan *pb.Change, 100), ended: make(chan *pb.Change, 1)}
	dial := func(ctx context.Context) (*qmp.Client, error) { return qmp.Dial(ctx, path) }
	mon, err := dial(t.Context())
	if err != nil {
		t.Fatalf("%v: %s", err, process.Tail(log, 0, 4096))
	}
	r.cfg = Config{
		Process: p, Monitor: mon, Dial: dial, Facts: facts, Log: hclog.NewNullLogger(),
		Changed: func(c *pb.Change) { r.heard <- c }, Ended: func(c *pb.Change) { r.ended <- c },
		Remember: func(m Memory) { r.memory = m },
	}
	return r
}

func (r *rig) begin(paused bool) *Guest {
	r.t.Helper()
	g := New(r.cfg)
	r.t.Cleanup(g.Close)
	want := "running/1 resumed/0 started/0"
	if paused {
		want = "paused/1 started/0 suspended/0"
	}
	r.expect(want)(g.Begin(r.t.Context(), paused))
	return g
}

// expect compares a change with one written as "state/reason event/detail ...".
func (r *rig) expect(want string) func(*pb.Change, error) {
	r.t.Helper()
	return func(got *pb.Change, err error) {
		r.t.Helper()
		if err != nil {
			r.t.Fatal(err)
		}
		if diff := cmp.Diff(want, text(got)); diff != "" {
			r.t.Error(diff)
		}
	}
}

// reopen takes hold of the same QEMU again, as a restarted driver does.
func (r *rig) reopen() {
	r.t.Helper()
	p, err := process.Open(r.cfg.Process.ID())
	if err != nil {
		r.t.Fatal(err)
	}
	r.cfg.Process = p
	if r.cfg.Monitor, err = r.cfg.Dial(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

func TestSuspendAndResume(t *testing.T) {
	r := newRig(t, Facts{})
	g := r.begin(false)
	r.expect("paused/1 suspended/0")(g.Suspend(t.Context()))
	if _, err := g.Suspend(t.Context()); !verr.Is(err, verr.OperationInvalid) {
		t.Errorf("suspending a paused guest: %v", err)
	}
	r.expect("running/5 resumed/0")(g.Resume(t.Context(), 0))
	if _, err := g.Resume(t.Context(), 0); !verr.Is(err, verr.OperationInvalid) {
		t.Errorf("resuming a running guest: %v", err)
	}
	r.expect("- reboot")(g.Reset(t.Context()))
	r.expect("shutoff/2 shutdown/2 stopped/1")(g.Stop(t.Context(), false))
	if len(r.heard) != 0 {
		t.Errorf("told to everybody: %s", text(<-r.heard))
	}
	if c := <-r.ended; c != nil {
		t.Errorf("the end was told twice: %s", text(c))
	}
	if _, err := g.Suspend(t.Context()); !verr.Is(err, verr.OperationInvalid) {
		t.Errorf("suspending a guest that has ended: %v", err)
	}
}

func TestStopOfAStuckQEMU(t *testing.T) {
	r := newRig(t, Facts{})
	g := r.begin(true)
	if err := r.cfg.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := g.Resume(ctx, 0); !verr.Is(err, verr.OperationTimeout) {
		t.Errorf("resuming a stuck guest: %v", err)
	}
	r.expect("shutoff/2 stopped/1")(g.Stop(t.Context(), false))
}

func TestQEMUThatDies(t *testing.T) {
	r := newRig(t, Facts{})
	r.begin(false)
	if err := r.cfg.Process.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.expect("shutoff/3 stopped/5")(<-r.ended, nil)
}

func TestPowerDownByTheHostEndsTheGuest(t *testing.T) {
	r := newRig(t, Facts{})
	g := r.begin(false)
	if err := g.Query(t.Context(), &qmp.Command{Name: "quit"}); err != nil {
		t.Fatal(err)
	}
	r.expect("shutdown/0 shutdown/2")(<-r.heard, nil)
	r.expect("shutoff/1 stopped/0")(<-r.ended, nil)
}

func TestRecallOfARunningGuest(t *testing.T) {
	r := newRig(t, Facts{})
	r.begin(false).Close()
	r.reopen()
	g, change, err := Recall(t.Context(), r.cfg, &r.memory)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	r.expect("running/1")(change, nil)
	r.expect("paused/1 suspended/0")(g.Suspend(t.Context()))
	g.Close()
	r.reopen()
	g, change, err = Recall(t.Context(), r.cfg, &r.memory)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	r.expect("paused/1")(change, nil)
	r.expect("shutoff/2 shutdown/2 stopped/1")(g.Stop(t.Context(), true))
}

func TestRecallTellsWhatHappenedMeanwhile(t *testing.T) {
	r := newRig(t, Facts{})
	r.begin(false).Close()
	r.reopen()
	if err := r.cfg.Monitor.Execute(t.Context(), "stop", nil, nil); err != nil {
		t.Fatal(err)
	}
	g, change, err := Recall(t.Context(), r.cfg, &r.memory)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	r.expect("paused/1 suspended/0")(change, nil)
}

func TestRecallOfAStartThatWasNotFinished(t *testing.T) {
	r := newRig(t, Facts{})
	g, change, err := Recall(t.Context(), r.cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	r.expect("paused/11")(change, nil)
}

func TestRecallOfAQEMUThatDoesNotAnswer(t *testing.T) {
	r := newRig(t, Facts{})
	r.begin(true).Close()
	r.reopen()
	r.cfg.Monitor.Close()
	r.cfg.Monitor = nil
	g, change, err := Recall(t.Context(), r.cfg, &r.memory)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	r.expect("paused/1")(change, nil)
	for {
		if _, err = g.Resume(t.Context(), 0); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.expect("shutoff/2 shutdown/2 stopped/1")(g.Stop(t.Context(), true))
}

var stateWords = map[pb.State]string{
	pb.State_STATE_UNSPECIFIED: "-", pb.State_STATE_RUNNING: "running", pb.State_STATE_PAUSED: "paused",
	pb.State_STATE_SHUTDOWN: "shutdown", pb.State_STATE_SHUTOFF: "shutoff", pb.State_STATE_CRASHED: "crashed",
	pb.State_STATE_PMSUSPENDED: "pmsuspended",
}

var eventWords = map[int32]string{
	2: "started", 3: "suspended", 4: "resumed", 5: "stopped", 6: "shutdown", 7: "pmsuspended", 8: "crashed",
}

// text writes a change as expect reads it.
func text(c *pb.Change) string {
	if c == nil {
		return "nothing"
	}
	words := []string{stateWords[c.GetState()]}
	if c.GetState() != pb.State_STATE_UNSPECIFIED {
		words[0] += "/" + digits(c.GetReason())
	}
	for _, e := range c.GetEvents() {
		if l := e.GetLifecycle(); l != nil {
			words = append(words, eventWords[l.GetEvent()]+"/"+digits(l.GetDetail()))
			continue
		}
		words = append(words, eventName(e))
	}
	return strings.Join(words, " ")
}
