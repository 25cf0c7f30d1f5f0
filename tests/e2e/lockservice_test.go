package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/tests/rig"
)

// lockService is what a lock manager stands on: an etcd cluster, or a sanlock daemon for each host.
type lockService struct {
	// manager is the plugin's name.
	manager string
	// settings are the plugin's on the hosts that share storage, and names those that its messages give the hosts, or what has a lock there.
	settings, names []string
	// losses are ways to take a guest's lock away from the first host, by what is said of them, of which its core has to hear. The
	// returned function lets the host have it again.
	losses map[string]func(t *testing.T, lock, pid string) (mend func())
}

// daemon is a process that a test has started, and may end and start again.
type daemon struct {
	t    *testing.T
	args []string
	env  []string
	log  string
	cmd  *exec.Cmd
}

// startDaemon starts a program, which ends with the test.
func startDaemon(t *testing.T, env []string, args ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, args: args, env: env, log: filepath.Join(t.TempDir(), "log")}
	d.start()
	t.Cleanup(func() {
		d.kill()
		if t.Failed() {
			t.Logf("%s said at last:\n%s", args[0], rig.Tail(d.log))
		}
	})
	return d
}

func (d *daemon) start() {
	d.t.Helper()
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	d.cmd = exec.CommandContext(context.Background(), d.args[0], d.args[1:]...)
	d.cmd.Stdout, d.cmd.Stderr, d.cmd.Env = log, log, append(os.Environ(), d.env...)
	d.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
}

func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
}

// await waits until somebody listens, and skips the test if nobody ever does.
func (d *daemon) await(network, address string) {
	d.t.Helper()
	for limit := time.Now().Add(lockWait); ; time.Sleep(10 * time.Millisecond) {
		conn, err := new(net.Dialer).DialContext(d.t.Context(), network, address)
		if err == nil {
			_ = conn.Close()
			return
		}
		if time.Now().After(limit) {
			d.t.Skipf("%s does not answer: %v\n%s", d.args[0], err, rig.Tail(d.log))
		}
	}
}

// startEtcd starts an etcd of one member. A lock is lost while it is away.
func startEtcd(t *testing.T) *lockService {
	t.Helper()
	const ttl = 10
	need(t, "etcd")
	client, peer := freeAddress(t), freeAddress(t)
	d := startDaemon(t, []string{"ETCD_UNSUPPORTED_ARCH=arm64"}, "etcd", "--name", "m", "--data-dir", filepath.Join(t.TempDir(), "data"),
		"--log-level", "warn", "--listen-client-urls", "http://"+client, "--advertise-client-urls", "http://"+client,
		"--listen-peer-urls", "http://"+peer, "--initial-advertise-peer-urls", "http://"+peer, "--initial-cluster", "m=http://"+peer)
	d.await("tcp", client)
	s := &lockService{manager: "etcd", names: []string{"first", "second"}}
	s.losses = map[string]func(*testing.T, string, string) func(){"etcd is away": func(*testing.T, string, string) func() {
		d.kill()
		killed := time.Now()
		return func() {
			time.Sleep(time.Until(killed.Add((ttl + 1) * time.Second))) // until the lease has ended
			d.start()
		}
	}}
	for _, host := range []string{"a", "b"} {
		s.settings = append(s.settings, fmt.Sprintf("endpoints = [%q]\nhost = %q\nttl = %d\n", "http://"+client, "host-"+host, ttl))
	}
	return s
}

// freeAddress is one on which nobody listens just now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// startSanlock starts a daemon for each host, with the shortest timeout of its I/O and without a watchdog. A lock is lost when an operator
// has the daemon give it up, and when the storage of the leases hangs.
func startSanlock(t *testing.T) *lockService {
	t.Helper()
	need(t, "sanlock")
	if os.Geteuid() != 0 {
		t.Skip("only root can run sanlock")
	}
	leases, freeze := leaseStorage(t)
	s := &lockService{manager: "sanlock"}
	var runDirs []string
	for n := range 2 {
		dir, err := os.MkdirTemp("", "sl") // the path of a socket is short
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		name := fmt.Sprintf("machine-%d", n+1)
		d := startDaemon(t, []string{"SANLOCK_RUN_DIR=" + dir, "SANLOCK_PRIVILEGED=0"},
			"sanlock", "daemon", "-D", "-w", "0", "-h", "0", "-l", "0", "-U", "root", "-G", "root", "-e", name, "-o", "1")
		d.await("unix", filepath.Join(dir, "sanlock.sock"))
		runDirs, s.names = append(runDirs, dir), append(s.names, name)
		s.settings = append(s.settings, fmt.Sprintf(
			"host_id = %d\nauto_disk_leases = true\ndisk_lease_dir = %q\nio_timeout = 1\nrun_dir = %q\n", n+1, leases, dir))
	}
	s.losses = map[string]func(*testing.T, string, string) func(){"it is given up": func(t *testing.T, lock, pid string) func() {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "sanlock", "client", "release", "-r", lock, "-p", pid)
		cmd.Env = append(os.Environ(), "SANLOCK_RUN_DIR="+runDirs[0])
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("give up lock %s of process %s: %v: %s", lock, pid, err, out)
		}
		return func() {}
	}}
	if freeze != nil {
		s.losses["its storage hangs"] = func(t *testing.T, _, _ string) func() { return freeze(t) }
	}
	return s
}

// leaseStorage is a folder on a file system of its own, with what has its writes hang until the returned function is called, or the test
// ends. Where there are no loop devices it is an ordinary one, which cannot hang.
func leaseStorage(t *testing.T) (folder string, freeze func(*testing.T) (thaw func())) {
	t.Helper()
	image, folder := filepath.Join(t.TempDir(), "image"), t.TempDir()
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 64<<20)); err != nil {
		t.Fatal(err)
	}
	for _, words := range [][]string{{"mkfs.ext4", "-q", "-F", image}, {"mount", "-o", "loop", image, folder}} {
		if out, err := exec.CommandContext(t.Context(), words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Logf("no storage that hangs: %v: %v: %s", words, err, out)
			return folder, nil
		}
	}
	t.Cleanup(func() {
		if out, err := exec.CommandContext(context.Background(), "umount", folder).CombinedOutput(); err != nil {
			t.Errorf("unmount the leases: %v: %s", err, out)
		}
	})
	const fiFreeze, fiThaw = 0xC0045877, 0xC0045878 // of linux/fs.h
	return folder, func(t *testing.T) func() {
		dir, err := os.Open(folder)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.IoctlSetInt(int(dir.Fd()), fiFreeze, 0); err != nil {
			t.Fatal(err)
		}
		thaw := sync.OnceFunc(func() { _ = errors.Join(unix.IoctlSetInt(int(dir.Fd()), fiThaw, 0), dir.Close()) })
		t.Cleanup(thaw)
		return thaw
	}
}
