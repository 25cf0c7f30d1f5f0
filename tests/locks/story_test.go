package locks

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/tests/lockd"
	"github.com/lodgevirt/lodge/tests/rig"
)

// TestLibvirtdLocksItsGuestsWithUs tells the life of guests under a real libvirtd whose lock daemon is ours, with locks on the images
// themselves and with locks in a folder.
func TestLibvirtdLocksItsGuestsWithUs(t *testing.T) {
	t.Run("on the images", func(t *testing.T) {
		h := newHouse(t)
		h.lease = func(disk string) string { return disk }
		newStory(h).tell(t)
	})
	t.Run("in a folder", func(t *testing.T) {
		dir := filepath.Join(folder(t), "locks")
		h := newHouse(t, fmt.Sprintf("file_lockspace_dir = %q", dir))
		h.lease, h.temporary = hashed(dir), true
		s := newStory(h)
		s.tell(t)
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 0 {
			t.Errorf("lock files are left: %v (%v)", left, err)
		}
	})
}

// story is a house with two guests on one disk and one on another.
type story struct {
	*house
	disk, other string
	// before is how many descriptors the lock daemon had when nothing was locked.
	before int
}

func newStory(h *house) *story {
	s := &story{house: h, disk: h.image("disk"), other: h.image("other")}
	h.define("one", diskXML(s.disk, ""))
	h.define("two", diskXML(s.disk, ""))
	h.define("three", diskXML(s.other, ""))
	return s
}

// tell runs the story's parts in order.
func (s *story) tell(t *testing.T) {
	s.settle()
	for _, part := range []struct {
		name string
		run  func(*story)
	}{
		{"a start takes the lock", (*story).start},
		{"a second guest on the same disk is refused", (*story).second},
		{"suspend frees the lock and resume takes it", (*story).suspend},
		{"a guest whose lock another has taken is not resumed", (*story).overtaken},
		{"a disk is locked from attach to detach", (*story).attach},
		{"a snapshot locks its overlay and a commit its base", (*story).snapshot},
		{"a saved guest has no lock until it is restored", (*story).save},
		{"shareable disks share and exclude others, read-only ones are not locked", (*story).share},
		{"libvirtd is killed", (*story).killLibvirtd},
		{"the lock daemon re-executes itself", (*story).reexecute},
		{"the lock daemon is killed", (*story).killLockd},
		{"the lock daemon is ended in good order", (*story).endLockd},
		{"a guest ends while the lock daemon is down", (*story).endMeanwhile},
		{"somebody takes the lock while the lock daemon is down", (*story).steal},
		{"a guest crashes", (*story).crash},
		{"destroy ends everything", (*story).destroy},
	} {
		t.Run(part.name, func(t *testing.T) {
			s.t = t
			part.run(s)
		})
	}
}

// settle starts and ends a guest, so that libvirtd knows QEMU, and counts what there is.
func (s *story) settle() {
	s.virsh("start", "three")
	s.virsh("destroy", "three")
	s.expect(s.other, lockd.Free)
	eventually(s.t, func() error {
		c, err := lockd.Dial(s.LockSocket())
		if err != nil {
			return err
		}
		defer c.Close()
		status, err := c.Status()
		if err == nil && status.Clients != 1 {
			err = fmt.Errorf("the lock daemon has %d clients", status.Clients)
		}
		return err
	})
	s.before = s.descriptors()
}

func (s *story) descriptors() int {
	s.t.Helper()
	n, err := lockd.Descriptors(s.house.lockd)
	must(s.t, err)
	return n
}

func (s *story) start() {
	s.virsh("start", "one")
	s.expect(s.disk, lockd.Written)
	s.owned("one", s.disk)
}

func (s *story) second() {
	s.refused(`"one"`, "start", "two")
	s.owned("one", s.disk)
	if !s.temporary {
		// Another path to the same file is another name, and the same lock.
		link := filepath.Join(s.dir, "link.img")
		must(s.t, os.Link(s.disk, link))
		s.define("link", diskXML(link, ""))
		s.refused(`"one"`, "start", "link")
		s.virsh("undefine", "link")
	}
	if state := s.virsh("domstate", "two"); state != "shut off" {
		s.t.Errorf("the second guest is %s", state)
	}
	want := []string{"one " + filepath.Base(s.lease(s.disk)) + " false 1"}
	if got := s.leases(); !slices.Equal(got, want) {
		s.t.Errorf("leases are %v, want %v", got, want)
	}
}

func (s *story) suspend() {
	for range 3 {
		s.virsh("suspend", "one")
		s.expect(s.disk, lockd.Free)
		for _, l := range s.list() {
			if l.Owner.Name == "one" {
				s.t.Errorf("the suspended guest has the lease of %s", l.Path)
			}
		}
		s.virsh("resume", "one")
		s.expect(s.disk, lockd.Written)
	}
	s.owned("one", s.disk)
}

func (s *story) overtaken() {
	s.virsh("suspend", "one")
	s.virsh("start", "two")
	s.owned("two", s.disk)
	s.refused(`"two"`, "resume", "one")
	s.owned("two", s.disk)
	s.virsh("destroy", "two")
	s.expect(s.disk, lockd.Free)
	s.virsh("resume", "one")
	s.owned("one", s.disk)
}

// attach uses USB disks, which leave a guest without asking it.
func (s *story) attach() {
	extra := s.image("extra")
	plug := func(name, disk string) string {
		return write(s.t, filepath.Join(s.dir, name), busDiskXML(disk, "sda", "usb", ""), 0o600)
	}
	xml, taken := plug("extra.xml", extra), plug("taken.xml", s.disk)
	s.virsh("start", "three")
	for range 2 {
		s.virsh("attach-device", "one", xml)
		s.expect(extra, lockd.Written)
		s.refused(`"one"`, "attach-device", "three", xml)
		s.refused(`"one"`, "attach-device", "three", taken)
		s.expect(extra, lockd.Written)
		s.virsh("detach-device", "one", xml)
		s.expect(extra, lockd.Free)
	}
	s.virsh("attach-device", "three", xml)
	s.expect(extra, lockd.Written)
	s.virsh("destroy", "three")
	s.expect(extra, lockd.Free)
	s.expect(s.other, lockd.Free)
	s.owned("one", s.disk)
}

func (s *story) snapshot() {
	overlay := filepath.Join(s.dir, "disk.overlay")
	s.virsh("snapshot-create-as", "one", "s", "--disk-only", "--no-metadata", "--diskspec", "vda,file="+overlay)
	s.expect(overlay, lockd.Written)
	s.expect(s.disk, lockd.Free)
	s.owned("one", overlay)
	s.virsh("blockcommit", "one", "vda", "--active", "--pivot", "--wait")
	s.expect(s.disk, lockd.Written)
	s.expect(overlay, lockd.Free)
	s.owned("one", s.disk)
}

func (s *story) save() {
	file := filepath.Join(s.dir, "saved")
	s.virsh("save", "one", file)
	s.expect(s.disk, lockd.Free)
	s.virsh("start", "two")
	s.refused(`"two"`, "restore", file)
	s.virsh("destroy", "two")
	s.virsh("restore", file)
	s.expect(s.disk, lockd.Written)
	s.owned("one", s.disk)
}

func (s *story) share() {
	common := s.image("common")
	for _, name := range []string{"share-1", "share-2"} {
		s.define(name, diskXML(common, "<shareable/>"))
		s.virsh("start", name)
		s.expect(common, lockd.Read)
		s.owned(name, common)
	}
	s.define("alone", diskXML(common, ""))
	s.refused("share-", "start", "alone")
	s.virsh("destroy", "share-1")
	s.expect(common, lockd.Read)
	s.refused("share-2", "start", "alone")
	s.virsh("destroy", "share-2")
	s.expect(common, lockd.Free)
	s.virsh("start", "alone")
	s.define("reader", diskXML(common, "<readonly/>"))
	s.virsh("start", "reader")
	s.owned("alone", common)
	s.virsh("destroy", "reader")
	s.expect(common, lockd.Written)
	s.virsh("destroy", "alone")
	s.expect(common, lockd.Free)
}

// probe starts a probe of the lock of guest one.
func (s *story) probe() *rig.Probe {
	s.t.Helper()
	p, err := rig.StartProbe(s.t.Context(), s.lease(s.disk))
	must(s.t, err)
	return p
}

// unbroken stops a probe, which must never have seen the lock free.
func unbroken(t *testing.T, p *rig.Probe) {
	t.Helper()
	looks, gaps, err := p.Stop()
	must(t, err)
	if looks == 0 || len(gaps) > 0 {
		t.Errorf("the lock was looked at %d times and was free at %v", looks, gaps)
	}
}

// well checks that guest one runs in its process, that its lock is what it was, and that libvirtd still works with the lock daemon.
func (s *story) well(pid int) {
	s.t.Helper()
	if state := s.virsh("domstate", "one"); state != "running" {
		s.t.Errorf("the guest is %s", state)
	}
	if now := s.qemu("one"); now != pid {
		s.t.Errorf("the guest's process is %d, before it was %d", now, pid)
	}
	s.owned("one", s.disk)
	s.refused(`"one"`, "start", "two")
}

func (s *story) killLibvirtd() {
	pid := s.qemu("one")
	p := s.probe()
	for range 3 {
		must(s.t, s.Kill())
		s.owned("one", s.disk)
		s.startLibvirtd()
		s.well(pid)
	}
	unbroken(s.t, p)
	s.suspend()
}

func (s *story) reexecute() {
	pid := s.qemu("one")
	p := s.probe()
	for range 5 {
		reexecute(s.t, s.house.lockd)
		s.owned("one", s.disk)
		s.well(pid)
	}
	unbroken(s.t, p)
	s.suspend()
}

// restart ends the lock daemon, does something, and starts it again. Its leases must be back before it answers anybody, and it tells how
// long the lock of guest one was free: under libvirtd the guest has no duplicate of the descriptor.
func (s *story) restart(signal unix.Signal) {
	s.t.Helper()
	pid := s.qemu("one")
	p := s.probe()
	must(s.t, s.Jail.End(s.house.lockd, signal))
	s.startLockd()
	seen, err := s.eye.Look(s.lease(s.disk))
	if err != nil || seen[0] != lockd.Written {
		s.t.Errorf("when the new lock daemon answers the lock is %v (%v)", seen[0], err)
	}
	s.well(pid)
	looks, gaps, err := p.Stop()
	must(s.t, err)
	s.t.Logf("the lock was looked at %d times and was free at %v", looks, gaps)
	if len(gaps) > 1 || len(gaps) == 1 && gaps[0].To.IsZero() {
		s.t.Errorf("the lock was free at %v, want at most one gap that has ended", gaps)
	}
}

func (s *story) killLockd() {
	for range 3 {
		s.restart(unix.SIGKILL)
	}
	s.suspend()
}

// endLockd differs from libvirt's own lock daemon, which kills the guests that hold leases.
func (s *story) endLockd() {
	s.restart(unix.SIGTERM)
	s.suspend()
}

func (s *story) endMeanwhile() {
	s.virsh("start", "three")
	s.owned("three", s.other)
	must(s.t, s.Jail.End(s.house.lockd, unix.SIGKILL))
	s.virsh("destroy", "three")
	if _, err := s.try("start", "three"); err == nil {
		s.t.Error("a guest was started without a lock daemon")
	}
	s.startLockd()
	s.expect(s.other, lockd.Free)
	eventually(s.t, func() error {
		if all := s.leases(); len(all) != 1 {
			return fmt.Errorf("leases are %v, want that of one", all)
		}
		return nil
	})
	s.owned("one", s.disk)
}

// steal lets another process take the lock while the lock daemon is down. Nothing can be done about that then; but it is told, nobody else
// gets the lease, and the lock is taken back when it comes free.
func (s *story) steal() {
	must(s.t, s.Jail.End(s.house.lockd, unix.SIGKILL))
	thief, err := os.OpenFile(s.lease(s.disk), os.O_RDWR, 0)
	must(s.t, err)
	defer thief.Close()
	must(s.t, unix.FcntlFlock(thief.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 1}))
	s.startLockd()
	if all := s.list(); len(all) != 1 || all[0].Owner.Name != "one" || all[0].State == lockd.Held || all[0].Detail == "" {
		s.t.Errorf("leases are %+v, want one that is not held and says why", all)
	}
	s.refused(`"one"`, "start", "two")
	must(s.t, thief.Close())
	s.expect(s.disk, lockd.Written)
	eventually(s.t, func() error {
		if all := s.list(); len(all) != 1 || all[0].State != lockd.Held {
			return fmt.Errorf("leases are %+v, want one that is held", all)
		}
		return nil
	})
}

func (s *story) crash() {
	for _, restarted := range []bool{true, false} {
		pid := s.qemu("one")
		must(s.t, unix.Kill(pid, unix.SIGKILL))
		s.expect(s.disk, lockd.Free)
		eventually(s.t, func() error {
			if state := s.virsh("domstate", "one"); state != "shut off" {
				return fmt.Errorf("the guest is %s", state)
			}
			return nil
		})
		if left := s.leases(); len(left) > 0 {
			s.t.Errorf("leases are left (restarted before: %v): %v", restarted, left)
		}
		s.virsh("start", "one")
		s.owned("one", s.disk)
	}
}

func (s *story) destroy() {
	s.virsh("destroy", "one")
	s.expect(s.disk, lockd.Free)
	if left := s.leases(); len(left) > 0 {
		s.t.Errorf("leases are left: %v", left)
	}
	eventually(s.t, func() error {
		if now := s.descriptors(); now > s.before {
			return fmt.Errorf("the lock daemon has %d descriptors, before it had %d", now, s.before)
		}
		left, err := s.Jail.Children()
		if len(left) != 3 {
			err = errors.Join(err, fmt.Errorf("processes %v are left, want libvirtd, virtlogd and the lock daemon", left))
		}
		return err
	})
}
