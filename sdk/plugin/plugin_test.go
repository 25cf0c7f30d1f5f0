package plugin

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/sdk/hypervisor"
	"github.com/lodgevirt/lodge/sdk/plugin/handshake"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	corev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/core/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const roleKey = "LODGE_TEST_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(roleKey) == "plugin" {
		Serve(example())
	}
	goleak.VerifyTestMain(m)
}

// driver has no methods that a test would call.
type driver struct {
	hypervisor.Driver
	refuse bool
}

func (d *driver) Configure(_ context.Context, s Settings) error {
	if d.refuse {
		return verr.New(verr.ConfigUnsupported, "not %s", s.StateDir)
	}
	return nil
}

func example() Plugin {
	return Plugin{
		Name: "example", Version: "1.0.0",
		Hypervisor: func(Core) (hypervisor.Driver, error) { return &driver{}, nil },
		Commands: map[string]func([]string) int{"add": func(args []string) int {
			fmt.Println("adding", strings.Join(args, "+"))
			return len(args)
		}},
	}
}

// The main function of a driver. Started by a person, it says what it is and ends; lodged starts it when it is needed.
func ExampleServe() {
	Serve(Plugin{
		Name: "example", Version: "1.0.0",
		Hypervisor: func(core Core) (hypervisor.Driver, error) { return newDriver(core), nil },
	})
}

func newDriver(Core) hypervisor.Driver { return &driver{} }

// run starts the test binary as the plugin and returns what it printed and its exit status.
func runProcess(t *testing.T, env []string, args ...string) (output string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), roleKey+"=plugin")
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("the process did not end: %v, %s", err, out)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lodge")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestProcessWithoutACore(t *testing.T) {
	dir := socketDir(t)
	cookie := handshake.CookieKey + "=" + handshake.CookieValue
	folder := handshake.DirKey + "=" + dir
	for _, c := range []struct {
		name   string
		env    []string
		args   []string
		status int
		says   string
	}{
		{"says what it is to a person", nil, nil, 2, "example is a driver of lodge"},
		{"runs a hidden command", nil, []string{"add", "1", "2", "3"}, 3, "adding 1+2+3"},
		{"refuses a core of another version", []string{cookie, folder, handshake.VersionsKey + "=2,3"}, nil, 1, "no protocol version in common"},
		{"refuses a relative folder", []string{cookie, handshake.DirKey + "=x", handshake.VersionsKey + "=1"}, nil, 1, "not an absolute path"},
		{"refuses a wrong failpoint", []string{cookie, folder, handshake.VersionsKey + "=1", handshake.FailpointsKey + "=x=y"}, nil, 1, "unknown action"},
		{
			"ends cleanly when the core stays away",
			[]string{cookie, folder, handshake.VersionsKey + "=1", handshake.OrphanKey + "=50ms"}, nil, 0,
			"1|1|unix|" + dir + "/plugin.sock|grpc|\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, status := runProcess(t, c.env, c.args...)
			if status != c.status || !strings.Contains(out, c.says) {
				t.Errorf("status %d, printed %q; expected %d, %q", status, out, c.status, c.says)
			}
		})
	}
}

func TestConfigureKeepsTheOldSettingsWhenTheDriverRefuses(t *testing.T) {
	l, err := connect("example", socketDir(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	d := &driver{}
	s := &service{plugin: example(), link: l, driver: d}
	ctx := context.Background()
	if _, err := s.Configure(ctx, &basev1.ConfigureRequest{StateDir: "/old", LogLevel: "debug"}); err != nil {
		t.Fatal(err)
	}
	d.refuse = true
	if _, err := s.Configure(ctx, &basev1.ConfigureRequest{StateDir: "/new"}); !verr.Is(err, verr.ConfigUnsupported) {
		t.Errorf("the refusal is %v", err)
	}
	if got := l.Settings().StateDir; got != "/old" {
		t.Errorf("the state folder is %q", got)
	}
	d.refuse = false
	for _, req := range []*basev1.ConfigureRequest{{LogLevel: "loud"}, {ConfigJson: []byte("{")}} {
		if _, err := s.Configure(ctx, req); !verr.Is(err, verr.InvalidArg) {
			t.Errorf("%v was answered with %v", req, err)
		}
	}
}

// recorder is a LogService that keeps what it gets.
type recorder struct {
	corev1.UnimplementedLogServiceServer
	mu    sync.Mutex // guards lines
	lines []*corev1.WriteRequest
	got   chan struct{}
}

func (r *recorder) Write(stream grpc.ClientStreamingServer[corev1.WriteRequest, corev1.WriteResponse]) error {
	for {
		line, err := stream.Recv()
		if err != nil {
			return err
		}
		r.mu.Lock()
		r.lines = append(r.lines, line)
		r.mu.Unlock()
		r.got <- struct{}{}
	}
}

func TestLogWithoutACoreIsBoundedAndCountsWhatItLost(t *testing.T) {
	dir := socketDir(t)
	l, err := connect("example", dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	l.Logger().Debug("below the level")
	const over = 100
	for i := range logLines + over {
		l.Logger().Named("sub").Info("line", "n", i, "long", strings.Repeat("x", 2*logField))
	}
	listener, err := net.Listen("unix", filepath.Join(dir, handshake.CoreSocket))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	r := &recorder{got: make(chan struct{}, logLines)}
	corev1.RegisterLogServiceServer(server, r)
	go func() { _ = server.Serve(listener) }() // ends with Stop
	defer server.Stop()
	for range logLines {
		<-r.got
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	first, last := r.lines[0], r.lines[logLines-1]
	if first.GetDropped() != over || first.GetFields()["n"] != fmt.Sprint(over) || first.GetLogger() != "example.sub" {
		t.Errorf("the first line has lost %d before it: %v", first.GetDropped(), first.GetFields()["n"])
	}
	if last.GetFields()["n"] != fmt.Sprint(logLines+over-1) || last.GetDropped() != 0 {
		t.Errorf("the last line is %v", last.GetFields()["n"])
	}
	if n := len(first.GetFields()["long"]); n > logField+3 {
		t.Errorf("a value of %d bytes was kept", n)
	}
}

func TestStateWaitsForACoreThatComesBack(t *testing.T) {
	dir := socketDir(t)
	l, err := connect("example", dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	answer := make(chan error, 1)
	go func() {
		_, _, err := l.State().Get(context.Background(), "k")
		answer <- err
	}()
	listener, err := net.Listen("unix", filepath.Join(dir, handshake.CoreSocket))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer() // has no StateService, which is an answer too
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	if err := <-answer; !verr.Is(err, verr.NoSupport) {
		t.Errorf("the answer is %v", err)
	}
}
