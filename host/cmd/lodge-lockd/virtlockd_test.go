package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/host/internal/lockclient"
	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/virtlockdtest"
)

// TestOptionsAreVirtlockds starts both daemons with the same arguments and compares how that ends.
func TestOptionsAreVirtlockds(t *testing.T) {
	program := asVirtlockd(t)
	dir := t.TempDir()
	bad, good := filepath.Join(dir, "bad.conf"), filepath.Join(dir, "good.conf")
	if err := errors.Join(
		os.WriteFile(bad, []byte("max_clients = \"x\"\n"), 0o600), os.WriteFile(good, []byte("max_clients = 20; unknown = 1\n"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"-h"},
		{"--help"},
		{"--he"},
		{"-V"},
		{"--version"},
		{"-Vh"},
		{"--bogus"},
		{"-z"},
		{"--ver"},
		{"-t"},
		{"-f"},
		{"-t", "abc"},
		{"-t", "-1"},
		{"-t", "2147484"},
		{"--timeout=99999999999"},
		{"-f", "/nowhere"},
		{"-f", ""},
		{"--conf=/nowhere"},
		{"-f", bad},
		{"-d", "-f", bad},
		{"-d", "-p", "/nowhere/pid"},
		{"-p", "/nowhere/pid"},
		{"--daemon=x"},
		{},
		{"-t", "0"},
		{"-t", "2147483"},
		{"--conf", good},
		{"-f", good},
		{"-v"},
		{"--verb"},
		{"extra"},
		{"-p", "/run/x.pid"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			theirs, ours := virtlockdtest.Prepare(t, classicName), virtlockdtest.Prepare(t, program)
			want, got := theirs.Start(t, args...).Running(), ours.Start(t, args...).Running()
			wantCode, _ := theirs.Stop(t)
			code, stderr := ours.Stop(t)
			if got != want || code != wantCode {
				t.Errorf("runs %v code %d, of virtlockd %v code %d: %s", got, code, want, wantCode, stderr)
			}
			if !want && wantCode != 0 && stderr == "" {
				t.Error("it ends without a word")
			}
		})
	}
}

func TestWhatIsPrinted(t *testing.T) {
	for _, c := range []struct {
		argv0, arg string
		code       int
		stdout     string
	}{
		{"virtlockd", "--version", 0, "virtlockd (lodge) "},
		{"/usr/sbin/lodge-lockd", "-V", 0, "lodge-lockd (lodge) "},
		{"virtlockd", "--help", 0, "Usage: virtlockd "},
		{"lodge-lockd", "-h", 0, "Usage: lodge-lockd "},
		{"virtlockd", "--bogus", 1, ""},
		{"lodge-lockd", "--bogus", 2, ""},
		{"lodge-lockd", "extra", 2, ""},
		{"lodge-lockd", "--log-level=loud", 2, ""},
		{"lodge-lockd", "-t-1", 2, ""},
	} {
		var stdout, stderr bytes.Buffer
		code := run(c.argv0, []string{c.arg}, &stdout, &stderr)
		if code != c.code || !strings.HasPrefix(stdout.String(), c.stdout) || (code != 0) != (stderr.Len() > 0) {
			t.Errorf("%s %s: code %d, stdout %q, stderr %q", c.argv0, c.arg, code, stdout.String(), stderr.String())
		}
	}
}

// runToEnd runs a command and returns its exit code and what it wrote to stderr.
func runToEnd(t *testing.T, cmd *exec.Cmd) (code int, stderr string) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stderr = &out
	cmd.WaitDelay = patience
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// endByPIDFile ends the daemon that a pid file names, and waits for it.
func endByPIDFile(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the daemon does not end", func() bool {
		// Whoever has become its parent may be slow to notice.
		_, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		return err != nil
	})
}

func TestDaemonInTheBackground(t *testing.T) {
	program := asVirtlockd(t)
	d := virtlockdtest.Prepare(t, program)
	code, stderr := runToEnd(t, exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c",
		`mount --bind "$0" /run && "$1" -d -f /dev/null; echo first $? >&2; "$1" -d -f /dev/null; echo second $? >&2`, d.Dir, program))
	if code != 0 || !strings.Contains(stderr, "first 0\n") || !strings.Contains(stderr, "second 1\n") || !strings.Contains(stderr, "another daemon is running") {
		t.Errorf("code %d: %s", code, stderr)
	}
	register(t, d).Close()
	for path, mode := range map[string]os.FileMode{d.Socket: 0o700, d.AdminSocket: 0o700, d.PIDFile: 0o644} {
		st, err := os.Stat(path)
		if err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: mode %v, error %v", path, st.Mode(), err)
		}
	}
	endByPIDFile(t, d.PIDFile)
	for _, path := range []string{d.Socket, d.AdminSocket, d.PIDFile} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
}

func TestSessionDaemon(t *testing.T) {
	needVirtAdmin(t)
	program := asVirtlockd(t)
	dir, err := os.MkdirTemp("", "session")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	const nobody = 65534
	runtime := filepath.Join(dir, "runtime")
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(runtime, 0o700), os.Chown(runtime, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	// Others may not enter the folder of the test's binary.
	copied := filepath.Join(dir, classicName)
	text, err := os.ReadFile(program)
	if err == nil {
		err = os.WriteFile(copied, text, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	as := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(name, args...)
		cmd.Dir = "/"
		cmd.Env = []string{"HOME=" + dir + "/home", "XDG_RUNTIME_DIR=" + runtime, roleVariable + "=daemon", "PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		return cmd
	}
	cmd := as(copied)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(cmd) })
	folder := filepath.Join(runtime, "libvirt")
	eventually(t, "no admin socket", func() bool {
		return exec.Command("test", "-S", filepath.Join(folder, "virtlockd-admin-sock")).Run() == nil
	})
	show := as("virt-admin", "-c", "virtlockd:///session", "srv-clients-info virtlockd; client-info admin 1")
	out, err := show.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "nclients_max        : 1024") || !strings.Contains(string(out), "unix_user_id   : 65534") {
		t.Errorf("virt-admin of the session: %v: %s", err, out)
	}
	if text, err := os.ReadFile(filepath.Join(folder, "virtlockd.pid")); err != nil || string(text) != strconv.Itoa(cmd.Process.Pid) {
		t.Errorf("pid file %q, error %v", text, err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestTimeoutEndsTheDaemonOnlyWithoutClientsAndLocks(t *testing.T) {
	d := virtlockdtest.Prepare(t, asVirtlockd(t)).Start(t, "-f", "/dev/null", "-t", "1")
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// A lock for another process stays when the connection ends, as for a guest that libvirtd acts for.
	guest := exec.Command("sleep", "600")
	if err := guest.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(guest) })
	owner := &lockproto.RegisterArgs{UUID: [16]byte{1}, Name: "guest", ID: 1, PID: uint32(guest.Process.Pid)}
	resource := &lockproto.ResourceArgs{Name: disk}
	conn := d.Dial(t, d.Socket)
	call(t, conn, lockproto.ClassicRegister, owner)
	stays := func(while string) {
		t.Helper()
		time.Sleep(1500 * time.Millisecond)
		if !d.Running() {
			t.Fatalf("the daemon has ended while there is %s", while)
		}
	}
	stays("a client")
	call(t, conn, lockproto.ClassicAcquireResource, resource)
	conn.Close()
	stays("a lock")
	conn = d.Dial(t, d.Socket)
	call(t, conn, lockproto.ClassicRegister, owner)
	call(t, conn, lockproto.ClassicReleaseResource, resource)
	conn.Close()
	eventually(t, "the daemon does not end", func() bool { return !d.Running() })
	if code, stderr := d.Stop(t); code != 0 {
		t.Errorf("code %d: %s", code, stderr)
	}
}

func TestConfigurationIsReadAgain(t *testing.T) {
	needVirtAdmin(t)
	dir := t.TempDir()
	conf, log := filepath.Join(dir, "virtlockd.conf"), filepath.Join(dir, "log")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("max_clients = 20\nadmin_max_clients = 7\nlog_outputs = \"2:file:" + log + "\"\nlog_level = 2\n")
	d := virtlockdtest.Prepare(t, asVirtlockd(t)).Start(t, "-f", conf)
	shows := func(want ...string) bool {
		got := virtAdmin(t, d, "srv-clients-info virtlockd; srv-clients-info admin; daemon-log-filters; daemon-log-outputs").stdout
		for _, w := range want {
			if !strings.Contains(got, w) {
				return false
			}
		}
		return true
	}
	if !shows("nclients_max        : 20\n", "nclients_max        : 7\n", "Logging outputs: 2:file:") {
		t.Error("the configuration is not in force")
	}
	reload := func() {
		t.Helper()
		if err := syscall.Kill(d.PID(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	write("max_clients = 30\nlog_filters = \"1:rpc\"\nlog_outputs = \"2:file:" + log + "\"\nlog_level = 2\n")
	reload()
	eventually(t, "the configuration is not read again", func() bool {
		return shows("nclients_max        : 30\n", "nclients_max        : 5000\n", "Logging filters: 1:*rpc* ")
	})
	if text, err := os.ReadFile(log); err != nil || !strings.Contains(string(text), "configuration is read again") {
		t.Errorf("the new log says %q, error %v", text, err)
	}
	write("max_clients = 40\nlog_filters = \"9:rpc\"\n")
	reload()
	eventually(t, "the mistake is not told", func() bool {
		text, err := os.ReadFile(log)
		return err == nil && strings.Contains(string(text), conf+":2: log_filters: ")
	})
	if !shows("nclients_max        : 30\n", "Logging filters: 1:*rpc* ") {
		t.Error("a configuration with a mistake has changed something")
	}
}

func TestMistakesInTheConfigurationAreNamed(t *testing.T) {
	program := asVirtlockd(t)
	for text, want := range map[string]string{
		"\nmax_clients = x\n": ":2: ", "log_level = 9\n": ":1: log_level: ", "\n\nlog_outputs = \"1:bogus\"\n": ":3: log_outputs: ",
		"log_filters = \"9:a\"\n": ":1: log_filters: ",
	} {
		conf := filepath.Join(t.TempDir(), "virtlockd.conf")
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		d := virtlockdtest.Prepare(t, program)
		if d.Start(t, "-f", conf).Running() {
			t.Errorf("%q is accepted", text)
		}
		if code, stderr := d.Stop(t); code != 1 || !strings.Contains(stderr, conf+want) {
			t.Errorf("%q: code %d: %s", text, code, stderr)
		}
	}
}

func TestWhatTheSystemDoesNotAllowIsAWarning(t *testing.T) {
	program := asVirtlockd(t)
	for _, tool := range []string{"prlimit", "setpriv"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool, "is not installed")
		}
	}
	d := virtlockdtest.Prepare(t, "prlimit").Start(t, "--nofile=500:500", "setpriv", "--bounding-set=-sys_resource", program, "-f", "/dev/null")
	if !d.Running() {
		t.Error("the daemon does not run")
	}
	_, stderr := d.Stop(t)
	for _, want := range []string{"few files may be open", "limit=500", "cannot lower the chance to be killed for memory"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("no %q in %s", want, stderr)
		}
	}
}

// TestSuccessorIsNotStoppedByItsConfiguration: the state that virtlockd leaves is for the process that it names. -d is not followed
// again, and a mistake in the configuration must not cost the locks.
func TestSuccessorIsNotStoppedByItsConfiguration(t *testing.T) {
	o := options{name: classicName, classic: true, restart: filepath.Join(t.TempDir(), "restart.json")}
	for text, want := range map[string]bool{
		`{"magic":"1","daemon":{}}`: false, `{"magic":"` + strconv.Itoa(os.Getpid()) + `","daemon":{}}`: true, `{}`: false, `[`: false,
	} {
		if err := os.WriteFile(o.restart, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := o.takesOver(); got != want {
			t.Errorf("state %s: takes over %v", text, got)
		}
	}
	if err := os.WriteFile(o.restart, fmt.Appendf(nil, `{"magic":"%d"}`, os.Getpid()), 0o600); err != nil {
		t.Fatal(err)
	}
	o.config, o.configNeeded = "/nowhere/virtlockd.conf", true
	c, err := newControl(o)
	if err != nil {
		t.Fatal(err)
	}
	if c.conf.MaxClients != 1024 {
		t.Errorf("configuration %+v", c.conf)
	}
	if err := c.log.Close(); err != nil {
		t.Error(err)
	}
	if err := os.Remove(o.restart); err != nil {
		t.Fatal(err)
	}
	if _, err := newControl(o); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a first start without its configuration: %v", err)
	}
}

func TestSystemdPassesSocketsAndIsTold(t *testing.T) {
	needVirtAdmin(t)
	for _, names := range []string{"virtlockd-admin.socket:virtlockd.socket", "lodge-lockd-admin.socket:lodge-lockd.socket", ""} {
		t.Run(names, func(t *testing.T) { systemdPasses(t, names) })
	}
}

func systemdPasses(t *testing.T, names string) {
	program := asVirtlockd(t)
	d := virtlockdtest.Prepare(t, program)
	if err := os.Mkdir(filepath.Dir(d.Socket), 0o700); err != nil {
		t.Fatal(err)
	}
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(d.Dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	told := func() string {
		t.Helper()
		b := make([]byte, 1000)
		if err := notify.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		n, err := notify.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c",
		`mount --bind "$0" /run && LISTEN_PID=$$ exec "$1" -f /dev/null`, d.Dir, program)
	cmd.Env = append(os.Environ(), "LISTEN_FDS=2", "NOTIFY_SOCKET=/run/notify")
	if names != "" {
		cmd.Env = append(cmd.Env, "LISTEN_FDNAMES="+names)
	}
	for _, path := range []string{d.AdminSocket, d.Socket} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		f, err := l.File()
		l.Close()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer end(cmd)
	if got := told(); got != "READY=1" {
		text, _ := io.ReadAll(stderr)
		t.Fatalf("systemd is told %q: %s", got, text)
	}
	register(t, d)
	if got := virtAdmin(t, d, "client-list", "virtlockd"); got.code != 0 || !strings.Contains(got.stdout, " 1    unix ") {
		t.Errorf("virt-admin shows %+v", got)
	}
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if got := told(); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") {
		t.Errorf("systemd is told %q", got)
	}
	if got := told(); got != "READY=1" {
		t.Errorf("systemd is told %q", got)
	}
	replacedUnderSystemd(t, d, cmd.Process, program, told)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	// systemd goes on listening.
	for _, path := range []string{d.Socket, d.AdminSocket} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("a socket of systemd's is gone: %v", err)
		}
	}
}

// replacedUnderSystemd replaces the program of a daemon that systemd has passed sockets to. It listens on, also when its state is lost: the
// numbers in its environment mean other descriptors by then.
func replacedUnderSystemd(t *testing.T, d *virtlockdtest.Daemon, process *os.Process, program string, told func() string) {
	t.Helper()
	locks := filepath.Join(d.Dir, "locks")
	c := dialClassic(t, d.Socket)
	if err := c.call(lockproto.ClassicRegister, ownerArgs(startSleep(t))); err != nil {
		t.Fatal(err)
	}
	if err := c.call(lockproto.ClassicCreateLockspace, &lockproto.CreateLockspaceArgs{Path: locks}); err != nil {
		t.Fatal(err)
	}
	for n := range 10 {
		args := &lockproto.ResourceArgs{Path: locks, Name: fmt.Sprint(n), Flags: lockproto.ClassicAutocreate}
		if err := c.call(lockproto.ClassicAcquireResource, args); err != nil {
			t.Fatal(err)
		}
	}
	for _, lost := range []bool{false, true} {
		if lost {
			p := &installed{t: t, path: program}
			p.script(fmt.Sprintf("#!/bin/bash\nrm /run/virtlockd-restart-exec.json\nexec -a virtlockd %q \"$@\"\n", os.Args[0]))
		}
		if err := process.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		if got := told(); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") {
			t.Errorf("systemd is told %q", got)
		}
		if got := told(); got != "READY=1" {
			t.Errorf("systemd is told %q", got)
		}
		client := lockclient.New(d.Socket)
		defer client.Close()
		all, err := client.List(t.Context())
		if err != nil || len(all) != 10 {
			t.Errorf("%d leases, %v", len(all), err)
		}
		for _, l := range all {
			if l.State != lockclient.Held || !l.Classic {
				t.Errorf("lease %+v", l)
			}
		}
		if got := virtAdmin(t, d, "server-list"); got.code != 0 {
			t.Errorf("virt-admin says %+v", got)
		}
	}
}
