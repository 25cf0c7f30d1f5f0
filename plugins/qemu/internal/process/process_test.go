package process

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/lodgevirt/lodge/sdk/procfs"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == StageCommand {
		os.Exit(Stage(os.Args[2:]))
	}
	goleak.VerifyTestMain(m)
}

// sample returns a spec of a shell script, whose processes are gone when the test ends.
func sample(t *testing.T, script string) Spec {
	t.Helper()
	dir := t.TempDir()
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	marker := Marker{Driver: "test", UUID: uuid.NewString(), Generation: 7}
	t.Cleanup(func() {
		log.Close()
		if err := Sweep(context.Background(), marker); err != nil {
			t.Error(err)
		}
	})
	return Spec{Marker: marker, Path: "/bin/sh", Args: []string{"-c", script}, Dir: dir, Log: log}
}

func launch(t *testing.T, spec Spec) *Process {
	t.Helper()
	p, _, err := Launch(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func TestLaunchedProgramIsNobodysChild(t *testing.T) {
	p := launch(t, sample(t, "exec sleep 60"))
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.ID().PID), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if parent := fields[1]; parent == strconv.Itoa(os.Getpid()) {
		t.Error("it is our child")
	}
	if session := fields[3]; session != strconv.Itoa(p.ID().PID) {
		t.Errorf("its session is %s, not its own", session)
	}
}

func TestLaunchedProgramInheritsOnlyItsFiles(t *testing.T) {
	spec := sample(t, "exec sleep 60")
	lease, err := os.Create(filepath.Join(spec.Dir, "lease"))
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Close()
	spec.Files = []*os.File{lease}
	p := launch(t, spec)
	dir := filepath.Join("/proc", strconv.Itoa(p.ID().PID), "fd")
	want := map[string]string{"0": "/dev/null", "1": spec.Log.Name(), "2": spec.Log.Name(), "3": lease.Name()}
	// The shell and the dynamic loader have files of their own open until sleep runs.
	var got map[string]string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if got = descriptors(t, dir); maps.Equal(got, want) {
			return
		}
	}
	t.Errorf("it has descriptors %v, want %v", got, want)
}

// descriptors returns the paths of a process's open files by number. One that is closed meanwhile has an empty path.
func descriptors(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	paths := map[string]string{}
	for _, e := range entries {
		path, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		paths[e.Name()] = path
	}
	return paths
}

func TestLaunchedProgramHasItsLimits(t *testing.T) {
	spec := sample(t, "exec sleep 60")
	spec.OpenFiles, spec.LockedMemory, spec.OOMScoreAdj = 777, os.Geteuid() == 0, 321
	p, warnings, err := Launch(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	dir := filepath.Join("/proc", strconv.Itoa(p.ID().PID))
	text, err := os.ReadFile(filepath.Join(dir, "limits"))
	if err != nil {
		t.Fatal(err)
	}
	limits := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if len(line) > 26 {
			limits[strings.TrimSpace(line[:26])] = strings.Fields(line[26:])[0]
		}
	}
	if got := limits["Max open files"]; got != "777" {
		t.Errorf("it may have %s descriptors", got)
	}
	if got := limits["Max locked memory"]; spec.LockedMemory && got != "unlimited" && len(warnings) == 0 {
		t.Errorf("it may lock %s bytes, and nobody was warned", got)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "oom_score_adj")); err != nil || strings.TrimSpace(string(text)) != "321" {
		t.Errorf("its share of guilt is %s, %v", text, err)
	}
}

func TestMoreDescriptorsThanTheKernelHasAreOnlyAWarning(t *testing.T) {
	spec := sample(t, "exec sleep 60")
	spec.OpenFiles = 1 << 40
	p, warnings, err := Launch(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if !strings.Contains(strings.Join(warnings, " "), "limit") {
		t.Errorf("warnings are %q", warnings)
	}
}

func TestLaunchedProgramIsFound(t *testing.T) {
	spec := sample(t, "exec sleep 60")
	p := launch(t, spec)
	if id, err := ReadRecord(spec.Dir); err != nil || id != p.ID() {
		t.Errorf("record says %v, %v; process is %v", id, err, p.ID())
	}
	found, err := Find(t.Context(), "test", spec.Marker.UUID)
	if err != nil || len(found) != 1 || found[0] != (Found{ID: p.ID(), Marker: spec.Marker}) {
		t.Errorf("found %+v, %v", found, err)
	}
	var scanner Scanner
	picture, err := scanner.Settle(t.Context(), spec.Marker)
	if err != nil || len(picture.Of("test", spec.Marker.UUID)) != 1 {
		t.Errorf("settled: %v, %v", picture, err)
	}
	select {
	case <-p.Done():
		t.Error("sweeping stages ended the program")
	default:
	}
}

func TestEndOfAProgramIsNoticed(t *testing.T) {
	p := launch(t, sample(t, "exec sleep 60"))
	other, err := Open(p.ID())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := other.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := Open(p.ID()); !errors.Is(err, ErrGone) {
		t.Errorf("opening it again: %v", err)
	}
}

func TestWordsOfAProgramThatEndsAtOnceAreInItsLog(t *testing.T) {
	spec := sample(t, "echo old; echo no such machine >&2; exit 1")
	p, _, err := Launch(t.Context(), spec)
	if err == nil {
		defer p.Close()
		err = p.Wait(t.Context())
	}
	if err != nil && !errors.Is(err, ErrGone) {
		t.Fatal(err)
	}
	if got := Tail(spec.Log, 4, 1024); got != "no such machine" {
		t.Errorf("its words are %q", got)
	}
	if got := Tail(spec.Log, 0, 8); got != "machine" {
		t.Errorf("the last of its words are %q", got)
	}
}

func TestReusedPidIsNotTheProcess(t *testing.T) {
	start, err := procfs.StartTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(ID{PID: os.Getpid(), StartTime: start + 1}); !errors.Is(err, ErrGone) {
		t.Errorf("opened a process that started at another time: %v", err)
	}
}

func TestLaunchOfAMissingProgramLeavesNothing(t *testing.T) {
	spec := sample(t, "")
	spec.Path = filepath.Join(spec.Dir, "missing")
	_, _, err := Launch(t.Context(), spec)
	if err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("error is %v", err)
	}
	nothingLeft(t, spec)
}

// A named pipe without a reader in place of a control group's file holds the stage before it makes the program.
func stuckStage(t *testing.T) Spec {
	t.Helper()
	spec := sample(t, "exec sleep 60")
	pipe := filepath.Join(spec.Dir, "cgroup.procs")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	spec.CgroupFiles = []string{pipe}
	return spec
}

func awaitStage(t *testing.T, spec Spec) {
	t.Helper()
	for {
		found, err := Find(t.Context(), "test", spec.Marker.UUID)
		if err != nil {
			t.Fatal(err)
		}
		if len(found) == 1 && found[0].Stage {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func TestCancelledLaunchLeavesNothing(t *testing.T) {
	spec := stuckStage(t)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, _, err := Launch(ctx, spec)
		failed <- err
	}()
	awaitStage(t, spec)
	cancel()
	if err := <-failed; err == nil {
		t.Error("launch succeeded")
	}
	nothingLeft(t, spec)
}

func TestStageWithoutItsPluginIsEnded(t *testing.T) {
	spec := stuckStage(t)
	failed := make(chan error)
	go func() {
		_, _, err := Launch(t.Context(), spec)
		failed <- err
	}()
	awaitStage(t, spec)
	var scanner Scanner
	if picture, err := scanner.Settle(t.Context(), spec.Marker); err != nil || len(picture.Of("test", spec.Marker.UUID)) != 0 {
		t.Fatalf("settled: %v, %v", picture, err)
	}
	if err := <-failed; err == nil {
		t.Error("launch succeeded")
	}
	nothingLeft(t, spec)
}

func TestControlGroupThatRefusesIsOnlyAWarning(t *testing.T) {
	spec := sample(t, "exec sleep 60")
	spec.CgroupFiles = []string{filepath.Join(spec.Dir, "missing")}
	p, warnings, err := Launch(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if len(warnings) == 0 || !strings.Contains(warnings[0], "missing") {
		t.Errorf("warnings are %q", warnings)
	}
}

func nothingLeft(t *testing.T, spec Spec) {
	t.Helper()
	if found, err := Find(t.Context(), "test", spec.Marker.UUID); err != nil || len(found) != 0 {
		t.Errorf("left %+v, %v", found, err)
	}
	if _, err := ReadRecord(spec.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("record left: %v", err)
	}
}

func TestProcessThatClaimsAGuestIsFound(t *testing.T) {
	id := uuid.NewString()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "read x", "qemu", "-uuid", strings.ToUpper(id))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid, err := claimed(t, id)
	if err != nil || pid != cmd.Process.Pid {
		t.Errorf("found %d, %v; want %d", pid, err, cmd.Process.Pid)
	}
	in.Close()
	_ = cmd.Wait() // the end of its input is a failed read
	if pid, err := claimed(t, id); err != nil || pid != 0 {
		t.Errorf("found %d, %v, when nobody claims it", pid, err)
	}
	spec := sample(t, "exec sleep 60")
	spec.Args = []string{"-c", "sleep 60; :", "qemu", "-uuid", id}
	launch(t, spec)
	if pid, err := claimed(t, id); err != nil || pid != 0 {
		t.Errorf("found %d, %v, which is ours", pid, err)
	}
}

func claimed(t *testing.T, uuid string) (int, error) {
	t.Helper()
	picture, err := Scan(t.Context())
	if err != nil {
		return 0, err
	}
	return picture.Claimed(uuid), nil
}

// Every caller has to see what was there before it asked, whoever's scan it got.
func TestSharedScansAreNeverOlderThanTheQuestion(t *testing.T) {
	var scanner Scanner
	var wg sync.WaitGroup
	for range 4 {
		spec := sample(t, "exec sleep 60")
		wg.Go(func() {
			p, _, err := Launch(t.Context(), spec)
			if err != nil {
				t.Error(err)
				return
			}
			defer p.Close()
			for range 8 {
				wg.Go(func() {
					picture, err := scanner.Scan(t.Context())
					if err != nil || len(picture.Of("test", spec.Marker.UUID)) != 1 {
						t.Errorf("found %v, %v", picture, err)
					}
				})
			}
		})
	}
	wg.Wait()
}

func TestScanThatNobodyWaitsForAnyMoreServesTheOthers(t *testing.T) {
	var scanner Scanner
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, gaveUp := scanner.Scan(ctx)
	if _, err := scanner.Scan(t.Context()); err != nil {
		t.Errorf("after one that gave up with %v: %v", gaveUp, err)
	}
}

func FuzzClaim(f *testing.F) {
	f.Add([]byte("qemu\x00-uuid\x00C7\x00"))
	f.Add([]byte("-uuid\x00"))
	f.Fuzz(func(_ *testing.T, cmdline []byte) { _ = claim(cmdline) })
}

func FuzzParseMarker(f *testing.F) {
	f.Add("qemu/c7a5fdbd-edaf-9455-926a-d65c16db1809/3")
	f.Fuzz(func(t *testing.T, s string) {
		if m, ok := parseMarker(s); ok {
			if again, ok := parseMarker(m.String()); !ok || again != m {
				t.Errorf("%q became %v and %v", s, m, again)
			}
		}
	})
}
