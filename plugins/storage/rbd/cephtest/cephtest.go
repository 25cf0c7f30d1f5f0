// Package cephtest runs a small Ceph of its own for tests: a monitor, a manager, and one OSD with its data in memory, on this machine's
// loopback, with everything else in one folder. It takes some ten seconds to start and 400 MiB.
//
// A Cluster is safe concurrently. Its daemons are children of the process that started it, and end with Stop, or with that process.
package cephtest

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

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

const (
	// startTime bounds a start, commandTime one command.
	startTime, commandTime = 2 * time.Minute, time.Minute
	// Pool and Other are Ceph pools that are there.
	Pool, Other = "rbd", "other"
	// User is a user who may use both.
	User = "libvirt"
)

// Programs are what must be installed.
var Programs = []string{"ceph", "rbd", "rados", "ceph-mon", "ceph-mgr", "ceph-osd", "ceph-authtool", "monmaptool"}

// Missing names the first program that is not installed, or is empty.
func Missing() string {
	for _, p := range Programs {
		if _, err := exec.LookPath(p); err != nil {
			return p
		}
	}
	return ""
}

// Cluster is a running Ceph.
type Cluster struct {
	// Port is the monitor's port for protocol 1, at 127.0.0.1.
	Port int
	// Key is the key of User.
	Key string

	dir     string
	daemons map[string]*exec.Cmd
}

// Start starts a cluster with everything in a folder, whose path must be short.
func Start(dir string) (*Cluster, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	c := &Cluster{dir: dir, daemons: map[string]*exec.Cmd{}}
	if err := c.start(ctx); err != nil {
		c.Stop()
		return nil, fmt.Errorf("start Ceph: %w", err)
	}
	return c, nil
}

// Stop ends the daemons at once.
func (c *Cluster) Stop() {
	for _, cmd := range c.daemons {
		_ = cmd.Process.Kill()
	}
	for _, cmd := range c.daemons {
		_ = cmd.Wait() // It was killed.
	}
	c.daemons = nil
}

// Pause makes daemons ("mon", "osd", "mgr") answer nothing until Resume. It returns once all of their threads stand.
func (c *Cluster) Pause(daemons ...string) error {
	if err := c.signal(unix.SIGSTOP, daemons); err != nil {
		return err
	}
	for _, d := range daemons {
		err := error(unix.EINTR)
		for errors.Is(err, unix.EINTR) {
			err = unix.Waitid(unix.P_PID, c.daemons[d].Process.Pid, nil, unix.WSTOPPED, nil)
		}
		if err != nil {
			return fmt.Errorf("wait until %s stands: %w", d, err)
		}
	}
	return nil
}

// Resume lets them go on. An OSD that stood alone can find its placement groups' leases expired for ever ("laggy"): it is told to peer anew, as a
// person would.
func (c *Cluster) Resume(daemons ...string) error {
	if err := c.signal(unix.SIGCONT, daemons); err != nil || !slices.Contains(daemons, "osd") {
		return err
	}
	_, err := c.Run(context.Background(), "ceph", "osd", "down", "0")
	return err
}

func (c *Cluster) signal(s syscall.Signal, daemons []string) error {
	var all error
	for _, d := range daemons {
		all = errors.Join(all, c.daemons[d].Process.Signal(s))
	}
	return all
}

// Conf is Ceph's configuration file, with which a client is the administrator.
func (c *Cluster) Conf() string { return filepath.Join(c.dir, "ceph.conf") }

// Source is the <source> of a libvirt pool for a Ceph pool and its user, whose secret has a usage.
func (c *Cluster) Source(pool, user, usage string) string {
	return fmt.Sprintf("<source><host name='127.0.0.1' port='%d'/><name>%s</name><auth type='ceph' username='%s'><secret usage='%s'/></auth></source>",
		c.Port, pool, user, usage)
}

// Run runs one of Ceph's commands as the administrator.
func (c *Cluster) Run(ctx context.Context, name string, args ...string) (string, error) {
	return c.feed(ctx, "", name, args...)
}

func (c *Cluster) feed(ctx context.Context, input, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "CEPH_CONF="+c.Conf())
	cmd.Stdin = strings.NewReader(input)
	var words strings.Builder
	cmd.Stderr = &words
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, words.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// configuration is that of a cluster of one OSD that stays small and writes nothing outside its folder.
const configuration = `[global]
fsid = %[2]s
mon host = %[3]s
public network = 127.0.0.0/8
ms bind ipv6 = false
keyring = %[1]s/keyring
admin socket = %[1]s/run/$name.asok
run dir = %[1]s/run
log file = %[1]s/log/$name.log
mon cluster log file = %[1]s/log/cluster.log
crash dir = %[1]s/log
osd pool default size = 1
osd pool default min size = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon warn on pool no redundancy = false
mon data avail warn = 1
mon data avail crit = 0
auth allow insecure global id reclaim = false
[mon.a]
mon data = %[1]s/mon
[mgr.a]
mgr data = %[1]s/mgr
mgr initial modules =
[osd.0]
osd data = %[1]s/osd
osd objectstore = memstore
memstore device bytes = 2147483648
`

// start does what a person would, step by step.
func (c *Cluster) start(ctx context.Context) error {
	for _, d := range []string{"mon", "mgr", "osd", "run", "log"} {
		if err := os.MkdirAll(filepath.Join(c.dir, d), 0o755); err != nil {
			return err
		}
	}
	second, err := freePort(ctx)
	if err != nil {
		return err
	}
	if c.Port, err = freePort(ctx); err != nil {
		return err
	}
	id, hosts := uuid.NewString(), fmt.Sprintf("[v2:127.0.0.1:%d,v1:127.0.0.1:%d]", second, c.Port)
	if err := os.WriteFile(c.Conf(), fmt.Appendf(nil, configuration, c.dir, id, hosts), 0o600); err != nil {
		return err
	}
	if err := c.startMonitor(ctx, id, hosts); err != nil {
		return err
	}
	if err := c.startStorage(ctx); err != nil {
		return err
	}
	for _, pool := range []string{Pool, Other} {
		if err := c.all(ctx, "ceph osd pool create "+pool+" 8", "rbd pool init "+pool); err != nil {
			return err
		}
	}
	rights := fmt.Sprintf("profile rbd pool=%s, profile rbd pool=%s", Pool, Other)
	c.Key, err = c.Run(ctx, "ceph", "auth", "get-or-create-key", "client."+User, "mon", "profile rbd", "osd", rights)
	return err
}

// all runs commands whose words have no spaces; DIR is the folder.
func (c *Cluster) all(ctx context.Context, commands ...string) error {
	for _, line := range commands {
		words := strings.Fields(strings.ReplaceAll(line, "DIR", c.dir))
		if _, err := c.Run(ctx, words[0], words[1:]...); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) startMonitor(ctx context.Context, id, hosts string) error {
	admin := []string{"DIR/keyring", "--gen-key", "-n", "client.admin", "--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"}
	admin[0] = filepath.Join(c.dir, "keyring")
	if err := c.all(ctx, "ceph-authtool -C DIR/keyring --gen-key -n mon."); err != nil {
		return err
	}
	if _, err := c.Run(ctx, "ceph-authtool", append(admin, "--cap", "mds", "allow *")...); err != nil {
		return err
	}
	if _, err := c.Run(ctx, "ceph-authtool", filepath.Join(c.dir, "keyring"), "-n", "mon.", "--cap", "mon", "allow *"); err != nil {
		return err
	}
	if err := c.all(ctx, "monmaptool --create --fsid "+id+" --addv a "+hosts+" DIR/monmap",
		"ceph-mon -i a --mkfs --monmap DIR/monmap --keyring DIR/keyring"); err != nil {
		return err
	}
	return c.daemon("mon", "ceph-mon", "-i", "a")
}

func (c *Cluster) startStorage(ctx context.Context) error {
	_, err := c.Run(ctx, "ceph", "auth", "get-or-create", "mgr.a", "mon", "allow profile mgr", "osd", "allow *", "-o", filepath.Join(c.dir, "mgr", "keyring"))
	if err != nil {
		return err
	}
	if err := c.daemon("mgr", "ceph-mgr", "-i", "a", "--keyring", filepath.Join(c.dir, "mgr", "keyring")); err != nil {
		return err
	}
	id, keyring := uuid.NewString(), filepath.Join(c.dir, "osd", "keyring")
	key, err := c.Run(ctx, "ceph-authtool", "--gen-print-key")
	if err != nil {
		return err
	}
	if _, err := c.feed(ctx, `{"cephx_secret":"`+key+`"}`, "ceph", "osd", "new", id, "-i", "-"); err != nil {
		return err
	}
	if err := c.all(ctx, "ceph-authtool -C DIR/osd/keyring -n osd.0 --add-key "+key,
		"ceph-osd -i 0 --mkfs --osd-uuid "+id+" --keyring DIR/osd/keyring"); err != nil {
		return err
	}
	return c.daemon("osd", "ceph-osd", "-i", "0", "--keyring", keyring)
}

// daemon starts a daemon as a child.
func (c *Cluster) daemon(name, program string, args ...string) error {
	cmd := exec.CommandContext(context.Background(), program, append(args, "-f")...) // It ends with Stop.
	cmd.Env = append(os.Environ(), "CEPH_CONF="+c.Conf())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	c.daemons[name] = cmd
	return nil
}

// freePort finds a port that nobody has.
func freePort(ctx context.Context) (int, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
