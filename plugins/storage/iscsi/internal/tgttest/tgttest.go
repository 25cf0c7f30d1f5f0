// Package tgttest runs a real iSCSI target, tgtd(8), for tests: on loopback, with a control port and a portal of its own, and disks that are
// files of the test. It ends with the test. A Server is for one goroutine.
package tgttest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long tgtd may take to begin.
const patience = 20 * time.Second

// Server is a tgtd.
type Server struct {
	// Portal is its address.
	Portal string
	// Host and Port are its parts.
	Host string
	Port int
	// Process is the daemon's.
	Process *os.Process

	t       testing.TB
	control string
	gone    chan struct{}
	targets int
}

// Start starts a server without targets, or skips the test where tgtd is not installed or cannot run.
func Start(t testing.TB) *Server {
	t.Helper()
	for _, name := range []string{"tgtd", "tgtadm"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not installed (make deps)", name)
		}
	}
	if os.Getuid() != 0 {
		t.Skip("tgtd runs as root only")
	}
	port := freePort(t)
	return StartAt(t, port)
}

// StartAt starts a server at a port, where one was before.
func StartAt(t testing.TB, port int) *Server {
	t.Helper()
	s := &Server{t: t, Host: "127.0.0.1", Port: port, Portal: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), control: control(port), gone: make(chan struct{})}
	log, err := os.Create(filepath.Join(t.TempDir(), "tgtd.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	// It is ended by Kill, which waits for it.
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "tgtd", "-f", "--control-port", s.control, "--iscsi", "portal="+s.Portal)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.Process = cmd.Process
	go func() {
		defer close(s.gone)
		_ = cmd.Wait() // how it ended is in its log
	}()
	t.Cleanup(s.Kill)
	deadline := time.Now().Add(patience)
	for {
		if s.admin("--op", "show", "--mode", "system") == nil {
			return s
		}
		select {
		case <-s.gone:
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("tgtd has ended: %s", text)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal("tgtd does not begin")
		}
	}
}

// control is a control port that nobody else's tgtd has: a number in the name of a socket, at most 32767.
func control(port int) string { return strconv.Itoa(port & 0x7fff) }

func freePort(t testing.TB) int {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Admin runs tgtadm.
func (s *Server) Admin(args ...string) {
	s.t.Helper()
	if err := s.admin(args...); err != nil {
		s.t.Fatal(err)
	}
}

func (s *Server) admin(args ...string) error {
	all := append([]string{"-C", s.control, "--lld", "iscsi"}, args...)
	if out, err := exec.CommandContext(s.t.Context(), "tgtadm", all...).CombinedOutput(); err != nil {
		return fmt.Errorf("tgtadm %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// Target makes a target with a disk for each file, from unit 1 on; unit 0 is tgtd's controller.
func (s *Server) Target(name string, disks ...string) (id int) {
	s.t.Helper()
	s.targets++
	id = s.targets
	s.Admin("--op", "new", "--mode", "target", "--tid", strconv.Itoa(id), "-T", name)
	for n, disk := range disks {
		s.Disk(id, n+1, disk)
	}
	s.Admin("--op", "bind", "--mode", "target", "--tid", strconv.Itoa(id), "-I", "ALL")
	return id
}

// Disk adds a unit.
func (s *Server) Disk(target, lun int, file string, more ...string) {
	s.t.Helper()
	s.Admin(append([]string{"--op", "new", "--mode", "logicalunit", "--tid", strconv.Itoa(target), "--lun", strconv.Itoa(lun), "-b", file}, more...)...)
}

// CHAP has a target let in only who knows a password, which has at most 16 bytes.
func (s *Server) CHAP(target int, user, password string) {
	s.t.Helper()
	s.Admin("--op", "new", "--mode", "account", "--user", user, "--password", password)
	s.Admin("--op", "bind", "--mode", "account", "--tid", strconv.Itoa(target), "--user", user)
}

// Pause stops the daemon in its tracks; connections stay and nobody answers.
func (s *Server) Pause() { _ = s.Process.Signal(syscall.SIGSTOP) }

// Resume lets it go on.
func (s *Server) Resume() { _ = s.Process.Signal(syscall.SIGCONT) }

// Kill ends it with SIGKILL.
func (s *Server) Kill() {
	_ = s.Process.Kill()
	<-s.gone
	// What its control port leaves in the file system.
	name := "/var/run/tgtd/socket." + s.control
	_ = os.Remove(name)
	_ = os.Remove(name + ".lock")
}

// File makes a disk's file of some size in bytes, under a path that tgtadm takes for one whatever the test is called.
func File(t testing.TB, size int64) string {
	t.Helper()
	f, err := os.CreateTemp("", "tgttest-disk-")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	t.Cleanup(func() { _ = os.Remove(f.Name()) })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}
