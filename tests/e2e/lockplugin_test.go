package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/tests/rig"
)

// lockWait is how long a lock manager may take to notice something; sanlock looks at all leases every ten seconds.
const lockWait = 40 * time.Second

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

// TestLockPlugins holds of each lock manager that is a plugin what is promised to guests of two hosts that share storage.
func TestLockPlugins(t *testing.T) {
	need(t, "virsh", "qemu-system-x86_64")
	for manager, start := range map[string]func(*testing.T) *lockService{"etcd": startEtcd, "sanlock": startSanlock} {
		t.Run(manager, func(t *testing.T) {
			service := start(t)
			p := &lockPair{T: t, service: service, image: filepath.Join(t.TempDir(), "disk.img")}
			p.makeImage()
			for _, settings := range service.settings {
				p.hosts = append(p.hosts, startPluginHost(t, service.manager, settings))
			}
			p.define(p.first(), "first", "pause")
			p.define(p.second(), "second", "pause")
			for _, part := range []struct {
				name string
				run  func(*lockPair)
			}{
				{"one host has the disk", oneHostHasTheDisk},
				{"a suspended guest gives its lock up", suspendedGuestGivesItsLockUp},
				{"whoever is killed, the lock stays", lockOutlivesThoseWhoAreKilled},
				{"a guest that ends frees its lock", endFreesTheLock},
				{"a lock that is lost is acted upon", lostLockIsActedUpon},
			} {
				if !t.Run(part.name, func(t *testing.T) { q := *p; q.T = t; part.run(&q) }) {
					return
				}
			}
		})
	}
}

// lockPair are two hosts with a guest each, "first" and "second", that use one disk.
type lockPair struct {
	*testing.T
	service *lockService
	hosts   []*rig.Host
	image   string
}

func (p *lockPair) first() *rig.Host { return p.hosts[0] }

func (p *lockPair) second() *rig.Host { return p.hosts[1] }

// makeImage makes the disk, or another one in its place. QEMU locks images by itself where it can, which hosts that need a lock manager do
// not see of each other: a guest that goes on with the old one has no lock of the new one.
func (p *lockPair) makeImage() {
	p.Helper()
	err := os.WriteFile(p.image+".new", make([]byte, 1<<20), 0o600)
	if err = errors.Join(err, os.Rename(p.image+".new", p.image)); err != nil {
		p.Fatal(err)
	}
}

// startPluginHost starts a host whose lock manager is a plugin.
func startPluginHost(t *testing.T, manager, settings string) *rig.Host {
	t.Helper()
	h := newHost(t)
	conf := filepath.Join(h.Dir, "etc")
	err := errors.Join(
		os.MkdirAll(filepath.Join(conf, "plugins.d"), 0o700),
		os.WriteFile(filepath.Join(conf, "lodge.toml"), []byte(config+fmt.Sprintf("[locks]\nmanager = %q\n", manager)), 0o600),
		os.WriteFile(filepath.Join(conf, "plugins.d", manager+".toml"), []byte("[config]\n"+settings), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	p := &lockPair{T: t}
	p.start(h)
	return h
}

// start starts a host's core.
func (p *lockPair) start(h *rig.Host) {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.Context(), answerWait)
	defer cancel()
	if err := h.Start(ctx); err != nil {
		p.Fatal(err)
	}
}

func (p *lockPair) define(h *rig.Host, name, onLockFailure string) {
	p.Helper()
	xml := strings.Replace(qemuDomain(name, disk(p.image)), "<devices>", "<on_lockfailure>"+onLockFailure+"</on_lockfailure><devices>", 1)
	virsh(p.T, h, qemuURI, "define", write(p.T, name+".xml", xml))
}

// kill ends processes of the first host with SIGKILL, and waits until the core has ended if that is among them.
func (p *lockPair) kill(kinds ...rig.Kind) {
	p.Helper()
	if killed, err := p.first().Kill(kinds...); err != nil || len(killed) == 0 {
		p.Fatalf("%v is dead, %v", killed, err)
	}
	if kinds[0] != rig.Core {
		return
	}
	if err := p.first().WaitCore(p.Context()); err != nil {
		p.Fatal(err)
	}
}

// order gives a guest an order as a client does that reads codes.
func (p *lockPair) order(h *rig.Host, name string, give func(*libvirt.Libvirt, libvirt.Domain) error) error {
	p.Helper()
	client, err := h.Dial(qemuURI)
	if err != nil {
		p.Fatal(err)
	}
	defer func() { _ = client.Disconnect() }()
	domain, err := client.DomainLookupByName(name)
	if err != nil {
		p.Fatal(err)
	}
	return give(client, domain)
}

// wantRefused holds that the second host cannot start its guest, and is told of the first one's.
func (p *lockPair) wantRefused(when string) {
	p.Helper()
	err := p.order(p.second(), "second", (*libvirt.Libvirt).DomainCreate)
	if !isCode(err, libvirt.ErrResourceBusy) || !strings.Contains(err.Error(), p.image) || !strings.Contains(err.Error(), p.service.names[0]) {
		p.Fatalf("%s the other host's start of a guest with the same disk: %v, want it busy and in use by %q", when, err, p.service.names[0])
	}
}

// wantListed holds that the first host tells of one lock, its guest's, and returns where it lies and whose process has it.
func (p *lockPair) wantListed(when string) (lock, pid string) {
	p.Helper()
	line := regexp.MustCompile(`(?m)^\w+ +first +(\d+) +exclusive +held .* ` + regexp.QuoteMeta(p.image) + ` +(.*\S) *$`)
	eventually(p.T, lockWait, func() error {
		out, err := rig.Run(p.Context(), filepath.Join(p.first().Bin, "lodge"), "--dir", p.first().Dir, "lock", "list")
		if err != nil {
			return err
		}
		if found := line.FindAllStringSubmatch(out, -1); len(found) == 1 {
			pid, lock = found[0][1], found[0][2]
			return nil
		}
		return fmt.Errorf("%s lodge lock list says %s", when, out)
	})
	return lock, pid
}

func (p *lockPair) wantState(h *rig.Host, name, want string) {
	p.Helper()
	eventually(p.T, lockWait, func() error {
		if got := virsh(p.T, h, qemuURI, "domstate", name, "--reason"); !strings.HasPrefix(got, want) {
			return fmt.Errorf("guest %q is %s, want %s", name, got, want)
		}
		return nil
	})
}

func oneHostHasTheDisk(p *lockPair) {
	virsh(p.T, p.first(), qemuURI, "start", "first")
	p.wantRefused("while a guest runs,")
	p.wantListed("while a guest runs,")
	p.wantState(p.second(), "second", "shut off")
}

func suspendedGuestGivesItsLockUp(p *lockPair) {
	for range 2 { // nobody had it meanwhile
		virsh(p.T, p.first(), qemuURI, "suspend", "first")
		virsh(p.T, p.first(), qemuURI, "resume", "first")
		p.wantRefused("after a resume,")
	}
	virsh(p.T, p.first(), qemuURI, "suspend", "first")
	p.makeImage()
	virsh(p.T, p.second(), qemuURI, "start", "second")
	err := p.order(p.first(), "first", (*libvirt.Libvirt).DomainResume)
	if !isCode(err, libvirt.ErrResourceBusy) || !strings.Contains(err.Error(), p.service.names[1]) {
		p.Errorf("resumed while another host has the disk: %v", err)
	}
	virsh(p.T, p.second(), qemuURI, "destroy", "second")
	for _, when := range []string{"", ", and after SIGKILL of core and plugins"} {
		if err := p.order(p.first(), "first", (*libvirt.Libvirt).DomainResume); err == nil || !strings.Contains(err.Error(), p.image) {
			p.Errorf("resumed after another host has had the disk%s: %v", when, err)
		}
		p.kill(rig.Core, rig.Plugin)
		p.start(p.first())
	}
	p.wantState(p.first(), "first", "paused (user)")
	virsh(p.T, p.first(), qemuURI, "destroy", "first")
	virsh(p.T, p.first(), qemuURI, "start", "first")
	p.wantRefused("after the guest was started anew,")
}

func lockOutlivesThoseWhoAreKilled(p *lockPair) {
	lock, pid := p.wantListed("before anything is killed,")
	for _, kinds := range [][]rig.Kind{{rig.Plugin}, {rig.Core}, {rig.Core, rig.Plugin}} {
		when := fmt.Sprintf("after SIGKILL of %v,", kinds)
		p.kill(kinds...)
		p.wantRefused(when)
		if kinds[0] == rig.Core {
			p.start(p.first())
		}
		if l, owner := p.wantListed(when); l != lock || owner != pid {
			p.Errorf("%s lock %q is process %s's, and was %q, process %s's", when, l, owner, lock, pid)
		}
		p.wantState(p.first(), "first", "running")
		p.wantRefused(when + " and after all is up again,")
	}
}

func endFreesTheLock(p *lockPair) {
	virsh(p.T, p.first(), qemuURI, "destroy", "first")
	virsh(p.T, p.second(), qemuURI, "start", "second")
	virsh(p.T, p.second(), qemuURI, "destroy", "second")
	for _, kinds := range [][]rig.Kind{{rig.Guest}, {rig.Core, rig.Plugin, rig.Guest}} {
		virsh(p.T, p.first(), qemuURI, "start", "first")
		p.kill(kinds...)
		if kinds[0] == rig.Core {
			p.start(p.first())
		}
		eventually(p.T, lockWait, func() error {
			return p.order(p.second(), "second", (*libvirt.Libvirt).DomainCreate)
		})
		p.wantState(p.first(), "first", "shut off")
		virsh(p.T, p.second(), qemuURI, "destroy", "second")
	}
}

func lostLockIsActedUpon(p *lockPair) {
	for name, lose := range p.service.losses {
		p.Run(name, func(t *testing.T) { q := *p; q.T = t; q.wantPaused(lose) })
	}
}

// wantPaused holds that a guest which has lost its lock is paused, and goes on with it later.
func (p *lockPair) wantPaused(lose func(t *testing.T, lock, pid string) (mend func())) {
	virsh(p.T, p.first(), qemuURI, "start", "first")
	lock, pid := p.wantListed("before the lock is lost,")
	told := make(chan string, 1)
	go func() {
		out, _ := p.first().Virsh(p.Context(), qemuURI, "event", "first", "--event", "io-error-reason", "--timeout", "60")
		told <- out
	}()
	time.Sleep(2 * time.Second) // virsh registers, on a busy machine too
	mend := lose(p.T, lock, pid)
	if out := <-told; !strings.Contains(out, "lease-lost") || !strings.Contains(out, p.image) {
		p.Errorf("virsh was told %q", out)
	}
	p.wantState(p.first(), "first", "paused (I/O error)")
	mend()
	eventually(p.T, lockWait, func() error {
		_, err := p.first().Virsh(p.Context(), qemuURI, "resume", "first")
		return err
	})
	p.wantListed("after a resume,")
	p.wantRefused("after a resume,")
	virsh(p.T, p.first(), qemuURI, "destroy", "first")
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
