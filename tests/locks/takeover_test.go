package locks

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/tests/lockd"
)

// TestVirtlockdAndOursFollowEachOtherUnderLibvirtd replaces the lock daemon of a real libvirtd in one and the same process, from libvirt's
// own to ours and back, while guests run. What is started is called virtlockd, as libvirt's unit does it.
func TestVirtlockdAndOursFollowEachOtherUnderLibvirtd(t *testing.T) {
	for name, inFolder := range map[string]bool{"with locks on the images": false, "with locks in a folder": true} {
		t.Run(name, func(t *testing.T) {
			var conf []string
			dir := filepath.Join(folder(t), "locks")
			if inFolder {
				conf = append(conf, fmt.Sprintf("file_lockspace_dir = %q", dir))
			}
			h := buildHouse(t, conf...)
			h.lease, h.temporary = func(disk string) string { return disk }, inFolder
			if inFolder {
				h.lease = hashed(dir)
			}
			newSuccession(h).tell(t)
		})
	}
}

// succession is a story in which the program called virtlockd changes.
type succession struct {
	*story
	*programs
}

// programs are those that can be called virtlockd, and a link that is.
type programs struct{ lodge, libvirt, link string }

// newPrograms makes the link in a folder, to libvirt's.
func newPrograms(t *testing.T, dir string) *programs {
	t.Helper()
	theirs, err := exec.LookPath("virtlockd")
	if err != nil {
		t.Skip("virtlockd is not installed (make deps)")
	}
	p := &programs{lodge: binary(t, "lodge-lockd"), libvirt: theirs, link: filepath.Join(dir, "sbin", "virtlockd")}
	must(t, os.Mkdir(filepath.Dir(p.link), 0o755))
	must(t, p.install(theirs))
	return p
}

// command starts what is called virtlockd.
func (p *programs) command() []string {
	return []string{"env", "PATH=" + filepath.Dir(p.link) + ":" + os.Getenv("PATH"), "virtlockd"}
}

// install puts a program into the place of virtlockd.
func (p *programs) install(program string) error {
	if err := os.Symlink(program, p.link+".new"); err != nil {
		return fmt.Errorf("install %s: %w", program, err)
	}
	return os.Rename(p.link+".new", p.link)
}

func newSuccession(h *house) *succession {
	h.t.Helper()
	s := &succession{programs: newPrograms(h.t, h.dir)}
	h.program = append(s.command(), "-p", filepath.Join(h.dir, "virtlockd.pid"), "-f", "/etc/libvirt/virtlockd.conf")
	must(h.t, h.Configure("virtlockd.conf"))
	h.startLockd()
	h.startLibvirtd()
	s.story = newStory(h)
	return s
}

// follow has a program follow the one that runs, in the same process, and checks that it did, and that the lock of guest one was never free.
func (s *succession) follow(program string) {
	s.t.Helper()
	pid := s.qemu("one")
	p := s.probe()
	must(s.t, s.install(program))
	reexecute(s.t, s.house.lockd)
	s.refused("", "start", "two")
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", s.house.lockd))
	must(s.t, err)
	if want, err := filepath.EvalSymlinks(program); err != nil || exe != want {
		s.t.Errorf("process %d executes %s, want %s (%v)", s.house.lockd, exe, want, err)
	}
	if state := s.virsh("domstate", "one"); state != "running" || s.qemu("one") != pid {
		s.t.Errorf("the guest is %s in process %d, before it was in %d", state, s.qemu("one"), pid)
	}
	unbroken(s.t, p)
}

func (s *succession) tell(t *testing.T) {
	for _, part := range []struct {
		name string
		run  func()
	}{
		{"libvirt's own daemon locks the guests", func() {
			s.virsh("start", "one")
			s.virsh("start", "three")
			s.expect(s.disk, lockd.Written)
			s.expect(s.other, lockd.Written)
			s.refused("", "start", "two")
		}},
		{"ours follows it", func() {
			s.follow(s.lodge)
			s.owned("one", s.disk)
			s.owned("three", s.other)
			s.refused(`"one"`, "start", "two")
		}},
		{"and does what it did", func() {
			s.suspend()
			s.plug()
		}},
		{"ours follows ours", func() {
			s.follow(s.lodge)
			s.owned("one", s.disk)
			s.suspend()
		}},
		{"libvirt's follows ours", func() {
			s.follow(s.libvirt)
			s.expect(s.other, lockd.Written)
			for range 2 {
				s.virsh("suspend", "one")
				s.expect(s.disk, lockd.Free)
				s.virsh("resume", "one")
				s.expect(s.disk, lockd.Written)
			}
		}},
		{"and frees the lock of a guest that ends", func() {
			s.virsh("destroy", "three")
			s.expect(s.other, lockd.Free)
			s.virsh("start", "three")
			s.expect(s.other, lockd.Written)
		}},
		{"ours follows it again", func() {
			s.follow(s.lodge)
			s.owned("one", s.disk)
			s.owned("three", s.other)
		}},
		{"ours is killed with what it has taken over", func() {
			s.restart(unix.SIGKILL)
			s.owned("three", s.other)
		}},
		{"guests crash", func() {
			for name, disk := range map[string]string{"one": s.disk, "three": s.other} {
				must(s.t, unix.Kill(s.qemu(name), unix.SIGKILL))
				s.expect(disk, lockd.Free)
			}
			if left := s.leases(); len(left) > 0 {
				s.t.Errorf("leases are left: %v", left)
			}
		}},
	} {
		t.Run(part.name, func(t *testing.T) {
			s.t = t
			part.run()
		})
	}
}

// plug attaches a disk to a guest whose lock was taken over, and detaches it.
func (s *succession) plug() {
	extra := s.image("extra")
	xml := write(s.t, filepath.Join(s.dir, "extra.xml"), busDiskXML(extra, "sda", "usb", ""), 0o600)
	s.virsh("attach-device", "three", xml)
	s.expect(extra, lockd.Written)
	s.virsh("detach-device", "three", xml)
	s.expect(extra, lockd.Free)
	s.owned("three", s.other)
}
