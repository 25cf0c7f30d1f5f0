package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lodgevirt/lodge/sdk/hypervisor"
	"github.com/lodgevirt/lodge/sdk/plugin"
	"github.com/lodgevirt/lodge/sdk/plugin/handshake"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
)

// Roles that the test binary can play.
const (
	asPlugin  = "as-plugin"
	asFailure = "as-failure"
	asMute    = "as-mute"
	asSession = "as-session"
)

func TestMain(m *testing.M) {
	role := ""
	if len(os.Args) > 1 {
		role = os.Args[1]
	}
	switch role {
	case asPlugin:
		plugin.Serve(plugin.Plugin{Name: "example", Version: "1.0.0", Hypervisor: func(plugin.Core) (hypervisor.Driver, error) {
			return struct{ hypervisor.Driver }{}, nil
		}})
	case asFailure:
		fmt.Fprintln(os.Stderr, "no such hypervisor here")
		os.Exit(3)
	case asMute:
		select {}
	case asSession:
		sid, _, _ := syscall.RawSyscall(syscall.SYS_GETSID, 0, 0, 0)
		fmt.Fprintf(os.Stderr, "session %v name %s env %v\n", int(sid) == os.Getpid(), os.Args[0], os.Environ())
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func config(t testing.TB, role string) Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "lodge")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = binary.Close() })
	return Config{
		Name: "example", Binary: binary, Path: self, Args: []string{role}, Dir: dir,
		LogFile: filepath.Join(dir, "stderr.log"), Protocol: []int{handshake.Protocol}, Generation: 7,
	}
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func end(t testing.TB, p *Process) {
	t.Helper()
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.Exited()
	<-p.ended
}

func describe(t *testing.T, p *Process) {
	t.Helper()
	conn, err := p.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	d, err := basev1.NewPluginServiceClient(conn).Describe(within(t), &basev1.DescribeRequest{})
	if err != nil || d.GetName() != "example" {
		t.Errorf("describe: %v, %v", d, err)
	}
}

func TestProcessStartsAnswersAndEnds(t *testing.T) {
	cfg := config(t, asPlugin)
	var spawned int
	cfg.Spawned = func(pid int) { spawned = pid }
	p, err := Start(within(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	describe(t, p)
	r := p.Record()
	if r.PID != spawned || r.Protocol != 1 || r.Generation != 7 || r.Address != filepath.Join(cfg.Dir, handshake.PluginSocket) {
		t.Errorf("record is %+v, spawned %d", r, spawned)
	}
	end(t, p)
	if p.Status() != "signal SIGKILL" {
		t.Errorf("it ended with %q", p.Status())
	}
	if err := p.Kill(); err != nil {
		t.Errorf("killing it again: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(cfg.Dir, "plugin-dir*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestReleasedProcessIsFoundAgain(t *testing.T) {
	cfg := config(t, asPlugin)
	first, err := Start(within(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	first.Release()
	again, err := Reattach(cfg.Dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if again.Record() != first.Record() {
		t.Errorf("was %+v, is %+v", first.Record(), again.Record())
	}
	describe(t, again)
	end(t, again)
	reap(first.Record().PID)
	if _, err := Reattach(cfg.Dir, nil); !errors.Is(err, ErrGone) {
		t.Errorf("after its end: %v", err)
	}
}

func TestPidThatIsUsedAgainIsNotTaken(t *testing.T) {
	cfg := config(t, asPlugin)
	p, err := Start(within(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer end(t, p)
	for name, change := range map[string]func(*Record){
		"another start time": func(r *Record) { r.StartTime++ },
		"another boot":       func(r *Record) { r.BootID = "x" },
	} {
		r := p.Record()
		change(&r)
		if err := r.write(cfg.Dir); err != nil {
			t.Fatal(err)
		}
		if _, err := Reattach(cfg.Dir, nil); !errors.Is(err, ErrGone) {
			t.Errorf("%s: %v", name, err)
		}
	}
	select {
	case <-p.Exited():
		t.Error("the process was killed")
	default:
	}
}

func TestProcessWithoutHandshakeIsKilledByTheNextCore(t *testing.T) {
	cfg := config(t, asMute)
	p, stdout, err := spawn(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stdout.Close() }()
	if err := p.record.write(cfg.Dir); err != nil {
		t.Fatal(err)
	}
	if _, err := Reattach(cfg.Dir, nil); !errors.Is(err, ErrGone) {
		t.Errorf("reattach: %v", err)
	}
	<-p.Exited()
	<-p.ended
}

func TestFailureToStartQuotesWhatTheProcessSaid(t *testing.T) {
	_, err := Start(within(t), config(t, asFailure))
	if err == nil || !strings.Contains(err.Error(), "no such hypervisor here") {
		t.Errorf("error is %v", err)
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	cfg := config(t, asMute)
	ctx, cancel := context.WithCancel(context.Background())
	cfg.Spawned = func(int) { cancel() }
	if _, err := Start(ctx, cfg); err == nil {
		t.Fatal("a mute process started")
	}
	r, err := ReadRecord(cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 { // the process is reaped by its watcher
		if errors.Is(syscall.Kill(r.PID, 0), syscall.ESRCH) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("process %d is left behind", r.PID)
}

func TestProcessHasASessionOfItsOwnAndACleanEnvironment(t *testing.T) {
	t.Setenv("SECRET_OF_THE_CORE", "x")
	cfg := config(t, asSession)
	_, err := Start(within(t), cfg)
	if err == nil {
		t.Fatal("it started")
	}
	said, rerr := os.ReadFile(cfg.LogFile)
	if rerr != nil {
		t.Fatal(rerr)
	}
	if !strings.Contains(string(said), "session true name "+cfg.Path) || strings.Contains(string(said), "SECRET") {
		t.Errorf("it said %q", said)
	}
}

func TestFolderWithTooLongAPathIsRefused(t *testing.T) {
	cfg := config(t, asPlugin)
	cfg.Dir = "/" + strings.Repeat("x", 100)
	if _, err := Start(within(t), cfg); err == nil || !strings.Contains(err.Error(), "107") {
		t.Errorf("error is %v", err)
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"pid":10,"start_time":5}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := parseRecord(data); err == nil && r.PID < 2 {
			t.Errorf("accepted pid %d", r.PID)
		}
	})
}
