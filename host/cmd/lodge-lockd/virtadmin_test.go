package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/host/internal/adminproto"
	"github.com/lodgevirt/lodge/host/internal/lockclient"
	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/host/internal/virtlockdtest"
	"github.com/lodgevirt/lodge/host/internal/xdr"
)

// asVirtlockd is our daemon under virtlockd's name.
func asVirtlockd(t *testing.T) string {
	t.Helper()
	virtlockdtest.Need(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), classicName)
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	t.Setenv(roleVariable, "daemon")
	return link
}

// pair is a virtlockd, and ours in its place.
type pair struct{ theirs, ours *virtlockdtest.Daemon }

func startPair(t *testing.T, args ...string) pair {
	t.Helper()
	program := asVirtlockd(t)
	p := pair{virtlockdtest.Prepare(t, classicName), virtlockdtest.Prepare(t, program)}
	for _, d := range []*virtlockdtest.Daemon{p.theirs, p.ours} {
		if d.Start(t, args...); !d.Running() {
			_, stderr := d.Stop(t)
			t.Fatalf("a daemon does not start: %s", stderr)
		}
	}
	return p
}

// shown is what a command of virt-admin shows.
type shown struct {
	code           int
	stdout, stderr string
}

// virtAdmin runs a command.
func virtAdmin(t *testing.T, d *virtlockdtest.Daemon, args ...string) shown {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "virt-admin", append([]string{"-c", "virtlockd:///system?socket=" + d.AdminSocket}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return shown{cmd.ProcessState.ExitCode(), strings.ReplaceAll(stdout.String(), d.Dir, "DIR"), strings.ReplaceAll(stderr.String(), d.Dir, "DIR")}
}

// What differs from daemon to daemon: when somebody connected, as which process, and the order in which virtlockd lists its servers.
var (
	momentPattern  = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4}`)
	processPattern = regexp.MustCompile(`(unix_process_id:) \d+`)
	serversPattern = regexp.MustCompile(`(?m)^ 0    (\w+)\n 1    (\w+)$`)
	// detailPattern is what follows the part of an error that programs know it by.
	detailPattern = regexp.MustCompile(`(?m)^(error: [^:\n]+): .*$`)
	// systemPattern is an error of the system's, whose words are all that programs know it by.
	systemPattern = regexp.MustCompile(`(?mi)^error: .*: no such file or directory$`)
)

// alike takes out of what is shown what may differ.
func (s shown) alike() string {
	out := momentPattern.ReplaceAllString(s.stdout, "TIME")
	out = processPattern.ReplaceAllString(out, "$1 PID")
	out = serversPattern.ReplaceAllStringFunc(out, func(text string) string {
		if strings.HasPrefix(text, " 0    virtlockd") {
			return " 0    admin\n 1    virtlockd"
		}
		return text
	})
	stderr := systemPattern.ReplaceAllString(s.stderr, "error: no such file or directory")
	return fmt.Sprintf("code %d\nstdout %s\nstderr %s", s.code, out, detailPattern.ReplaceAllString(stderr, "$1: ..."))
}

// register connects to a daemon as a guest's process does, so that the daemon knows who it is.
func register(t *testing.T, d *virtlockdtest.Daemon) net.Conn {
	t.Helper()
	conn := d.Dial(t, d.Socket)
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	call(t, conn, lockproto.ClassicRegister, &lockproto.RegisterArgs{UUID: [16]byte{1}, Name: "guest", ID: 1, PID: uint32(os.Getpid())})
	return conn
}

// call makes a call of virtlockd's program that has to succeed.
func call(t *testing.T, conn net.Conn, procedure int32, args any) {
	t.Helper()
	payload, err := xdr.Append(nil, args)
	if err != nil {
		t.Fatal(err)
	}
	h := rpc.Header{Program: lockproto.ClassicProgram, Version: lockproto.ClassicVersion, Procedure: procedure}
	if err := rpc.NewWriter(conn, patience).Send(h, payload); err != nil {
		t.Fatal(err)
	}
	f, err := rpc.NewReader(conn, rpc.ReaderConfig{}).Next()
	if err != nil {
		t.Fatal(err)
	}
	if f.Status != rpc.OK {
		e, err := rpc.ParseError(f.Payload)
		t.Fatalf("procedure %d: %v, %v", procedure, e.Err(), err)
	}
}

func needVirtAdmin(t *testing.T) {
	t.Helper()
	virtlockdtest.Need(t)
	if _, err := exec.LookPath("virt-admin"); err != nil {
		t.Skip("virt-admin is not installed")
	}
}

// commands are virt-admin's, by their arguments, in the order in which both daemons get them.
func commands() [][]string {
	return [][]string{
		{"uri"},
		{"version"},
		{"srv-list"},
		{"server-list"},
		{"srv-threadpool-info", "virtlockd"},
		{"srv-threadpool-info", "admin"},
		{"srv-threadpool-info", "bogus"},
		{"srv-threadpool-set", "virtlockd", "--min-workers", "1", "--max-workers", "2"},
		{"srv-threadpool-set", "virtlockd", "--max-workers", "2"},
		{"srv-threadpool-set", "virtlockd", "--min-workers", "5"},
		{"srv-threadpool-set", "virtlockd", "--min-workers", "0"},
		{"srv-threadpool-set", "virtlockd", "--max-workers", "0"},
		{"srv-threadpool-set", "admin", "--priority-workers", "0"},
		{"srv-threadpool-set", "virtlockd"},
		{"srv-threadpool-set", "bogus", "--max-workers", "1"},
		{"srv-clients-list", "virtlockd"},
		{"srv-clients-list", "admin"},
		{"srv-clients-list", "bogus"},
		{"client-info", "virtlockd", "1"},
		{"client-info", "virtlockd", "99"},
		{"client-info", "bogus", "1"},
		{"client-info", "admin", "1"},
		{"srv-clients-info", "virtlockd"},
		{"srv-clients-info", "admin"},
		{"srv-clients-info", "bogus"},
		{"client-disconnect", "virtlockd", "99"},
		{"client-disconnect", "virtlockd", "1"},
		{"client-list", "virtlockd"},
		{"srv-clients-list admin; client-info admin 29; client-disconnect admin 29; uri"},
		{"srv-clients-set", "virtlockd", "--max-clients", "20"},
		{"srv-clients-set", "virtlockd", "--max-unauth-clients", "10"},
		{"srv-clients-set", "virtlockd", "--max-unauth-clients", "2000"},
		{"srv-clients-info", "virtlockd"},
		{"srv-clients-set", "virtlockd", "--max-clients", "20", "--max-unauth-clients", "20"},
		{"srv-clients-set", "virtlockd"},
		{"srv-clients-set", "admin", "--max-clients", "4294967295"},
		{"srv-clients-set", "bogus", "--max-clients", "1"},
		{"srv-clients-info", "virtlockd"},
		{"srv-clients-info", "admin"},
		{"daemon-log-outputs"},
		{"daemon-log-filters"},
		{"daemon-log-outputs", "2:stderr 3:file:/tmp/virt-admin-test.log"},
		{"daemon-log-outputs"},
		{"daemon-log-outputs", "1:bogus"},
		{"daemon-log-outputs", "9:stderr"},
		{"daemon-log-outputs", "3:file:/nowhere/log"},
		{"daemon-log-outputs", "3:syslog"},
		{"daemon-log-outputs", "3:syslog:virtlockd 4:stderr 3:stderr"},
		{"daemon-log-outputs"},
		{"daemon-log-outputs", "4:journald"},
		{"daemon-log-outputs"},
		{"daemon-log-outputs", ""},
		{"daemon-log-outputs"},
		{"daemon-log-filters", "3:lock 4:rpc"},
		{"daemon-log-filters"},
		{"daemon-log-filters", "1:a 9:b"},
		{"daemon-log-filters", "a"},
		{"daemon-log-filters"},
		{"daemon-log-filters", ""},
		{"daemon-log-filters"},
		{"srv-update-tls", "virtlockd"},
		{"server-update-tls", "admin"},
		{"server-update-tls", "bogus"},
		{"daemon-timeout", "--timeout", "1000"},
		{"daemon-timeout", "--timeout", "0"},
		{"daemon-timeout", "0"},
	}
}

func TestVirtAdminShowsTheSameAsOfVirtlockd(t *testing.T) {
	needVirtAdmin(t)
	p := startPair(t, "-f", "/dev/null")
	for _, d := range []*virtlockdtest.Daemon{p.theirs, p.ours} {
		register(t, d)
		register(t, d)
	}
	t.Cleanup(func() { os.Remove("/tmp/virt-admin-test.log") })
	for _, args := range commands() {
		want, got := virtAdmin(t, p.theirs, args...), virtAdmin(t, p.ours, args...)
		if want.alike() != got.alike() {
			t.Errorf("virt-admin %q\nof ours: %s\nof virtlockd: %s", args, got.alike(), want.alike())
		}
	}
}

func TestVirtAdminChangesTheDaemon(t *testing.T) {
	needVirtAdmin(t)
	d := virtlockdtest.Prepare(t, asVirtlockd(t)).Start(t, "-f", "/dev/null")
	log := filepath.Join(t.TempDir(), "log")
	for _, args := range [][]string{{"daemon-log-outputs", "1:file:" + log}, {"daemon-log-filters", "1:locking"}} {
		if got := virtAdmin(t, d, args...); got.code != 0 {
			t.Fatalf("%q: %+v", args, got)
		}
	}
	conn := register(t, d)
	if got := virtAdmin(t, d, "client-disconnect", "virtlockd", "1"); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection goes on")
	}
	if text, err := os.ReadFile(log); err != nil || !strings.Contains(string(text), "[INFO]  locking.lockd.admin: client is disconnected") {
		t.Errorf("log %q, error %v", text, err)
	}
	if got := virtAdmin(t, d, "srv-clients-set", "virtlockd", "--max-clients", "1", "--max-unauth-clients", "1"); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	first := register(t, d)
	second := d.Dial(t, d.Socket)
	served := make(chan struct{})
	go func() {
		defer close(served)
		call(t, second, lockproto.ClassicCreateLockspace, &lockproto.CreateLockspaceArgs{Path: t.TempDir()})
	}()
	select {
	case <-served:
		t.Error("a client above the limit is served")
	case <-time.After(100 * time.Millisecond):
	}
	first.Close()
	select {
	case <-served:
	case <-time.After(patience):
		t.Error("a client that waited for room is not served")
	}
	if got := virtAdmin(t, d, "daemon-timeout", "--timeout", "1"); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	second.Close()
	eventually(t, "the daemon does not end when nobody uses it", func() bool { return !d.Running() })
	if code, stderr := d.Stop(t); code != 0 {
		t.Errorf("code %d: %s", code, stderr)
	}
}

func TestPriorityWorkersAreRefused(t *testing.T) {
	needVirtAdmin(t)
	p := startPair(t, "-f", "/dev/null")
	// virtlockd starts the threads, which never have anything to do; we have none to start and say so.
	if got := virtAdmin(t, p.theirs, "srv-threadpool-set", "virtlockd", "--priority-workers", "2"); got.code != 0 {
		t.Errorf("virtlockd: %+v", got)
	}
	got := virtAdmin(t, p.ours, "srv-threadpool-set", "virtlockd", "--priority-workers", "2")
	if got.code != 1 || !strings.Contains(got.stderr, "invalid argument: server \"virtlockd\" does its calls without workers") {
		t.Errorf("ours: %+v", got)
	}
}

func TestAdministratorsNoticeNothingOfAReplacement(t *testing.T) {
	needVirtAdmin(t)
	d := virtlockdtest.Prepare(t, asVirtlockd(t)).Start(t, "-f", "/dev/null")
	if got := virtAdmin(t, d, "srv-clients-set", "virtlockd", "--max-clients", "20", "--max-unauth-clients", "20"); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	guest := register(t, d)
	conn := d.Dial(t, d.AdminSocket)
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	reader, writer := rpc.NewReader(conn, rpc.ReaderConfig{}), rpc.NewWriter(conn, patience)
	ask := func() {
		t.Helper()
		h := rpc.Header{Program: adminproto.Program, Version: adminproto.Version, Procedure: adminproto.GetLibVersion}
		if err := writer.Send(h, nil); err != nil {
			t.Fatal(err)
		}
		if f, err := reader.Next(); err != nil || f.Status != rpc.OK {
			t.Fatalf("answer %+v, error %v", f, err)
		}
	}
	ask()
	before := virtAdmin(t, d, "client-list virtlockd; client-info virtlockd 1; srv-clients-info virtlockd")
	client := lockclient.New(d.Socket)
	defer client.Close()
	first, err := client.Status(t.Context())
	if err == nil {
		err = syscall.Kill(d.PID(), syscall.SIGUSR1)
	}
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the program is not replaced", func() bool {
		ask()
		now, err := client.Status(t.Context())
		return err == nil && now.Started.After(first.Started)
	})
	client.Close()
	eventually(t, "a client that has left is still there", func() bool {
		return strings.Contains(virtAdmin(t, d, "srv-clients-info", "virtlockd").stdout, "nclients            : 1\n")
	})
	after := virtAdmin(t, d, "client-list virtlockd; client-info virtlockd 1; srv-clients-info virtlockd")
	if before != after {
		t.Errorf("before %+v\nafter %+v", before, after)
	}
	call(t, guest, lockproto.ClassicCreateLockspace, &lockproto.CreateLockspaceArgs{Path: t.TempDir()})
}
