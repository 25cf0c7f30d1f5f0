package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/tests/rig"
)

// lockWait is how long a lock manager may take to notice something; sanlock looks at all leases every ten seconds.
const lockWait = 40 * time.Second

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
				{"pretended disks are no matter of the hosts", pretendedDisksAreNoMatter},
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

// wantRefused holds that the second host cannot start its guest, and is told of the first one's as soon as its own lock service can tell.
func (p *lockPair) wantRefused(when string) {
	p.Helper()
	eventually(p.T, lockWait, func() error {
		err := p.order(p.second(), "second", (*libvirt.Libvirt).DomainCreate)
		if err == nil {
			p.Fatalf("%s the other host has started a guest with the same disk", when)
		}
		if !isCode(err, libvirt.ErrResourceBusy) || !strings.Contains(err.Error(), p.image) || !strings.Contains(err.Error(), p.service.names[0]) {
			return fmt.Errorf("%s the other host's start of a guest with the same disk: %w, want it busy and in use by %q", when, err, p.service.names[0])
		}
		return nil
	})
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

// pretendedDisksAreNoMatter looks at the guest that the test driver has on every host, with a disk of the same path.
func pretendedDisksAreNoMatter(p *lockPair) {
	for _, h := range p.hosts {
		if got := virsh(p.T, h, testURI, "domstate", "test"); !strings.HasPrefix(got, "running") {
			p.Errorf("the test driver's guest is %s", got)
		}
	}
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
