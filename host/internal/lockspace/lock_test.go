package lockspace_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

func TestAnotherProcessConflicts(t *testing.T) {
	for _, c := range []struct {
		theirs  string
		ours    lockspace.Mode
		busy    bool
		withPID bool
	}{
		{theirs: "exclusive", ours: lockspace.Exclusive, busy: true},
		{theirs: "exclusive", ours: lockspace.Shared, busy: true},
		{theirs: "shared", ours: lockspace.Exclusive, busy: true},
		{theirs: "shared", ours: lockspace.Shared},
		{theirs: "posix", ours: lockspace.Exclusive, busy: true, withPID: true},
		{theirs: "posix", ours: lockspace.Shared, busy: true, withPID: true},
		{theirs: "idle", ours: lockspace.Exclusive},
	} {
		t.Run(c.theirs+" against "+c.ours.String(), func(t *testing.T) {
			path := disk(t)
			them := other(t, c.theirs, path)
			lock, err := lockspace.Take(lockspace.Resource{Name: path, Mode: c.ours})
			var busy *lockspace.BusyError
			if errors.As(err, &busy) != c.busy {
				t.Fatalf("Take: %v, want busy %v", err, c.busy)
			}
			if c.withPID && busy.PID != them.Process.Pid {
				t.Errorf("holder is process %d, want %d", busy.PID, them.Process.Pid)
			}
			if !c.busy {
				lock.Close()
				return
			}
			kill(them)
			lock, err = lockspace.Take(lockspace.Resource{Name: path, Mode: c.ours})
			if err != nil {
				t.Fatalf("after its end: %v", err)
			}
			lock.Close()
		})
	}
}

func TestInheritedDescriptorKeepsTheLock(t *testing.T) {
	r := lockspace.ForDisk(t.TempDir(), "/images/a.qcow2", lockspace.Exclusive)
	lock, err := lockspace.Take(r)
	if err != nil {
		t.Fatal(err)
	}
	dup, err := lock.Duplicate()
	if err != nil {
		t.Fatal(err)
	}
	guest := other(t, "idle", "-", dup)
	dup.Close()
	file := lock.File()
	lock.Close()

	if _, err := lockspace.Take(r); !errors.As(err, new(*lockspace.BusyError)) {
		t.Fatalf("Take while the guest lives: %v", err)
	}
	p := openProcess(t, guest.Process.Pid)
	back, err := lockspace.FromProcess(p, r, file)
	if err != nil {
		t.Fatal(err)
	}
	kill(guest)
	if _, err := lockspace.Take(r); !errors.As(err, new(*lockspace.BusyError)) {
		t.Fatalf("what was taken back is no lock: %v", err)
	}
	if err := back.Release(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(r.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("lock file is still there: %v", err)
	}
}

func TestTakingBackNeedsProof(t *testing.T) {
	path := disk(t)
	image, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	holder, err := lockspace.Take(lockspace.Resource{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	// The guest has the image open, but not through the description that holds the lock.
	guest := other(t, "idle", "-", image)
	p := openProcess(t, guest.Process.Pid)
	if _, err := lockspace.FromProcess(p, holder.Resource(), holder.File()); !errors.Is(err, lockspace.ErrNoLock) {
		t.Errorf("FromProcess: %v, want ErrNoLock", err)
	}
	if _, err := lockspace.FromFile(image, holder.Resource()); !errors.Is(err, lockspace.ErrNoLock) {
		t.Errorf("FromFile: %v, want ErrNoLock", err)
	}
	dup, err := holder.Duplicate()
	if err != nil {
		t.Fatal(err)
	}
	defer dup.Close()
	elsewhere := lockspace.Resource{Name: disk(t)}
	if _, err := lockspace.FromFile(dup, elsewhere); !errors.Is(err, lockspace.ErrNoLock) {
		t.Errorf("FromFile for another path: %v, want ErrNoLock", err)
	}
	shared := lockspace.Resource{Name: path, Mode: lockspace.Shared}
	if _, err := lockspace.FromFile(dup, shared); !errors.Is(err, lockspace.ErrNoLock) {
		t.Errorf("FromFile in another mode: %v, want ErrNoLock", err)
	}
}

func TestReleaseRemovesOnlyWhatItMay(t *testing.T) {
	dir := t.TempDir()
	shared := lockspace.ForDisk(dir, "/a", lockspace.Shared)
	first, err := lockspace.Take(shared)
	if err != nil {
		t.Fatal(err)
	}
	second, err := lockspace.Take(shared)
	if err != nil {
		t.Fatal(err)
	}
	release(t, first)
	if _, err := os.Stat(shared.Path()); err != nil {
		t.Errorf("file is gone while another shares it: %v", err)
	}
	release(t, second)
	if _, err := os.Stat(shared.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("file of nobody is still there: %v", err)
	}
	image := disk(t)
	direct, err := lockspace.Take(lockspace.Resource{Name: image, Temporary: true})
	if err != nil {
		t.Fatal(err)
	}
	release(t, direct)
	if _, err := os.Stat(image); err != nil {
		t.Errorf("disk image was removed: %v", err)
	}
}

func TestReplacedFileIsNotRemoved(t *testing.T) {
	r := lockspace.ForDisk(t.TempDir(), "/a", lockspace.Exclusive)
	lock, err := lockspace.Take(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(r.Path()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.Path(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	release(t, lock)
	if _, err := os.Stat(r.Path()); err != nil {
		t.Errorf("somebody else's file was removed: %v", err)
	}
}

// Only one of many takers may ever be between Take and Release, although each Release removes the file.
func TestRemovalDoesNotRace(t *testing.T) {
	r := lockspace.ForDisk(t.TempDir(), "/a", lockspace.Exclusive)
	var inside, taken atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 500 {
				lock, err := lockspace.Take(r)
				if err != nil {
					continue
				}
				taken.Add(1)
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d holders at once", n)
				}
				inside.Add(-1)
				if err := lock.Release(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if taken.Load() == 0 {
		t.Error("nobody ever had the lock")
	}
}

func TestNames(t *testing.T) {
	r := lockspace.ForDisk("/locks", "/var/lib/libvirt/images/demo.img", lockspace.Exclusive)
	const want = "/locks/"
	if len(r.Name) != 64 || r.Path() != want+r.Name || strings.ToLower(r.Name) != r.Name {
		t.Errorf("disk in a lockspace is locked by %q", r.Path())
	}
	if p := lockspace.ForDisk("", "/dev/vg/lv", lockspace.Exclusive).Path(); p != "/dev/vg/lv" {
		t.Errorf("direct disk is locked by %q", p)
	}
	for _, bad := range []lockspace.Resource{
		{Name: ""},
		{Name: "relative"},
		{Name: "/a\x00b"},
		{Name: "/\xff"},
		{Name: "/" + strings.Repeat("x", lockspace.MaxName)},
		{Lockspace: "relative", Name: "a"},
		{Lockspace: "/l", Name: "../a"},
		{Lockspace: "/l", Name: ""},
		{Lockspace: "/l", Name: "."},
		{Lockspace: "/l", Name: "/a"},
	} {
		if _, err := lockspace.Take(bad); !errors.Is(err, lockspace.ErrName) {
			t.Errorf("Take of %.40q in %q: %v, want ErrName", bad.Name, bad.Lockspace, err)
		}
	}
}

func TestPathsAreClean(t *testing.T) {
	for _, lockspaceDir := range []string{"", "/", "/l", "/l/", "//l", "/l/m", "/l/./m", "/l/../m", "/.l", "/l/.m", "/l//m"} {
		for _, name := range []string{"/a", "a", "a/b", ".a", "./a", "a/", "/a//b", "/a/./b", "/a/../b", "/", "/a/", "a.b", "/.a"} {
			r := lockspace.Resource{Lockspace: lockspaceDir, Name: name}
			want := filepath.Clean(name)
			if lockspaceDir != "" {
				want = filepath.Join(lockspaceDir, name)
			}
			if r.Path() != want {
				t.Errorf("path of %q in %q is %q, want %q", name, lockspaceDir, r.Path(), want)
			}
		}
	}
}

func TestOnlyFilesCanBeLocked(t *testing.T) {
	for _, path := range []string{t.TempDir(), "/dev/null", filepath.Join(t.TempDir(), "missing")} {
		if lock, err := lockspace.Take(lockspace.Resource{Name: path}); err == nil {
			t.Errorf("Take of %q succeeded", path)
			lock.Close()
		}
	}
}

func release(t *testing.T, lock *lockspace.Lock) {
	t.Helper()
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
}

func openProcess(t *testing.T, pid int) *process.Process {
	t.Helper()
	id, err := process.Find(int32(pid))
	if err != nil {
		t.Fatal(err)
	}
	p, err := process.Open(id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func BenchmarkTakeAndRelease(b *testing.B) {
	r := lockspace.ForDisk(b.TempDir(), "/a", lockspace.Exclusive)
	for b.Loop() {
		lock, err := lockspace.Take(r)
		if err != nil {
			b.Fatal(err)
		}
		if err := lock.Release(); err != nil {
			b.Fatal(err)
		}
	}
}
