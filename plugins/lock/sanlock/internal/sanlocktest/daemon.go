// Package sanlocktest runs real sanlock daemons for tests, each as a host of its own with a folder for its socket, and processes that
// own leases. Where sanlock is not installed, or cannot run, the test is skipped and says so.
//
// The daemons run without a watchdog, and without the privileges that sanlock usually wants. All of it is safe concurrently, and gone
// when the test has ended.
package sanlocktest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/client"
)

// patience is how long a daemon may take to start or to end.
const patience = 20 * time.Second

// IOTimeout is that of all daemons, in seconds: the shortest there is.
const IOTimeout = 1

// Host is a machine, as far as sanlock knows.
type Host struct {
	// Name is what the host calls itself.
	Name string
	// Dir is the folder of the daemon's socket.
	Dir string
	// Client talks to the daemon.
	Client *client.Client

	grace int
	mu    sync.Mutex // guards all below
	cmd   *exec.Cmd
	ended chan struct{}
}

// Option changes how a daemon is run.
type Option func(*Host)

// Grace is for how many seconds the daemon lets a process be after its kill path or a SIGTERM.
func Grace(seconds int) Option { return func(h *Host) { h.grace = seconds } }

// NewHost starts a daemon.
func NewHost(t testing.TB, name string, options ...Option) *Host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can run sanlock")
	}
	if _, err := exec.LookPath("sanlock"); err != nil {
		t.Skip("sanlock is not installed")
	}
	// The path of a socket has to be short.
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	h := &Host{Name: name, Dir: dir, Client: client.New(dir), grace: 40}
	for _, o := range options {
		o(h)
	}
	t.Cleanup(func() {
		h.Kill()
		if t.Failed() {
			if log, err := os.ReadFile(h.logPath()); err == nil {
				t.Logf("log of sanlock on %s:\n%s", name, log)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	h.Start(t)
	return h
}

func (h *Host) logPath() string { return filepath.Join(h.Dir, "log") }

// Start starts the daemon, which must not run.
func (h *Host) Start(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(h.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.Background(), "sanlock", "daemon", "-D", "-w", "0", "-h", "0", "-l", "0", "-U", "root", "-G", "root",
		"-e", h.Name, "-o", strconv.Itoa(IOTimeout), "-g", strconv.Itoa(h.grace))
	cmd.Env = append(os.Environ(), "SANLOCK_RUN_DIR="+h.Dir, "SANLOCK_PRIVILEGED=0")
	cmd.Stderr, cmd.SysProcAttr = log, &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Skipf("sanlock does not start: %v", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // its log says how it ended
		_ = log.Close()
	}()
	h.mu.Lock()
	h.cmd, h.ended = cmd, ended
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		_, err := h.Client.Version(ctx)
		if err == nil {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
			continue
		case <-ended:
		case <-ctx.Done():
		}
		text, _ := os.ReadFile(h.logPath())
		t.Skipf("sanlock does not answer: %v\n%s", err, text)
	}
}

// Kill ends the daemon with SIGKILL. The processes that own leases live on.
func (h *Host) Kill() {
	h.mu.Lock()
	cmd, ended := h.cmd, h.ended
	h.cmd = nil
	h.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(unix.SIGKILL)
	<-ended
}

// Signal sends the daemon a signal.
func (h *Host) Signal(t testing.TB, sig unix.Signal) {
	t.Helper()
	h.mu.Lock()
	cmd := h.cmd
	h.mu.Unlock()
	if err := cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}
