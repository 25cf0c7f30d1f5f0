package supervise_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/lodgevirt/lodge/host/internal/manifest"
	"github.com/lodgevirt/lodge/host/internal/supervise"
	"github.com/lodgevirt/lodge/sdk/fdpass"
	"github.com/lodgevirt/lodge/sdk/plugin/handshake"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// host is a supervised example plugin.
type host struct {
	t          testing.TB
	dir        string
	plugin     *supervise.Plugin
	cancel     context.CancelFunc
	done       chan struct{}
	recoveries chan recovery
	losses     atomic.Int64
	log        *logBuffer
}

type recovery struct {
	generation uint64
	reattached bool
}

// logBuffer keeps what the core logs.
type logBuffer struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) has(s string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Contains(b.text.String(), s)
}

// many lets a test crash the plugin as often as it likes.
var many = supervise.Restart{Min: time.Millisecond, Max: 10 * time.Millisecond, Healthy: time.Millisecond, Crashes: 1 << 30, Window: time.Minute}

func newHost(t testing.TB, change func(*supervise.Config)) *host {
	t.Helper()
	dir, err := os.MkdirTemp("", "lodge")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h := &host{t: t, dir: dir}
	h.start(change)
	return h
}

// start begins to supervise, as a core does that comes up in the host's folder.
func (h *host) start(change func(*supervise.Config)) {
	h.t.Helper()
	self, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	h.recoveries, h.log = make(chan recovery, 4096), &logBuffer{}
	cfg := supervise.Config{
		Manifest: &manifest.Manifest{Name: "example", Binary: self, Protocol: []int{1}},
		Dirs: supervise.Dirs{
			Private: filepath.Join(h.dir, "run"), LogFile: filepath.Join(h.dir, "log", "example.log"),
		},
		Log:  hclog.New(&hclog.LoggerOptions{Output: h.log, Level: hclog.Debug}),
		Args: []string{pluginArgument},
		Configure: func(*basev1.DescribeResponse) (*basev1.ConfigureRequest, error) {
			return &basev1.ConfigureRequest{RuntimeDir: h.dir}, nil
		},
		Recover: func(_ context.Context, _ grpc.ClientConnInterface, generation uint64, reattached bool) error {
			h.recoveries <- recovery{generation, reattached}
			return nil
		},
		Lost:    func(uint64) { h.losses.Add(1) },
		Restart: many,
	}
	if change != nil {
		change(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.plugin, h.cancel, h.done = supervise.New(cfg), cancel, make(chan struct{})
	done := h.done
	go func() {
		defer close(done)
		if err := h.plugin.Run(ctx); err != nil {
			h.t.Errorf("run: %v", err)
		}
	}()
	h.t.Cleanup(h.stop)
}

func (h *host) stop() {
	h.cancel()
	<-h.done
}

func (h *host) driver() pb.DriverServiceClient { return pb.NewDriverServiceClient(h.plugin) }

func (h *host) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	h.t.Cleanup(cancel)
	return ctx
}

// counted returns how often the driver began a kind of call.
func (h *host) counted(what string) int {
	data, err := os.ReadFile(filepath.Join(h.dir, what))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		h.t.Fatal(err)
	}
	return len(data)
}

func (h *host) ready() supervise.Status {
	h.t.Helper()
	if err := h.plugin.Wait(h.context()); err != nil {
		h.t.Fatalf("wait for plugin: %v\n%s", err, h.log.text.String())
	}
	return h.plugin.Status()
}

// eventually waits for something that is not a call.
func (h *host) eventually(what string, is func() bool) {
	h.t.Helper()
	for range 3000 {
		if is() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	h.t.Fatalf("never happened: %s\n%s", what, h.log.text.String())
}

func TestFirstCallStartsThePlugin(t *testing.T) {
	h := newHost(t, nil)
	resp, err := h.driver().Probe(h.context(), &pb.ProbeRequest{})
	if err != nil || resp.GetType() != "Example" {
		t.Fatalf("probe: %v, %v", resp, err)
	}
	if r := <-h.recoveries; r != (recovery{1, false}) {
		t.Errorf("recovered %v", r)
	}
	st := h.plugin.Status()
	if st.State != supervise.Ready || st.PID == 0 || st.Version != "1.2.3" || len(st.Services) != 2 {
		t.Errorf("status is %+v", st)
	}
}

func TestAnswersOfThePluginArriveUnchanged(t *testing.T) {
	h := newHost(t, nil)
	_, err := h.driver().Start(h.context(), &pb.StartRequest{Xml: "refuse"})
	if verr.From(err).Code != verr.OperationInvalid || supervise.Info(err) != nil {
		t.Errorf("refusal arrived as %v", err)
	}
	_, err = h.driver().Start(h.context(), &pb.StartRequest{Xml: "panic"})
	if verr.From(err).Code != verr.Internal || supervise.Info(err) != nil {
		t.Errorf("panic arrived as %v", err)
	}
	if st := h.plugin.Status(); st.Crashes != 0 {
		t.Errorf("the plugin crashed: %+v", st)
	}
}

func TestKillInFlight(t *testing.T) {
	for _, c := range []struct {
		name    string
		call    func(pb.DriverServiceClient, context.Context) error
		counter string
		begun   int
		outcome basev1.Outcome
	}{
		{
			"a query is sent once more",
			func(d pb.DriverServiceClient, ctx context.Context) error {
				_, err := d.Validate(ctx, &pb.ValidateRequest{Xml: "die 1"})
				return err
			}, "query", 2, basev1.Outcome_OUTCOME_UNSPECIFIED,
		},
		{
			"a query that kills the plugin each time fails",
			func(d pb.DriverServiceClient, ctx context.Context) error {
				_, err := d.Validate(ctx, &pb.ValidateRequest{Xml: "die 99"})
				return err
			}, "query", 2, basev1.Outcome_OUTCOME_UNKNOWN,
		},
		{
			"an idempotent call is sent up to three times more",
			func(d pb.DriverServiceClient, ctx context.Context) error {
				_, err := d.Stop(ctx, &pb.StopRequest{Guest: &pb.Guest{Name: "die 3"}})
				return err
			}, "idempotent", 4, basev1.Outcome_OUTCOME_UNSPECIFIED,
		},
		{
			"a call that must not be repeated is not, and its effect is unknown",
			func(d pb.DriverServiceClient, ctx context.Context) error {
				_, err := d.Start(ctx, &pb.StartRequest{Xml: "die 1"})
				return err
			}, "once", 1, basev1.Outcome_OUTCOME_UNKNOWN,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t, nil)
			h.ready()
			err := c.call(h.driver(), supervise.WithRequestID(h.context(), "mine"))
			if info := supervise.Info(err); info.GetOutcome() != c.outcome {
				t.Errorf("error %v with %v, expected outcome %v", err, info, c.outcome)
			} else if err != nil && info.GetRequestId() != "mine" {
				t.Errorf("request id is %q", info.GetRequestId())
			}
			if n := h.counted(c.counter); n != c.begun {
				t.Errorf("the plugin began %d times, expected %d", n, c.begun)
			}
			if _, err := h.driver().Probe(h.context(), &pb.ProbeRequest{}); err != nil {
				t.Errorf("after the crash: %v", err)
			}
		})
	}
}

func TestCoreThatComesBackFindsThePlugin(t *testing.T) {
	h := newHost(t, func(c *supervise.Config) { c.Detach = true })
	before := h.ready()
	h.stop()
	h.start(nil)
	after := h.ready()
	if after.PID != before.PID || after.Generation != before.Generation {
		t.Errorf("was %+v, is %+v", before, after)
	}
	if r := <-h.recoveries; r != (recovery{1, true}) {
		t.Errorf("recovered %v", r)
	}
	_, err := h.driver().Start(h.context(), &pb.StartRequest{Xml: "log found again"})
	if err != nil {
		t.Fatal(err)
	}
	h.eventually("the line in the new core's log", func() bool { return h.log.has("found again") })
}

func TestPluginThatDiedWhileTheCoreWasAwayIsReplaced(t *testing.T) {
	h := newHost(t, func(c *supervise.Config) { c.Detach = true })
	before := h.ready()
	h.stop()
	if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.start(nil)
	if after := h.ready(); after.PID == before.PID || after.Generation != 2 {
		t.Errorf("is %+v", after)
	}
}

func TestLogLinesWhileTheCoreIsAwayArriveLater(t *testing.T) {
	h := newHost(t, func(c *supervise.Config) { c.Detach = true })
	h.ready()
	conn, err := grpc.NewClient("unix:"+filepath.Join(h.dir, "run", "plugin.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	h.stop()
	_, err = pb.NewDriverServiceClient(conn).Start(h.context(), &pb.StartRequest{Xml: "log said in the dark"})
	if err != nil {
		t.Fatal(err)
	}
	h.start(nil)
	h.ready()
	h.eventually("the line in the new core's log", func() bool { return h.log.has("said in the dark") })
}

func TestCoreThatIsKilledLeavesAPluginThatTheNextOneFinds(t *testing.T) {
	h := newHost(t, nil)
	h.stop()
	core := exec.Command(os.Args[0], coreArgument, h.dir)
	core.Stderr = os.Stderr
	out, err := core.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := core.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	_, scanned := fmt.Fscan(out, &pid)
	if err := errors.Join(scanned, core.Process.Kill()); err != nil {
		t.Fatal(err)
	}
	_ = core.Wait() // it was killed
	h.start(nil)
	if st := h.ready(); st.PID != pid {
		t.Errorf("the plugin was %d, is %+v", pid, st)
	}
}

func TestKillAtEachPointOfACall(t *testing.T) {
	for _, c := range []struct {
		point   string
		outcome basev1.Outcome
		lives   bool
	}{
		{"Driver.Start.received=1*kill", basev1.Outcome_OUTCOME_UNKNOWN, false},
		{"Driver.Start.applied=1*kill", basev1.Outcome_OUTCOME_UNKNOWN, false},
		{"Driver.Start.replied=1*kill", basev1.Outcome_OUTCOME_UNSPECIFIED, true},
	} {
		t.Run(c.point, func(t *testing.T) {
			h := newHost(t, func(cfg *supervise.Config) { cfg.Env = []string{handshake.FailpointsKey + "=" + c.point} })
			_, err := h.driver().Start(h.context(), &pb.StartRequest{})
			if (err == nil) != c.lives || supervise.Info(err).GetOutcome() != c.outcome {
				t.Errorf("the call ended with %v, %v", err, supervise.Info(err))
			}
			h.eventually("the crash", func() bool { return h.plugin.Status().Crashes == 1 })
		})
	}
}

func TestHungPluginIsKilledAndReplaced(t *testing.T) {
	h := newHost(t, func(c *supervise.Config) {
		c.Health = supervise.Health{Every: 50 * time.Millisecond, Deadline: 100 * time.Millisecond, Misses: 2, AbortWait: 50 * time.Millisecond}
	})
	first := h.ready()
	_, err := h.driver().Start(h.context(), &pb.StartRequest{Xml: "stop"})
	if supervise.Info(err).GetOutcome() != basev1.Outcome_OUTCOME_UNKNOWN {
		t.Errorf("the call of a hung plugin ended with %v", err)
	}
	if second := h.ready(); second.PID == first.PID {
		t.Errorf("still %+v", second)
	}
	if err := syscall.Kill(first.PID, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the hung process is still there: %v", err)
	}
}

func TestPluginThatHangsWhileItRecoversIsKilledAndReplaced(t *testing.T) {
	h := newHost(t, func(c *supervise.Config) {
		c.Health = supervise.Health{Every: 20 * time.Millisecond, Deadline: 100 * time.Millisecond, Misses: 2, AbortWait: 20 * time.Millisecond}
		c.Recover = func(ctx context.Context, conn grpc.ClientConnInterface, generation uint64, _ bool) error {
			if generation > 1 {
				return nil
			}
			_, err := pb.NewDriverServiceClient(conn).Start(ctx, &pb.StartRequest{Xml: "stop"})
			return err
		}
	})
	if st := h.ready(); st.Generation < 2 || !h.log.has("it hung") {
		t.Errorf("is %+v\n%s", st, h.log.text.String())
	}
}

func TestRestartsLeakNoDescriptors(t *testing.T) {
	h := newHost(t, nil)
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	restart := func() {
		st := h.ready()
		if err := syscall.Kill(st.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		h.eventually("the next process", func() bool { return h.plugin.Status().Generation > st.Generation })
		h.ready()
	}
	restart()
	before := open()
	for range 20 {
		restart()
	}
	h.eventually("as few descriptors as before", func() bool { return open() <= before+2 })
}

func TestFloodOnStandardOutputHurtsNobody(t *testing.T) {
	h := newHost(t, nil)
	if _, err := h.driver().Start(h.context(), &pb.StartRequest{Xml: "print"}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(h.dir, "log", "example.log"))
	if err != nil || info.Size() < 1<<20 {
		t.Errorf("the noise is not in the log file: %v, %v", info, err)
	}
}

func TestFilesReachThePlugin(t *testing.T) {
	h := newHost(t, nil)
	path := filepath.Join(h.dir, "lease")
	if err := os.WriteFile(path, []byte("the lock"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	token := fdpass.Token{1, 2, 3}
	if err := h.plugin.Send(h.context(), token, f); err != nil {
		t.Fatal(err)
	}
	resp, err := h.driver().Start(h.context(), &pb.StartRequest{Resolved: &pb.Resolved{Leases: []*pb.Lease{{Token: token[:]}}}})
	if err != nil || resp.GetLiveXml() != "the lock" {
		t.Errorf("the plugin read %v, %v", resp, err)
	}
}

func TestMessagesOfSixteenMiBPassAndNotAByteMore(t *testing.T) {
	h := newHost(t, nil)
	h.ready()
	const limit = 16 << 20
	_, err := h.driver().Start(h.context(), &pb.StartRequest{Xml: strings.Repeat("x", limit-64)})
	if err != nil {
		t.Errorf("just under the limit: %v", err)
	}
	_, err = h.driver().Start(h.context(), &pb.StartRequest{Xml: strings.Repeat("x", limit+1)})
	if status.Code(err) != codes.ResourceExhausted || supervise.Info(err).GetOutcome() != basev1.Outcome_OUTCOME_NOT_SENT {
		t.Errorf("beyond the limit: %v with %v", err, supervise.Info(err))
	}
}

func TestCallOfAPluginWithoutABinaryFailsAtOnceUntilItIsThere(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	var self string
	h := newHost(t, func(c *supervise.Config) { self, c.Manifest.Binary = c.Manifest.Binary, missing })
	_, err := h.driver().Start(h.context(), &pb.StartRequest{})
	if supervise.Info(err).GetOutcome() != basev1.Outcome_OUTCOME_NOT_SENT || !strings.Contains(err.Error(), "missing") {
		t.Errorf("got %v with %v", err, supervise.Info(err))
	}
	if err := os.Symlink(self, missing); err != nil {
		t.Fatal(err)
	}
	h.eventually("the binary is found", func() bool { return h.plugin.Status().State == supervise.Verified })
	h.ready()
}

func TestCallerThatGivesUpLearnsThatNothingWasSent(t *testing.T) {
	h := newHost(t, func(c *supervise.Config) {
		c.Recover = func(ctx context.Context, _ grpc.ClientConnInterface, _ uint64, _ bool) error {
			<-ctx.Done()
			return ctx.Err()
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := h.driver().Start(ctx, &pb.StartRequest{})
	if supervise.Info(err).GetOutcome() != basev1.Outcome_OUTCOME_NOT_SENT || verr.From(err).Code != verr.OperationTimeout {
		t.Errorf("got %v with %v", err, supervise.Info(err))
	}
}

func TestPluginThatCrashesTooOftenFailsUntilReset(t *testing.T) {
	h := newHost(t, func(c *supervise.Config) {
		c.Restart = supervise.Restart{Min: time.Millisecond, Max: time.Millisecond, Healthy: time.Hour, Crashes: 3, Window: time.Hour}
	})
	for range 3 {
		st := h.ready()
		if err := syscall.Kill(st.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		h.eventually("the crash", func() bool { return h.plugin.Status().Crashes > st.Crashes })
	}
	_, err := h.driver().Probe(h.context(), &pb.ProbeRequest{})
	if err == nil || h.plugin.Status().State != supervise.Failed {
		t.Fatalf("after three crashes: %v, %+v", err, h.plugin.Status())
	}
	h.plugin.Reset()
	h.eventually("the reset", func() bool { return h.plugin.Status().State != supervise.Failed })
	if _, err := h.driver().Probe(h.context(), &pb.ProbeRequest{}); err != nil {
		t.Errorf("after the reset: %v", err)
	}
}

func TestIdlePluginEndsAndComesBackForACall(t *testing.T) {
	h := newHost(t, func(c *supervise.Config) {
		c.Manifest.IdleTimeout = manifest.Duration(10 * time.Millisecond)
		c.Idle = func() bool { return true }
	})
	first := h.ready()
	h.eventually("the end of the idle process", func() bool { return h.plugin.Status().State == supervise.Verified })
	if st := h.plugin.Status(); st.PID != 0 || st.Crashes != 0 {
		t.Errorf("status is %+v", st)
	}
	if second := h.ready(); second.Generation != first.Generation+1 {
		t.Errorf("came back as %+v", second)
	}
}

func TestKillsAtAnyMomentLeaveNoQueryWithoutAnOutcome(t *testing.T) {
	h := newHost(t, nil)
	h.ready()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 40 {
			if pid := h.plugin.Status().PID; pid > 0 {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			time.Sleep(5 * time.Millisecond)
		}
		close(stop)
	})
	for {
		select {
		case <-stop:
			wg.Wait()
			if _, err := h.driver().Probe(h.context(), &pb.ProbeRequest{}); err != nil {
				t.Error(err)
			}
			return
		default:
		}
		_, err := h.driver().Probe(h.context(), &pb.ProbeRequest{})
		if info := supervise.Info(err); err != nil && info.GetOutcome() == basev1.Outcome_OUTCOME_UNSPECIFIED {
			t.Fatalf("a query failed without an outcome: %v", err)
		}
	}
}

func BenchmarkCall(b *testing.B) {
	h := newHost(b, nil)
	h.ready()
	driver, ctx := h.driver(), context.Background()
	for b.Loop() {
		if _, err := driver.Probe(ctx, &pb.ProbeRequest{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStart(b *testing.B) {
	h := newHost(b, nil)
	h.ready()
	for b.Loop() {
		st := h.ready()
		if err := syscall.Kill(st.PID, syscall.SIGKILL); err != nil {
			b.Fatal(err)
		}
		for h.plugin.Status().Generation == st.Generation {
			h.ready()
		}
	}
}

func BenchmarkReattach(b *testing.B) {
	detach := func(c *supervise.Config) { c.Detach = true }
	h := newHost(b, detach)
	for b.Loop() {
		h.ready()
		h.stop()
		h.start(detach)
	}
	h.ready()
	h.stop()
	h.start(nil)
	h.ready()
}
