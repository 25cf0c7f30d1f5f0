package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	adminv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/admin/v1"
	"github.com/lodgevirt/lodge/tests/rig"
)

// startLockingHost starts a host whose locks are files in a folder.
func startLockingHost(t *testing.T, more string) (h *rig.Host, folder string) {
	t.Helper()
	h = newHost(t)
	folder = t.TempDir()
	conf := filepath.Join(h.Dir, "etc")
	if err := os.MkdirAll(conf, 0o700); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("[locks]\nfile_lockspace_dir = %q\n%s", folder, more)
	if err := os.WriteFile(filepath.Join(conf, "lodge.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := h.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return h, folder
}

// guest starts a guest of QEMU with a disk of its own and an action on the loss of its lock. It returns the path of the disk.
func lockedGuest(t *testing.T, h *rig.Host, name, onLockFailure string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), name+".img")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	xml := qemuDomain(name, disk(image))
	if onLockFailure != "" {
		xml = strings.Replace(xml, "<devices>", "<on_lockfailure>"+onLockFailure+"</on_lockfailure><devices>", 1)
	}
	virsh(t, h, qemuURI, "define", write(t, name+".xml", xml))
	virsh(t, h, qemuURI, "start", name)
	return image
}

// steal puts a file that is locked in the place of a guest's lock file, and returns what gives the lock up.
func steal(t *testing.T, h *rig.Host, image string) (free func()) {
	t.Helper()
	locks, err := h.Locks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range locks {
		if l.Disk != image {
			continue
		}
		thief, err := os.Create(l.Path + ".thief")
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.FcntlFlock(thief.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 1}); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(thief.Name(), l.Path); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = thief.Close() })
		return func() { _ = thief.Close() }
	}
	t.Fatalf("no lock of %s in %v", image, locks)
	return nil
}

// TestGuestThatLosesItsLock holds that <on_lockfailure> is done, and told.
func TestGuestThatLosesItsLock(t *testing.T) {
	need(t, "virsh", "qemu-system-x86_64")
	h, _ := startLockingHost(t, "")
	for action, want := range map[string]string{
		"": `^paused \(I/O error\)`, "pause": `^paused \(I/O error\)`, "poweroff": `^shut off \(failed\)`,
		"restart": `^shut off \(failed\)`, // somebody has its lock, so it cannot be started again
		"ignore":  `^running`,
	} {
		t.Run("on_lockfailure "+action, func(t *testing.T) {
			name := "loses" + action
			image := lockedGuest(t, h, name, action)
			told := make(chan string, 1)
			go func() {
				out, _ := h.Virsh(t.Context(), qemuURI, "event", name, "--event", "io-error-reason", "--timeout", "30")
				told <- out
			}()
			time.Sleep(2 * time.Second) // virsh registers, on a busy machine too
			free := steal(t, h, image)
			if out := <-told; !strings.Contains(out, "lease-lost") || !strings.Contains(out, image) {
				t.Errorf("virsh was told %q", out)
			}
			eventually(t, 20*time.Second, func() error {
				got := virsh(t, h, qemuURI, "domstate", name, "--reason")
				if !regexp.MustCompile(want).MatchString(got) {
					return fmt.Errorf("guest is %s, want %s", got, want)
				}
				return nil
			})
			if xml := virsh(t, h, qemuURI, "dumpxml", name); action != "" && !strings.Contains(xml, "<on_lockfailure>"+action+"</on_lockfailure>") {
				t.Errorf("definition has no word of it: %s", xml)
			}
			if want == `^paused \(I/O error\)` {
				if out, err := h.Virsh(t.Context(), qemuURI, "resume", name); err == nil {
					t.Errorf("resumed without its lock: %s", out)
				}
				free()
				virsh(t, h, qemuURI, "resume", name)
			}
			if action != "poweroff" && action != "restart" {
				virsh(t, h, qemuURI, "destroy", name)
			}
		})
	}
}

// TestLodgeLock holds what an operator sees of locks, and can do to them.
func TestLodgeLock(t *testing.T) {
	need(t, "virsh", "qemu-system-x86_64")
	h, folder := startLockingHost(t, "")
	image := lockedGuest(t, h, "owner", "")
	lodge := func(args ...string) (string, error) {
		return rig.Run(t.Context(), filepath.Join(h.Bin, "lodge"), append([]string{"--dir", h.Dir}, args...)...)
	}
	for _, c := range []struct {
		args, want string
		fails      bool
	}{
		{"lock list", `(?m)^\d+ +owner +\d+ +exclusive +held .* ` + image, false},
		{"lock show " + image, `(?s)lock +` + folder + `.*mode +exclusive.*state +held.*guest +owner.*generation +1.*owner +lives`, false},
		{"lock release " + image, `belongs to 'owner'.*which lives`, true},
		{"lock release /nowhere", `no lock has the id, disk or path`, true},
		{"lock release --force " + image, `lock \d+ of "owner" .* is released`, false},
	} {
		out, err := lodge(strings.Fields(c.args)...)
		if err != nil {
			out += err.Error()
		}
		if (err != nil) != c.fails || !regexp.MustCompile(c.want).MatchString(out) {
			t.Errorf("lodge %s: %v, says %q, want %s", c.args, err, out, c.want)
		}
	}
	eventually(t, 10*time.Second, func() error {
		if got := virsh(t, h, qemuURI, "domstate", "owner", "--reason"); !strings.HasPrefix(got, "paused (I/O error)") {
			return fmt.Errorf("guest whose lock was taken away is %s", got)
		}
		return nil
	})
	virsh(t, h, qemuURI, "resume", "owner")
	if out, err := lodge("lock", "list"); err != nil || !strings.Contains(out, image) {
		t.Errorf("after a resume the locks are %s, error %v", out, err)
	}
}

// TestSuspendedGuestHandsItsDiskOver holds that one guest can have the disk of another while that is suspended.
func TestSuspendedGuestHandsItsDiskOver(t *testing.T) {
	need(t, "virsh", "qemu-system-x86_64")
	h, folder := startLockingHost(t, "")
	first := lockedGuest(t, h, "first", "")
	free := func() bool {
		names, err := os.ReadDir(folder)
		return err == nil && len(names) == 0
	}
	if free() {
		t.Fatal("there is no lock file of a running guest")
	}
	virsh(t, h, qemuURI, "suspend", "first")
	if !free() {
		t.Error("a suspended guest has a lock file")
	}
	if _, err := h.Kill(rig.Lockd); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() error {
		_, err := h.Virsh(t.Context(), qemuURI, "resume", "first")
		return err
	})
	locks, err := h.Locks(t.Context())
	mine := slices.IndexFunc(locks, func(l *adminv1.Lock) bool { return l.Disk == first })
	if err != nil || mine < 0 || locks[mine].State != "held" {
		t.Errorf("after a resume the locks are %v, error %v", locks, err)
	}
	virsh(t, h, qemuURI, "destroy", "first")
	eventually(t, 10*time.Second, func() error {
		if !free() {
			return fmt.Errorf("a lock file is left")
		}
		return nil
	})
}

// TestNamedLeases holds that a guest is started with its <lease> and without it not at all.
func TestNamedLeases(t *testing.T) {
	need(t, "virsh", "qemu-system-x86_64")
	h, _ := startLockingHost(t, "auto_disk_leases = false\n")
	image := filepath.Join(t.TempDir(), "disk.img")
	leases := t.TempDir()
	err := os.Mkdir(filepath.Join(leases, "space"), 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(leases, "space", "key"), nil, 0o600)
	}
	if err == nil {
		err = os.WriteFile(image, make([]byte, 1<<20), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	lease := func(key, more string) string {
		return fmt.Sprintf("<lease><lockspace>space</lockspace><key>%s</key><target path='%s'%s/></lease>", key, leases, more)
	}
	for name, c := range map[string]struct{ devices, want string }{
		"without a lease":            {disk(image), "no leases specified"},
		"with one that is not there": {disk(image) + lease("missing", ""), "no such file"},
		"with an offset":             {disk(image) + lease("key", " offset='512'"), "offset"},
		"with one":                   {disk(image) + lease("key", ""), ""},
	} {
		file := write(t, "guest.xml", qemuDomain(strings.ReplaceAll(name, " ", "-"), c.devices))
		out, err := h.Virsh(t.Context(), qemuURI, "create", file)
		if err != nil {
			out += err.Error()
		}
		if (err == nil) != (c.want == "") || !strings.Contains(out, c.want) {
			t.Errorf("%s: %q, want %q", name, out, c.want)
		}
	}
	file := write(t, "second.xml", qemuDomain("second", disk(image+"2")+lease("key", "")))
	if err := os.WriteFile(image+"2", make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := h.Virsh(t.Context(), qemuURI, "create", file); err == nil || !strings.Contains(err.Error(), "with-one") {
		t.Errorf("a second guest with the same lease: %s, error %v", out, err)
	}
}
