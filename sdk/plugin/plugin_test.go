package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
			[]string{cookie, folder, handshake.VersionsKey + "=1", handshake.OrphanKey + "=50ms"},
			nil, 0,
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

// recorder is a LogService that hands on what it gets.
type recorder struct {
	corev1.UnimplementedLogServiceServer
	got chan *corev1.WriteRequest
}

func (r *recorder) Write(stream grpc.ClientStreamingServer[corev1.WriteRequest, corev1.WriteResponse]) error {
	for {
		line, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&corev1.WriteResponse{})
		}
		if err != nil {
			return err
		}
		r.got <- line
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
	const written = 3 * logLines
	for i := range written {
		l.Logger().Named("sub").Info("line", "n", i, "long", strings.Repeat("x", 2*logField))
	}
	listener, err := net.Listen("unix", filepath.Join(dir, handshake.CoreSocket))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	r := &recorder{got: make(chan *corev1.WriteRequest, written)}
	corev1.RegisterLogServiceServer(server, r)
	go func() { _ = server.Serve(listener) }() // ends with Stop
	defer server.Stop()
	arrived, lost := 0, 0
	for n := -1; n < written-1; arrived++ {
		line := <-r.got
		lost += int(line.GetDropped())
		before := n
		if _, err := fmt.Sscan(line.GetFields()["n"], &n); err != nil || n != before+1+int(line.GetDropped()) {
			t.Fatalf("after line %d came %d, %v, with %d lost", before, n, err, line.GetDropped())
		}
		if line.GetLogger() != "example.sub" || len(line.GetFields()["long"]) > logField+3 {
			t.Fatalf("line of logger %q has a value of %d bytes", line.GetLogger(), len(line.GetFields()["long"]))
		}
	}
	if arrived+lost != written || arrived > logLines+logBatch {
		t.Errorf("%d lines arrived, %d were lost, of %d", arrived, lost, written)
	}
}

func TestLogLinesThatACoreDidNotAcknowledgeAreSentAgain(t *testing.T) {
	p := &logPump{}
	for range logLines {
		p.ring = append(p.ring, &corev1.WriteRequest{})
	}
	p.dropped = 5
	batch, _ := p.take()
	if len(batch) != logBatch || batch[0].GetDropped() != 5 || len(p.ring) != logLines-logBatch {
		t.Fatalf("took %d lines, %d lost before them, %d left", len(batch), batch[0].GetDropped(), len(p.ring))
	}
	p.ring = append(p.ring, &corev1.WriteRequest{}, &corev1.WriteRequest{}) // written meanwhile
	p.putBack(batch)
	if len(p.ring) != logLines || p.dropped != 7 || p.ring[0] != batch[2] {
		t.Errorf("%d lines, %d lost", len(p.ring), p.dropped)
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
