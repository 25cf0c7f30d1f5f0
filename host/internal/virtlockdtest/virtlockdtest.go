// Package virtlockdtest runs libvirt's own virtlockd, or ours in its place, for tests that compare them. Each daemon sees a folder of the
// test in place of /run, in a mount namespace of its own, so that any number of them can run and none touches the machine.
//
// A daemon belongs to the test that started it and ends with it. Where virtlockd is not installed, or the test does not run as
// root, the test is skipped.
package virtlockdtest

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Patience is how long anything may take before a test fails instead of hanging.
const Patience = 20 * time.Second

// look is the time between two looks at a daemon that starts.
const look = 2 * time.Millisecond

// Daemon is a virtlockd.
type Daemon struct {
	// Dir is what it sees as /run.
	Dir string
	// Socket and AdminSocket are its sockets, by their path outside.
	Socket, AdminSocket string
	// PIDFile is its pid file.
	PIDFile string

	program string
	cmd     *exec.Cmd
	stderr  bytes.Buffer
	ended   chan error
}

// Need skips the test if virtlockd cannot be run.
func Need(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts virtlockd")
	}
	for _, tool := range []string{"virtlockd", "unshare"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool, "is not installed")
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a mount namespace")
	}
}

// Start runs virtlockd with arguments and returns when it has ended or serves its admin socket; Running says which.
func Start(t testing.TB, args ...string) *Daemon {
	t.Helper()
	Need(t)
	return Prepare(t, "virtlockd").Start(t, args...)
}

// Prepare makes the folder of a daemon, which Start runs: virtlockd, or another program.
func Prepare(t testing.TB, program string) *Daemon {
	t.Helper()
	// A socket's path is short, and t.TempDir's is long.
	dir, err := os.MkdirTemp("", "virtlockd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	run := filepath.Join(dir, "libvirt")
	return &Daemon{
		Dir: dir, Socket: filepath.Join(run, "virtlockd-sock"), AdminSocket: filepath.Join(run, "virtlockd-admin-sock"),
		PIDFile: filepath.Join(dir, "virtlockd.pid"), program: program, ended: make(chan error, 1),
	}
}

// Command is the daemon with arguments, not started.
func (d *Daemon) Command(args ...string) *exec.Cmd {
	// Stop ends it, not a context.
	return exec.CommandContext(context.Background(), "unshare", append([]string{
		"--mount", "--propagation", "private", "sh", "-c",
		`mount --bind "$0" /run && mkdir -p /run/libvirt && program="$1" && shift && exec "$program" "$@"`, d.Dir, d.program,
	}, args...)...)
}

// Start runs the daemon with arguments, once, and returns when it has ended or serves its admin socket.
func (d *Daemon) Start(t testing.TB, args ...string) *Daemon {
	t.Helper()
	d.cmd = d.Command(args...)
	d.cmd.Stderr = &d.stderr
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { d.ended <- d.cmd.Wait() }()
	t.Cleanup(func() { d.Stop(t) })
	for give := time.Now().Add(Patience); d.Running() && !exists(d.AdminSocket); time.Sleep(look) {
		if time.Now().After(give) {
			t.Fatal("the daemon neither ends nor serves")
		}
	}
	return d
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// PID is the daemon's.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Running reports whether the daemon has not ended.
func (d *Daemon) Running() bool {
	select {
	case err := <-d.ended:
		d.ended <- err
		return false
	default:
		return true
	}
}

// Dial connects to one of the daemon's sockets. A socket that was just made is not yet listened on.
func (d *Daemon) Dial(t testing.TB, socket string) net.Conn {
	t.Helper()
	for give := time.Now().Add(Patience); ; time.Sleep(look) {
		dialer := net.Dialer{Timeout: Patience}
		conn, err := dialer.DialContext(t.Context(), "unix", socket)
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			return conn
		}
		if !errors.Is(err, syscall.ECONNREFUSED) || time.Now().After(give) || !d.Running() {
			t.Fatal(err)
		}
	}
}

// Stop ends the daemon and returns its exit code and what it wrote to stderr.
func (d *Daemon) Stop(t testing.TB) (code int, stderr string) {
	t.Helper()
	if d.Running() {
		if err := d.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
	}
	select {
	case err := <-d.ended:
		d.ended <- err
	case <-time.After(Patience):
		_ = d.cmd.Process.Kill()
		t.Error("the daemon does not end")
		return -1, ""
	}
	return d.cmd.ProcessState.ExitCode(), strings.TrimSpace(d.stderr.String())
}
