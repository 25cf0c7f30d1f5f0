package leases_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
)

// mustRelease ends leases of an owner and expects that there were as many.
func (r *rig) mustRelease(o leases.Owner, want int, resources ...lockspace.Resource) {
	r.t.Helper()
	if n, err := r.Release(r.t.Context(), o, resources); n != want || err != nil {
		r.t.Fatalf("release ended %d leases, error %v, want %d", n, err, want)
	}
}

// direct is a disk that is locked itself.
func (r *rig) direct(name string) lockspace.Resource {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return lockspace.ForDisk("", path, lockspace.Exclusive)
}

func (r *rig) state(path string) (s leases.State, detail string) {
	for _, l := range r.List() {
		if l.Resource.Path() == path {
			return l.State, l.Detail
		}
	}
	return leases.Pending, ""
}

func TestWhatALivingOwnerGetsLaterEndsWithItToo(t *testing.T) {
	r := newRig(t)
	o, first, later := guest(1, 1), r.disk("first", lockspace.Exclusive), r.disk("later", lockspace.Exclusive)
	r.mustAcquire(o, first)
	end := r.run(o, first)
	// The core does not name the process again.
	r.mustAcquire(o, later)
	r.mustRelease(o, 1, first)
	for _, l := range r.List() {
		if l.Owner.Process.PID == 0 {
			t.Errorf("lease of %q has no process", l.Resource)
		}
	}
	r.restart()
	r.expect(map[string]leases.State{"later": leases.Held})
	end()
	eventually(t, "lock of a dead guest is never free", func() bool { return len(r.List()) == 0 })
}

// A guest that was suspended has an old duplicate of each of its locks, which holds nothing any more.
func TestOldDuplicatesDoNoHarm(t *testing.T) {
	for _, kind := range []string{"file in a lockspace", "disk itself"} {
		t.Run(kind, func(t *testing.T) {
			r := newRig(t)
			disk, kept := r.disk("a", lockspace.Exclusive), r.disk("kept", lockspace.Exclusive)
			if kind == "disk itself" {
				disk = r.direct("image")
			}
			o := guest(1, 1)
			r.mustAcquire(o, disk, kept)
			r.run(o, disk, kept)
			r.mustRelease(o, 1, disk)
			// While the guest is suspended another one may have the disk.
			r.mustAcquire(guest(2, 1), disk)
			r.mustRelease(guest(2, 1), 1)
			r.restart()
			r.mustAcquire(o, disk)
			for range 3 {
				r.restart()
				if s, detail := r.state(disk.Path()); s != leases.Held {
					t.Fatalf("lease after a restart is %v: %s", s, detail)
				}
				if _, err := lockspace.Take(disk); !errors.As(err, new(*lockspace.BusyError)) {
					t.Fatalf("lock after a restart is free: %v", err)
				}
			}
			// Somebody is faster than the next daemon, whom the guest's old duplicate must not deceive.
			r.close()
			rival, err := lockspace.Take(disk)
			if err != nil {
				t.Fatal(err)
			}
			r.open()
			if s, _ := r.state(disk.Path()); s == leases.Held || s == leases.Pending {
				t.Errorf("lease of a lock that somebody else has is %v", s)
			}
			if err := rival.Release(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "free lock is not taken again", func() bool { s, _ := r.state(disk.Path()); return s == leases.Held })
			// A new duplicate makes the guest's lock outlive the daemon again.
			r.run(o, disk)
			r.close()
			if _, err := lockspace.Take(disk); !errors.As(err, new(*lockspace.BusyError)) {
				t.Errorf("lock of a guest with a new duplicate is free: %v", err)
			}
			r.open()
		})
	}
}

// A table that is opened anew before it knows a guest's process takes a shared lock beside the guest's, and must not keep to that.
func TestSharedLocksOfAProcessThatIsToldLate(t *testing.T) {
	for _, told := range []struct {
		name string
		tell func(r *rig, o leases.Owner, disk lockspace.Resource) error
	}{
		{"by itself", func(r *rig, o leases.Owner, _ lockspace.Resource) error { return r.SetProcess(t.Context(), o) }},
		{"with a lock", func(r *rig, o leases.Owner, disk lockspace.Resource) error { return r.acquire(o, disk) }},
	} {
		t.Run(told.name, func(t *testing.T) {
			r := newRig(t)
			o, disk := guest(1, 1), r.disk("shared", lockspace.Shared)
			r.mustAcquire(o, disk)
			files, err := r.Files(t.Context(), o, []lockspace.Resource{disk})
			if err != nil {
				t.Fatal(err)
			}
			r.restart()
			r.expect(map[string]leases.State{"shared": leases.Held})
			o.Process, _ = sleeper(t, files...)
			files[0].Close()
			if err := told.tell(r, o, disk); err != nil {
				t.Fatal(err)
			}
			r.expect(map[string]leases.State{"shared": leases.Held})
			r.mustRelease(o, 1)
			if _, err := os.Stat(disk.Path()); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("lock file after the release: %v", err)
			}
		})
	}
}

// As in virtlockd, the first lease of a shared lock says whether the file goes with the last, whichever that is, and also after a restart.
func TestFirstLeaseSaysWhetherTheFileGoes(t *testing.T) {
	for _, c := range []struct {
		name             string
		first, then      bool // temporary
		restart, classic bool
	}{
		{name: "temporary first", first: true},
		{name: "temporary first, restart", first: true, restart: true},
		{name: "temporary first, virtlockd's clients", first: true, classic: true},
		{name: "temporary later", then: true},
		{name: "temporary later, restart", then: true, restart: true},
		{name: "temporary later, virtlockd's clients", then: true, classic: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			path := filepath.Join(r.dir, "x")
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			var owners [3]leases.Owner
			for n := range owners {
				owners[n] = guest(byte(n+1), 1)
				if c.classic {
					owners[n].Classic = true
					owners[n].Process, _ = sleeper(t)
				}
			}
			res := func(temporary bool) lockspace.Resource {
				return lockspace.Resource{Lockspace: r.dir, Name: "x", Mode: lockspace.Shared, Temporary: temporary}
			}
			r.mustAcquire(owners[0], res(c.first))
			r.mustAcquire(owners[1], res(c.then))
			// What comes when the first has gone follows it too.
			r.mustRelease(owners[0], 1)
			if c.restart {
				r.restart()
			}
			r.mustAcquire(owners[2], res(c.then))
			r.mustRelease(owners[1], 1)
			if _, err := os.Stat(path); err != nil {
				t.Errorf("lock file before the last release: %v", err)
			}
			r.mustRelease(owners[2], 1)
			if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) != c.first {
				t.Errorf("lock file after the last release: %v", err)
			}
			// The next lease is a first one.
			r.mustAcquire(owners[0], res(true))
			r.mustRelease(owners[0], 1)
			if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("lock file of a temporary lease after its release: %v", err)
			}
		})
	}
}

func TestReleaseDropsWhatOnlyTheGuestHolds(t *testing.T) {
	for n, mode := range []lockspace.Mode{lockspace.Exclusive, lockspace.Shared} {
		r := newRig(t)
		o, disk := guest(byte(n+1), 1), r.disk("a", mode)
		for range 15 {
			r.mustAcquire(o, disk)
			end := r.run(o, disk)
			r.close()
			// The release may come before the table has taken its own copy back.
			table, err := leases.Open(r.path, hclog.NewNullLogger())
			if err != nil {
				t.Fatal(err)
			}
			r.Table = table
			r.mustRelease(o, 1)
			disk.Mode = lockspace.Exclusive
			lock, err := lockspace.Take(disk)
			if err != nil {
				t.Fatalf("%v lock of a living guest was not dropped: %v", mode, err)
			}
			disk.Mode = mode
			lock.Close()
			end()
		}
	}
}

func TestLockFileThatIsRemovedIsLockedAnew(t *testing.T) {
	r := newRig(t)
	o, disk := guest(1, 1), r.disk("a", lockspace.Exclusive)
	shared := r.disk("shared", lockspace.Shared)
	r.mustAcquire(o, disk)
	r.run(o, disk)
	me := classicOwner(mustFind(t))
	r.mustAcquire(me, shared)
	r.mustAcquire(me, shared)
	w := r.Watch(10)
	defer w.Close()
	for _, res := range []lockspace.Resource{disk, shared} {
		if err := os.Remove(res.Path()); err != nil {
			t.Fatal(err)
		}
	}
	for _, res := range []lockspace.Resource{disk, shared} {
		eventually(t, "removed lock file is not made again", func() bool { _, err := os.Stat(res.Path()); return err == nil })
		res.Mode = lockspace.Exclusive
		eventually(t, "new lock file is free", func() bool {
			lock, err := lockspace.Take(res)
			if err == nil {
				lock.Close()
			}
			return errors.As(err, new(*lockspace.BusyError))
		})
	}
	eventually(t, "a lease stays unsure", func() bool { return r.Counts().Held == 3 })
	if state, err := r.Handover(t.Context()); err != nil || len(state) != 3 || state[1].FD != state[2].FD {
		t.Errorf("locks are %+v, %v", state, err)
	}
	r.Resume()
	if _, err := nextChange(t, w, 10*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a lock that was had again at once was told: %v", err)
	}
	r.mustRelease(o, 1)
	r.mustRelease(me, 2)
	for _, res := range []lockspace.Resource{disk, shared} {
		if _, err := os.Stat(res.Path()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("lock file is left: %v", err)
		}
	}
}

func nextChange(t *testing.T, w *leases.Watch, patience time.Duration) (leases.Change, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return w.Next(ctx)
}

func TestLockFileThatIsReplacedByALockedOneIsLost(t *testing.T) {
	r := newRig(t)
	disk := r.disk("a", lockspace.Exclusive)
	r.mustAcquire(guest(1, 1), disk)
	w := r.Watch(10)
	defer w.Close()
	other := filepath.Join(r.dir, "other")
	rival, err := lockspace.Take(lockspace.Resource{Lockspace: r.dir, Name: "other", Temporary: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(other, disk.Path()); err != nil {
		t.Fatal(err)
	}
	c, err := nextChange(t, w, 20*time.Second)
	if err != nil || c.State != leases.Lost || c.Number != r.List()[0].Number {
		t.Fatalf("change is %+v, %v", c, err)
	}
	if s, detail := r.state(disk.Path()); s != leases.Lost || !strings.Contains(detail, "held by another process") {
		t.Errorf("lease is %v: %s", s, detail)
	}
	if err := r.acquire(guest(2, 1), disk); !errors.As(err, new(*leases.BusyError)) {
		t.Errorf("Acquire of a lost lease's disk: %v", err)
	}
	rival.Close()
	if c, err = nextChange(t, w, 20*time.Second); err != nil || c.State != leases.Held {
		t.Errorf("change is %+v, %v", c, err)
	}
	number := r.List()[0].Number
	if _, err := r.ForceRelease(t.Context(), number); err != nil {
		t.Fatal(err)
	}
	if c, err = nextChange(t, w, 20*time.Second); err != nil || c != (leases.Change{Number: number, State: leases.Held, Ended: true}) {
		t.Errorf("change is %+v, %v", c, err)
	}
}

func TestDiskThatIsMovedAwayAndBack(t *testing.T) {
	r := newRig(t)
	disk := r.direct("image")
	r.mustAcquire(guest(1, 1), disk)
	moved := disk.Path() + ".moved"
	if err := os.Rename(disk.Path(), moved); err != nil {
		t.Fatal(err)
	}
	eventually(t, "loss is not noticed", func() bool { s, _ := r.state(disk.Path()); return s == leases.Lost })
	if _, detail := r.state(disk.Path()); !strings.Contains(detail, "no such file") {
		t.Errorf("detail %q", detail)
	}
	if _, err := lockspace.Take(lockspace.Resource{Name: moved}); !errors.As(err, new(*lockspace.BusyError)) {
		t.Errorf("the old file is not locked any more: %v", err)
	}
	if err := os.Rename(moved, disk.Path()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "return is not noticed", func() bool { s, _ := r.state(disk.Path()); return s == leases.Held })
}

func TestWatchThatMissedChangesSaysSo(t *testing.T) {
	r := newRig(t)
	w := r.Watch(1)
	defer w.Close()
	for range 3 {
		r.mustAcquire(guest(1, 1), r.disk("a", lockspace.Exclusive))
		if _, err := r.ForceRelease(t.Context(), r.List()[0].Number); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Next(t.Context()); !errors.Is(err, leases.ErrMissed) {
		t.Errorf("Next: %v, want ErrMissed", err)
	}
	if _, err := nextChange(t, w, time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Next: %v, want nothing", err)
	}
	r.close()
	if _, err := w.Next(t.Context()); !errors.Is(err, leases.ErrClosed) {
		t.Errorf("Next: %v, want ErrClosed", err)
	}
}

// hang mounts a file system over a folder that answers nothing until the returned function is called.
func hang(t *testing.T, folder string) (end func()) {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("needs FUSE: ", err)
	}
	if err := unix.Mount("hung", folder, "fuse", 0, "fd="+itoa(fd)+",rootmode=40000,user_id=0,group_id=0"); err != nil {
		unix.Close(fd)
		t.Skip("needs a file system that hangs: ", err)
	}
	ended := false
	end = func() {
		if !ended {
			ended = true
			unix.Close(fd)
			if err := unix.Unmount(folder, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(end)
	return end
}

func TestHungFileSystemHoldsUpNobodyElse(t *testing.T) {
	r := newRig(t)
	dead := filepath.Join(r.dir, "dead")
	if err := os.Mkdir(dead, 0o700); err != nil {
		t.Fatal(err)
	}
	hung := lockspace.ForDisk(dead, "/images/hung", lockspace.Exclusive)
	r.mustAcquire(guest(1, 1), hung)
	r.mustAcquire(guest(2, 1), r.disk("a", lockspace.Exclusive))
	end := hang(t, dead)
	// The patrol must come past the first to the second, although both are on one file system.
	if err := os.Remove(r.disk("a", lockspace.Exclusive).Path()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the patrol does not go on", func() bool { _, err := os.Stat(r.disk("a", lockspace.Exclusive).Path()); return err == nil })
	r.mustAcquire(guest(3, 1), r.disk("b", lockspace.Exclusive))
	if err := r.Close(); err == nil {
		t.Error("Close did not say that a file system hangs")
	}
	// After a restart the locks of others are there within the time that clients wait for.
	table, err := leases.Open(r.path, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	r.Table = table
	eventually(t, "locks of others are not recovered", func() bool {
		states := r.states()
		return states["a"] == leases.Held && states["b"] == leases.Held
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := r.Recovered(ctx); err != nil {
		t.Error(err)
	}
	end()
	eventually(t, "lock is not recovered when the file system is back", func() bool { return r.states()["hung"] == leases.Held })
}
