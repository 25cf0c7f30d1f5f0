package daemonize_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/daemonize"
)

const (
	// patience is how long a test waits for what must happen before it fails instead of hanging.
	patience = 20 * time.Second
	// roleVariable says what the test binary does in the background; it is started in the foreground too, then.
	roleVariable = "DAEMONIZE_TEST_ROLE"
	// noteVariable names a file where the daemon says what it is.
	noteVariable = "DAEMONIZE_TEST_NOTE"
	codeSlow     = 77
)

func TestMain(m *testing.M) {
	role := os.Getenv(roleVariable)
	if role == "" {
		os.Exit(m.Run())
	}
	background, inside := daemonize.Inside()
	if inside {
		daemon(role, background)
	}
	wait := patience
	if role == "slow" {
		wait = 50 * time.Millisecond
	}
	code, err := daemonize.Start(wait, "extra")
	if errors.Is(err, daemonize.ErrSlow) {
		code = codeSlow
	} else if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 78
	}
	os.Exit(code)
}

// daemon is what runs in the background.
func daemon(role string, background *daemonize.Background) {
	fmt.Fprintln(os.Stderr, "daemon starts")
	switch role {
	case "fails":
		fmt.Fprintln(os.Stderr, "daemon has a reason")
		os.Exit(5)
	case "killed":
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	case "slow":
		time.Sleep(time.Second)
		os.Exit(0)
	}
	if err := background.Ready(); err != nil {
		os.Exit(6)
	}
	fmt.Fprintln(os.Stderr, "daemon talks to nobody")
	dir, _ := os.Getwd()
	sid, _ := unix.Getsid(0)
	stderr, _ := os.Readlink("/proc/self/fd/2")
	_, again := daemonize.Inside()
	name, _ := os.ReadFile("/proc/self/comm")
	note := fmt.Sprintln(os.Getpid(), sid, dir, strings.Join(os.Args[1:], ","), stderr, again, string(name))
	path := os.Getenv(noteVariable)
	if os.WriteFile(path+".new", []byte(note), 0o600) != nil || os.Rename(path+".new", path) != nil {
		os.Exit(7)
	}
	time.Sleep(patience)
	os.Exit(0)
}

func run(t *testing.T, role string) (code int, stderr, note string) {
	t.Helper()
	note = filepath.Join(t.TempDir(), "note")
	cmd := exec.Command(os.Args[0], "one", "two")
	cmd.Env = append(os.Environ(), roleVariable+"="+role, noteVariable+"="+note)
	var out bytes.Buffer
	cmd.Stderr = &out
	// The daemon keeps a duplicate of stderr until it is ready: Wait must not wait for its end.
	cmd.WaitDelay = patience
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), note
}

func TestDaemonGoesOnWhenItIsReady(t *testing.T) {
	code, stderr, note := run(t, "ready")
	if code != 0 || stderr != "daemon starts\n" {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
	var text []byte
	for give := time.Now().Add(patience); len(text) == 0 && time.Now().Before(give); time.Sleep(time.Millisecond) {
		text, _ = os.ReadFile(note)
	}
	got := strings.Fields(string(text))
	if len(got) != 7 {
		t.Fatalf("the daemon says %q", text)
	}
	pid, err := strconv.Atoi(got[0])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGKILL) }()
	name := filepath.Base(os.Args[0])
	name = name[:min(len(name), 15)] // as much as the kernel keeps
	if got[1] != got[0] {
		t.Errorf("session %s of process %s", got[1], got[0])
	}
	if want := []string{"/", "one,two,extra", "/dev/null", "false", name}; strings.Join(got[2:], " ") != strings.Join(want, " ") {
		t.Errorf("the daemon says %q, want %q", got[2:], want)
	}
}

func TestReasonAndCodeOfADaemonThatDoesNotStart(t *testing.T) {
	if code, stderr, _ := run(t, "fails"); code != 5 || stderr != "daemon starts\ndaemon has a reason\n" {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
	if code, stderr, _ := run(t, "killed"); code != 78 || !strings.Contains(stderr, "killed") {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
}

func TestSlowDaemonIsNotWaitedForForEver(t *testing.T) {
	if code, _, _ := run(t, "slow"); code != codeSlow {
		t.Errorf("code %d", code)
	}
}
