package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestStorageThatIsFull holds that a volume for which there is no room is refused with the system's own word and leaves nothing, that an upload
// which does not fit fails, and that the room is there again afterwards.
func TestStorageThatIsFull(t *testing.T) {
	need(t, "virsh", "qemu-img")
	h := startHost(t)
	dir, freeze := leaseStorage(t)
	if freeze == nil {
		t.Skip("no small file system can be had here")
	}
	do := func(args ...string) string { t.Helper(); return virsh(t, h, qemuURI, args...) }
	refused := func(want string, args ...string) {
		t.Helper()
		if out, err := h.Virsh(t.Context(), qemuURI, args...); err == nil || !strings.Contains(strings.ToLower(err.Error()), want) {
			t.Errorf("%v: %s, error %v, want %q", args, out, err, want)
		}
	}
	do("pool-create-as", "p", "dir", "--target", dir)
	const full = "no space left on device"
	refused(full, "vol-create-as", "p", "a", "1G")
	do("vol-create-as", "p", "thin", "256M", "--allocation", "0")
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, []byte(strings.Repeat("content ", 16<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(full, "vol-upload", "thin", big, "--pool", "p")
	refused(full, "vol-clone", "thin", "copy", "--pool", "p")
	do("vol-delete", "thin", "p")
	do("pool-refresh", "p")
	if left, err := filepath.Glob(filepath.Join(dir, ".lodge-*")); err != nil || len(left) > 0 {
		t.Errorf("left is %q, error %v", left, err)
	}
	if out := do("vol-list", "p"); strings.Count(out, dir) != 1 || !strings.Contains(out, "lost+found") {
		t.Errorf("volumes are %s", out)
	}
	do("vol-create-as", "p", "fits", "8M")
	do("pool-destroy", "p")
}

// TestStorageThatVanishes takes the folder of a pool away and brings it back.
func TestStorageThatVanishes(t *testing.T) {
	need(t, "virsh")
	h := startHost(t)
	dir := filepath.Join(t.TempDir(), "pool")
	do := func(args ...string) string { t.Helper(); return virsh(t, h, qemuURI, args...) }
	do("pool-define-as", "p", "dir", "--target", dir)
	do("pool-build", "p")
	do("pool-start", "p")
	do("vol-create-as", "p", "v", "1M")
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"pool-refresh", "p"}, {"vol-create-as", "p", "w", "1M"}, {"vol-delete", "v", "p"}} {
		if out, err := h.Virsh(t.Context(), qemuURI, args...); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%v without the folder: %s, error %v", args, out, err)
		}
	}
	if out := do("pool-list", "--all"); !strings.Contains(out, "p ") {
		t.Errorf("pools are %s", out)
	}
	if err := os.Rename(dir+"-away", dir); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Virsh(t.Context(), qemuURI, "pool-start", "p"); err != nil && !strings.Contains(err.Error(), "already active") {
		t.Error(err)
	}
	do("pool-refresh", "p")
	if out := do("vol-list", "p"); !strings.Contains(out, filepath.Join(dir, "v")) {
		t.Errorf("volumes are %s", out)
	}
}
