package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/tests/rig"
)

// TestGuestOutlivesItsStorageDriver runs a guest from a volume of a pool while the driver of the pool is killed, replaced by another build
// and restarted. The guest counts on, its volume stays what it is, and nobody is refused a question.
func TestGuestOutlivesItsStorageDriver(t *testing.T) {
	need(t, "virsh", "qemu-system-x86_64")
	h := newHost(t)
	h.Bin = ownBinaries(t, h.Bin)
	if err := h.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	image, err := rig.BuildImage(filepath.Join("..", ".."), t.TempDir())
	if errors.Is(err, rig.ErrNoGuest) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	do := func(args ...string) string { t.Helper(); return virsh(t, h, qemuURI, args...) }
	do("pool-define-as", "p", "dir", "--target", dir)
	do("pool-start", "p")
	do("vol-create-as", "p", "system", "8M")
	do("vol-upload", "system", image.Disk, "--pool", "p")
	image.Disk = filepath.Join(dir, "system")
	do("create", write(t, "guest.xml", linuxGuest("guest", image)))
	at := countsOn(t, image, 3, time.Minute)

	binary := filepath.Join(h.Bin, "plugins", "lodge-plugin-local")
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"killed", func() { killPlugin(t, h, "lodge-plugin-local") }},
		{"killed in the middle of a copy", func() {
			go func() { _, _ = h.Virsh(t.Context(), qemuURI, "vol-clone", "system", "copy", "--pool", "p") }() // it may be too late
			time.Sleep(30 * time.Millisecond)
			killPlugin(t, h, "lodge-plugin-local")
		}},
		{"replaced by another build", func() {
			text, err := os.ReadFile(binary)
			if err == nil {
				err = errors.Join(os.WriteFile(binary+".new", append(text, "another build"...), 0o755), os.Rename(binary+".new", binary))
			}
			if err != nil {
				t.Fatal(err)
			}
			if out, err := rig.Run(t.Context(), filepath.Join(h.Bin, "lodge"), "--dir", h.Dir, "plugin", "restart", "local"); err != nil || !strings.Contains(out, "ready") {
				t.Fatalf("restart: %v: %s", err, out)
			}
			wantBinary(t, h, binary)
		}},
	} {
		step.do()
		if err := h.ResetPlugin(t.Context(), "local"); err != nil {
			t.Fatal(err)
		}
		// What is known needs no driver.
		if out := do("pool-info", "p") + do("vol-list", "p"); !strings.Contains(out, "running") || !strings.Contains(out, image.Disk) {
			t.Errorf("%s: the pool is told as %s", step.name, out)
		}
		at = countsOn(t, image, at, time.Minute)
		do("pool-refresh", "p")
		do("vol-create-as", "p", "another", "1M")
		do("vol-delete", "another", "p")
		if out := do("vol-info", "system", "p"); !strings.Contains(out, "8.00 MiB") {
			t.Errorf("%s: the guest's volume is told as %s", step.name, out)
		}
		at = countsOn(t, image, at, time.Minute)
	}
	do("destroy", "guest")
}

// ownBinaries returns a folder with the same binaries, which a test may replace.
func ownBinaries(t *testing.T, bin string) string {
	t.Helper()
	own := filepath.Join(t.TempDir(), "bin")
	if err := os.CopyFS(own, os.DirFS(bin)); err != nil {
		t.Fatal(err)
	}
	// CopyFS leaves modes to the umask.
	err := filepath.WalkDir(own, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasSuffix(path, ".toml") {
			err = os.Chmod(path, 0o755)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return own
}

// wantBinary holds that the local driver's process runs the file that is at a path now.
func wantBinary(t *testing.T, h *rig.Host, path string) {
	t.Helper()
	all, err := rig.Processes(h.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if p.Name != filepath.Base(path) {
			continue
		}
		var is, want unix.Stat_t
		if err := errors.Join(unix.Stat(filepath.Join("/proc", strconv.Itoa(p.PID), "exe"), &is), unix.Stat(path, &want)); err != nil {
			t.Fatal(err)
		}
		if is.Ino != want.Ino {
			t.Errorf("process %d runs another file than %s", p.PID, path)
		}
		return
	}
	t.Errorf("no process runs %s", path)
}

// TestStuckStorageHoldsUpNobody has the storage below a pool hang, under work on its volumes. Meanwhile all questions are answered at once, and
// other pools of the same driver work.
func TestStuckStorageHoldsUpNobody(t *testing.T) {
	need(t, "virsh")
	h := startHost(t)
	stuck, freeze := leaseStorage(t)
	if freeze == nil {
		t.Skip("no storage that hangs can be had here")
	}
	do := func(args ...string) string { t.Helper(); return virsh(t, h, qemuURI, args...) }
	for name, dir := range map[string]string{"stuck": stuck, "fine": t.TempDir()} {
		do("pool-define-as", name, "dir", "--target", dir)
		do("pool-start", name)
		do("vol-create-as", name, "v", "1M")
	}
	thaw := freeze(t)
	hung := make(chan error, 8)
	for n := range cap(hung) {
		go func() {
			_, err := h.Virsh(t.Context(), qemuURI, "vol-create-as", "stuck", fmt.Sprint("w", n), "1M")
			hung <- err
		}()
	}
	time.Sleep(500 * time.Millisecond)
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		for _, args := range [][]string{
			{"pool-list", "--all"},
			{"pool-info", "stuck"},
			{"pool-info", "fine"},
			{"vol-list", "stuck"},
			{"vol-info", "v", "stuck"},
			{"list", "--all"},
			{"pool-refresh", "fine"},
			{"vol-create-as", "fine", "w", "1M"},
			{"vol-delete", "w", "fine"},
			{"pool-dumpxml", "stuck"},
		} {
			if out, err := h.Virsh(ctx, qemuURI, args...); err != nil {
				t.Errorf("%v while the storage of another pool hangs: %v: %s", args, err, out)
			}
		}
		cancel()
	}
	select {
	case err := <-hung:
		t.Errorf("a volume came to be on storage that hangs, error %v", err)
	default:
	}
	thaw()
	for range cap(hung) {
		if err := <-hung; err != nil {
			t.Errorf("once the storage goes on: %v", err)
		}
	}
	do("pool-refresh", "stuck")
	if out := do("vol-list", "stuck"); strings.Count(out, stuck+"/w") != cap(hung) {
		t.Errorf("volumes are %s", out)
	}
	do("pool-destroy", "stuck")
}
