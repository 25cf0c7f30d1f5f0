package locks

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/tests/lockd"
)

// leaseXML is a lease that a guest has besides its disks.
func leaseXML(dir, key string) string {
	return fmt.Sprintf(`<lease><lockspace>%s</lockspace><key>%s</key><target path='%s' offset='0'/></lease>`,
		filepath.Base(dir), key, filepath.Dir(dir))
}

// TestLibvirtdLeasesWithUs has leases that a guest's definition names, under a libvirtd that takes none by itself and wants one for each
// guest with disks. Their files are made by somebody else, and stay.
func TestLibvirtdLeasesWithUs(t *testing.T) {
	h := newHouse(t, "auto_disk_leases = 0", "require_lease_for_disks = 1")
	dir := filepath.Join(h.dir, "leases")
	h.lease = func(key string) string { return filepath.Join(dir, key) }
	admin := dial(t, h.LockSocket())
	must(t, admin.Register(lockd.Owner{UUID: [16]byte{1}, Name: "admin", ID: 1, PID: os.Getpid()}))
	must(t, admin.CreateSpace(dir))
	for _, key := range []string{"red", "blue"} {
		must(t, admin.CreateResource(dir, key))
	}
	disk := func(name string) string { return diskXML(h.image(name), "") }
	h.define("bare", disk("bare"))
	h.define("lost", disk("lost")+leaseXML(dir, "missing"))
	h.define("one", disk("one")+leaseXML(dir, "red"))
	h.define("two", disk("two")+leaseXML(dir, "red"))
	h.define("three", disk("three")+leaseXML(dir, "blue"))
	for _, part := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"a guest without a lease is refused", func(t *testing.T) {
			_, err := h.try("start", "bare")
			if err == nil || !strings.Contains(err.Error(), "unsupported configuration") {
				t.Errorf("the error is %v, want an unsupported configuration", err)
			}
		}},
		{"a lease whose file is missing is refused", func(t *testing.T) {
			_, err := h.try("start", "lost")
			if err == nil || !strings.Contains(err.Error(), "missing") || !strings.Contains(err.Error(), "o such file") {
				t.Errorf("the error is %v, want that a file is missing", err)
			}
		}},
		{"two guests have one lease each", func(*testing.T) {
			h.virsh("start", "one")
			h.virsh("start", "three")
			h.expect("red", lockd.Written)
			h.expect("blue", lockd.Written)
			h.owned("one", "red")
			h.owned("three", "blue")
		}},
		{"a third one is refused one of them", func(*testing.T) {
			h.refused(`"one"`, "start", "two")
			h.owned("one", "red")
		}},
		{"a paused guest has none", func(*testing.T) {
			h.virsh("suspend", "one")
			h.expect("red", lockd.Free)
			h.virsh("resume", "one")
			h.owned("one", "red")
		}},
		{"a lease is attached and detached", func(t *testing.T) {
			must(t, admin.CreateResource(dir, "green"))
			xml := write(t, filepath.Join(h.dir, "green.xml"), leaseXML(dir, "green"), 0o600)
			h.virsh("attach-device", "one", xml)
			h.expect("green", lockd.Written)
			h.refused(`"one"`, "attach-device", "three", xml)
			h.virsh("detach-device", "one", xml)
			h.expect("green", lockd.Free)
			must(t, admin.DeleteResource(dir, "green"))
			h.expect("green", lockd.Missing)
		}},
		{"a lease that is held is not deleted", func(t *testing.T) {
			if err := admin.DeleteResource(dir, "red"); code(err) != 87 {
				t.Errorf("the error is %v, want 87", err)
			}
			h.owned("one", "red")
		}},
		{"the lock daemon is killed", func(t *testing.T) {
			must(t, h.Jail.End(h.lockd, unix.SIGKILL))
			h.startLockd()
			h.owned("one", "red")
			h.owned("three", "blue")
			h.refused(`"one"`, "start", "two")
		}},
		{"the lock daemon re-executes itself", func(t *testing.T) {
			reexecute(t, h.lockd)
			h.owned("one", "red")
			h.owned("three", "blue")
			h.refused(`"one"`, "start", "two")
		}},
		{"the guests end, and the files stay", func(t *testing.T) {
			must(t, unix.Kill(h.qemu("one"), unix.SIGKILL))
			h.virsh("destroy", "three")
			h.expect("red", lockd.Free)
			h.expect("blue", lockd.Free)
			if left := h.leases(); len(left) > 0 {
				t.Errorf("leases are left: %v", left)
			}
		}},
	} {
		t.Run(part.name, func(t *testing.T) {
			h.t = t
			part.run(t)
		})
	}
}
