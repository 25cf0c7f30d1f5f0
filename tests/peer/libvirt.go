package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// places are libvirt's folders and the names of what stands in for them. Virtlockd leaves its state for re-execution in /run itself.
var places = []struct{ name, target string }{
	{"system", "/run"},
	{"etc", "/etc/libvirt"},
	{"run", "/run/libvirt"},
	{"lib", "/var/lib/libvirt"},
	{"cache", "/var/cache/libvirt"},
	{"log", "/var/log/libvirt"},
}

// Libvirt is a libvirtd with a virtlogd and all of its files under one folder.
type Libvirt struct {
	// Jail is where it runs.
	Jail *Jail
	dir  string
	pid  int
}

// base is the configuration that all have.
var base = map[string][]string{
	"libvirtd.conf": {`auth_unix_ro = "none"`, `auth_unix_rw = "none"`},
	// Guests run as root. Where /dev/kvm is for root alone, libvirtd would otherwise find that what it has learned about QEMU is no
	// longer true, and learn it again for each domain. Guests then also need no right to the folders of a test.
	"qemu.conf": {`user = "root"`, `group = "root"`},
}

// ErrNone says that the machine has no libvirtd that could be run.
var ErrNone = errors.New("no libvirtd, or no root to run it (make deps)")

// Available returns ErrNone unless libvirtd and the daemons beside it are installed and may be run.
func Available() error {
	for _, program := range []string{"libvirtd", "virtlogd", "virtlockd"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w: %w", ErrNone, err)
		}
	}
	if os.Geteuid() != 0 {
		return ErrNone
	}
	return nil
}

// Build makes the folders of a libvirtd that nobody has configured and that has nothing defined, and a jail with them in which a
// virtlogd runs. The folder must be short: socket paths are at most 107 bytes.
func Build(ctx context.Context, dir string) (*Libvirt, error) {
	all := make([]Place, 0, len(places))
	for _, p := range places {
		all = append(all, Place{Source: filepath.Join(dir, p.name), Target: p.target})
	}
	for _, sub := range []string{"system", "etc/qemu", "run", "cache", "log", "lib/images", "lib/qemu", "lib/boot", "lib/dnsmasq", "lib/network", "lib/swtpm"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("make folders of libvirtd: %w", err)
		}
	}
	l := &Libvirt{dir: dir}
	for name := range base {
		if err := l.Configure(name); err != nil {
			return nil, err
		}
	}
	jail, err := Enter(ctx, dir, all...)
	if err != nil {
		return nil, err
	}
	l.Jail = jail
	if _, err := jail.Start("virtlogd", "virtlogd", "-p", filepath.Join(dir, "virtlogd.pid")); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Configure sets the configuration of one of libvirt's daemons or drivers, such as "qemu-lockd.conf", besides what all have here; it
// counts from the next start on.
func (l *Libvirt) Configure(name string, lines ...string) error {
	var text strings.Builder
	for _, line := range slices.Concat(base[name], lines) {
		text.WriteString(line + "\n")
	}
	if err := os.WriteFile(filepath.Join(l.dir, "etc", name), []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("configure libvirtd: %w", err)
	}
	return nil
}

// Socket is the path of libvirtd's read-write socket, as seen outside.
func (l *Libvirt) Socket() string { return filepath.Join(l.dir, "run", "libvirt-sock") }

// LockSocket is the path of the lock daemon's socket, as seen outside.
func (l *Libvirt) LockSocket() string { return filepath.Join(l.dir, "run", "virtlockd-sock") }

// URI is the URI by which a stock client reaches the QEMU driver.
func (l *Libvirt) URI() string { return "qemu+unix:///system?socket=" + l.Socket() }

// PID is libvirtd's process, or 0.
func (l *Libvirt) PID() int { return l.pid }

// Launch starts libvirtd and does not wait.
func (l *Libvirt) Launch() (err error) {
	l.pid, err = l.Jail.Start("libvirtd", "libvirtd", "-p", filepath.Join(l.dir, "libvirtd.pid"))
	return err
}

// Start starts libvirtd and returns once its socket takes connections.
func (l *Libvirt) Start(ctx context.Context) error {
	if err := l.Launch(); err != nil {
		return err
	}
	return Await(ctx, l.Socket())
}

// Stop ends libvirtd in good order; guests go on.
func (l *Libvirt) Stop() error { return l.end(unix.SIGTERM) }

// Kill ends libvirtd with SIGKILL; guests go on.
func (l *Libvirt) Kill() error { return l.end(unix.SIGKILL) }

func (l *Libvirt) end(signal syscall.Signal) error {
	if l.pid == 0 {
		return nil
	}
	pid := l.pid
	l.pid = 0
	return l.Jail.End(pid, signal)
}

// Close ends everything, guests included, and leaves the files.
func (l *Libvirt) Close() error { return l.Jail.Close() }

// Await returns once a unix socket takes connections.
func Await(ctx context.Context, socket string) error {
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "unix", socket)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for socket: %w", errors.Join(err, ctx.Err()))
		case <-time.After(2 * time.Millisecond):
		}
	}
}
