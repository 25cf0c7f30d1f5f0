package locks

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/tests/lockd"
	"github.com/lodgevirt/lodge/tests/peer"
	"github.com/lodgevirt/lodge/tests/rig"
)

// blind is an emulator that is QEMU without locks of its own on images, so that only the lock daemon can refuse a second guest.
const blind = `#!/bin/bash
args=()
for a in "$@"; do args+=("${a/\"driver\":\"file\",/\"driver\":\"file\",\"locking\":\"off\",}"); done
exec qemu-system-x86_64 "${args[@]}"
`

// house is a real libvirtd whose lock daemon is ours.
type house struct {
	*peer.Libvirt
	// t is the test that is told about what fails.
	t   *testing.T
	dir string
	// program is the command line of the lock daemon, and lockd its process.
	program []string
	lockd   int
	eye     *lockd.Eye
	// lease returns the file whose first byte is locked for a disk.
	lease func(disk string) string
	// temporary says that such a file is there only while it is locked.
	temporary bool
}

// newHouse starts the daemons; conf is qemu-lockd.conf.
func newHouse(t *testing.T, conf ...string) *house {
	t.Helper()
	h := buildHouse(t, conf...)
	h.program = []string{binary(t, "lodge-lockd"), "--socket", "/run/libvirt/virtlockd-sock", "--log-level", "debug"}
	h.startLockd()
	h.startLibvirtd()
	return h
}

// buildHouse prepares a house in which no lock daemon and no libvirtd runs yet.
func buildHouse(t *testing.T, conf ...string) *house {
	t.Helper()
	long(t)
	if err := peer.Available(); err != nil {
		t.Skip(err)
	}
	if _, err := exec.LookPath("virsh"); err != nil {
		t.Skip("virsh is not installed (make deps)")
	}
	dir := folder(t)
	l, err := peer.Build(t.Context(), dir)
	must(t, err)
	h := &house{Libvirt: l, t: t, dir: dir, eye: watch(t)}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the lock daemon said at last:\n%s", rig.Tail(l.Jail.Log("lockd")))
			t.Logf("libvirtd said at last:\n%s", rig.Tail(l.Jail.Log("libvirtd")))
		}
	})
	write(t, filepath.Join(dir, "blind"), blind, 0o755)
	must(t, l.Configure("qemu.conf", `lock_manager = "lockd"`))
	must(t, l.Configure("qemu-lockd.conf", conf...))
	return h
}

// startLockd starts the lock daemon and returns once it answers.
func (h *house) startLockd() {
	h.t.Helper()
	var err error
	h.lockd, err = h.Jail.Start("lockd", h.program...)
	must(h.t, err)
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	must(h.t, peer.Await(ctx, h.LockSocket()))
}

// startLibvirtd starts libvirtd and returns once it answers.
func (h *house) startLibvirtd() {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	must(h.t, h.Start(ctx))
	h.virsh("list")
}

// try runs virsh.
func (h *house) try(args ...string) (string, error) {
	return rig.Run(h.t.Context(), "virsh", append([]string{"-q", "-c", h.URI()}, args...)...)
}

// virsh runs virsh, which must succeed.
func (h *house) virsh(args ...string) string {
	h.t.Helper()
	out, err := h.try(args...)
	must(h.t, err)
	return strings.TrimSpace(out)
}

// refused runs virsh, which must fail for a lock.
func (h *house) refused(holder string, args ...string) {
	h.t.Helper()
	_, err := h.try(args...)
	if err == nil {
		h.t.Fatalf("virsh %v succeeded, want a refusal", args)
	}
	for _, word := range []string{"resource busy", holder} {
		if !strings.Contains(err.Error(), word) {
			h.t.Errorf("virsh %v says %v, want %q in it", args, err, word)
		}
	}
}

// image makes a disk image.
func (h *house) image(name string) string {
	path := filepath.Join(h.dir, name+".img")
	must(h.t, errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<20)))
	return path
}

// define defines the smallest guest with disks and further devices.
func (h *house) define(name, devices string) {
	h.t.Helper()
	xml := fmt.Sprintf(`<domain type='qemu'>
  <name>%s</name>
  <memory unit='MiB'>16</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <emulator>%s</emulator>
    <controller type='usb' model='piix3-uhci'/>
    <memballoon model='none'/>
    %s
  </devices>
</domain>
`, name, filepath.Join(h.dir, "blind"), devices)
	h.virsh("define", write(h.t, filepath.Join(h.dir, name+".xml"), xml, 0o600))
}

// diskXML is a disk of a guest, with more XML in it.
func diskXML(path, more string) string { return busDiskXML(path, "vda", "virtio", more) }

func busDiskXML(path, target, bus, more string) string {
	return fmt.Sprintf(`<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='%s'/><target dev='%s' bus='%s'/>%s</disk>`,
		path, target, bus, more)
}

// expect waits until the kernel says of a disk's lock what it must.
func (h *house) expect(disk string, want lockd.Sight) {
	h.t.Helper()
	if want == lockd.Free && h.temporary {
		want = lockd.Missing
	}
	path := h.lease(disk)
	eventually(h.t, func() error {
		seen, err := h.eye.Look(path)
		if err == nil && seen[0] != want {
			err = fmt.Errorf("the lock of %s is %v, want %v", filepath.Base(disk), seen[0], want)
		}
		return err
	})
}

// leases lists the lock daemon's leases as "owner file mode state".
func (h *house) leases() []string {
	h.t.Helper()
	all := h.list()
	out := make([]string, 0, len(all))
	for _, l := range all {
		out = append(out, fmt.Sprintf("%s %s %v %d", l.Owner.Name, filepath.Base(l.Path), l.Shared, l.State))
	}
	slices.Sort(out)
	return out
}

func (h *house) list() []lockd.Lease {
	h.t.Helper()
	c, err := lockd.Dial(h.LockSocket())
	must(h.t, err)
	defer c.Close()
	all, err := c.List()
	must(h.t, err)
	return all
}

// qemu is the process of a guest.
func (h *house) qemu(name string) int {
	h.t.Helper()
	text, err := os.ReadFile(filepath.Join(h.dir, "run", "qemu", name+".pid"))
	must(h.t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	must(h.t, err)
	return pid
}

// owned checks that a guest has exactly one lease, of a disk, held by its process.
func (h *house) owned(name, disk string) {
	h.t.Helper()
	pid := h.qemu(name)
	var found []lockd.Lease
	for _, l := range h.list() {
		if l.Owner.Name == name {
			found = append(found, l)
		}
	}
	if len(found) != 1 || found[0].Path != h.lease(disk) || found[0].Owner.PID != pid || found[0].State != lockd.Held {
		h.t.Errorf("the leases of %s are %+v, want one of %s, held by process %d", name, found, h.lease(disk), pid)
	}
}

// hashed names a lease in a folder as libvirt does.
func hashed(dir string) func(string) string {
	return func(disk string) string {
		sum := sha256.Sum256([]byte(disk))
		return filepath.Join(dir, hex.EncodeToString(sum[:]))
	}
}
