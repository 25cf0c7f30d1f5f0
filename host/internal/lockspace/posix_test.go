package lockspace_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
)

// locked opens a file and locks it as this process did before it was executed anew.
func locked(t *testing.T, path string, kind lockspace.Kind, mode lockspace.Mode) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	setLock(t, fd, kind, mode)
	return fd
}

func setLock(t *testing.T, fd int, kind lockspace.Kind, mode lockspace.Mode) {
	t.Helper()
	lk := unix.Flock_t{Type: unix.F_WRLCK, Len: 1}
	if mode == lockspace.Shared {
		lk.Type = unix.F_RDLCK
	}
	cmd := unix.F_OFD_SETLK
	if kind == lockspace.POSIX {
		cmd = unix.F_SETLK
	}
	if err := unix.FcntlFlock(uintptr(fd), cmd, &lk); err != nil {
		t.Fatal(err)
	}
}

// free asks another process whether it gets a lock of a file.
func free(t *testing.T, path string, mode lockspace.Mode) bool {
	t.Helper()
	cmd := exec.Command(os.Args[0], path)
	cmd.Env = append(os.Environ(), roleVariable+"="+mode.String())
	// Without an open stdin it ends at once.
	out, err := cmd.Output()
	if err != nil && !strings.Contains(string(out), "held by") {
		t.Fatalf("other process: %v: %s", err, out)
	}
	return err == nil
}

// descriptors returns how many descriptors this process has.
func descriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func TestInheritedDescriptorMustCarryALock(t *testing.T) {
	for _, kind := range []lockspace.Kind{lockspace.OFD, lockspace.POSIX} {
		for _, mode := range []lockspace.Mode{lockspace.Exclusive, lockspace.Shared} {
			t.Run(kind.String()+" "+mode.String(), func(t *testing.T) {
				path := disk(t)
				fd := locked(t, path, kind, mode)
				// What the description says of the mode does not count.
				lock, err := lockspace.Inherit(fd, lockspace.Resource{Name: path, Mode: !mode})
				if err != nil {
					t.Fatal(err)
				}
				if lock.Kind() != kind || lock.Resource().Mode != mode || lock.Descriptor() != fd || !lock.Named() || !lock.Inherited() {
					t.Errorf("inherited %+v", lock)
				}
				if free(t, path, lockspace.Exclusive) || free(t, path, lockspace.Shared) != bool(mode) {
					t.Error("lock is free")
				}
				release(t, lock)
				if !free(t, path, lockspace.Exclusive) {
					t.Error("released lock is not free")
				}
			})
		}
	}
	path := disk(t)
	fd, err := unix.Open(path, unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := lockspace.Inherit(fd, lockspace.Resource{Name: path}); !errors.Is(err, lockspace.ErrNoLock) {
		t.Errorf("Inherit of an unlocked file: %v, want ErrNoLock", err)
	}
	if _, err := lockspace.Inherit(1<<20, lockspace.Resource{Name: path}); !errors.Is(err, unix.EBADF) {
		t.Errorf("Inherit of no descriptor: %v", err)
	}
	other(t, "exclusive", path)
	for _, inherit := range []func(int, lockspace.Resource) (*lockspace.Lock, error){lockspace.Inherit, lockspace.InheritExclusive} {
		if _, err := inherit(fd, lockspace.Resource{Name: path}); !errors.Is(err, lockspace.ErrNoLock) {
			t.Errorf("Inherit of a file that another has locked: %v, want ErrNoLock", err)
		}
	}
}

func TestExclusiveLockIsInheritedWithoutALook(t *testing.T) {
	for _, c := range []struct {
		name string
		kind lockspace.Kind
		mode lockspace.Mode
	}{
		{"a description's", lockspace.OFD, lockspace.Exclusive},
		{"this process's", lockspace.POSIX, lockspace.Exclusive},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := disk(t)
			fd := locked(t, path, c.kind, c.mode)
			lock, err := lockspace.InheritExclusive(fd, lockspace.Resource{Name: path})
			if err != nil {
				t.Fatal(err)
			}
			if lock.Kind() != c.kind || lock.Resource().Mode != c.mode || lock.Descriptor() != fd || !lock.Inherited() {
				t.Errorf("inherited %+v", lock)
			}
			if free(t, path, lockspace.Shared) {
				t.Error("lock is free")
			}
			release(t, lock)
			if !free(t, path, lockspace.Exclusive) {
				t.Error("released lock is not free")
			}
		})
	}
}

func TestNothingDropsAPOSIXLock(t *testing.T) {
	path := disk(t)
	before := descriptors(t)
	shared := lockspace.Resource{Name: path, Mode: lockspace.Shared}
	lock, err := lockspace.Inherit(locked(t, path, lockspace.POSIX, lockspace.Shared), shared)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"exclusive take", func() error {
			_, err := lockspace.Take(lockspace.Resource{Name: path})
			var busy *lockspace.BusyError
			if !errors.As(err, &busy) || busy.PID != os.Getpid() {
				return fmt.Errorf("it answers %w", err)
			}
			return nil
		}},
		{"shared takes", func() error {
			for range 20 {
				l, err := lockspace.Take(shared)
				if err != nil {
					return err
				}
				if err := l.Release(); err != nil {
					return err
				}
			}
			return nil
		}},
		{"a shared lock that is closed", func() error {
			l, err := lockspace.Take(shared)
			if err != nil {
				return err
			}
			l.Close()
			return nil
		}},
		{"a client's file", func() error {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			if _, err := lockspace.FromFile(f, shared); !errors.Is(err, lockspace.ErrNoLock) {
				return fmt.Errorf("FromFile: %w", err)
			}
			return lockspace.CloseFile(f)
		}},
		{"a duplicate for a guest", func() error {
			l, err := lockspace.Take(shared)
			if err != nil {
				return err
			}
			f, err := l.Duplicate()
			if err != nil {
				return err
			}
			return errors.Join(lockspace.CloseFile(f), l.Release())
		}},
		{"a descriptor of an earlier image", func() error {
			fd, err := unix.Open(path, unix.O_RDONLY, 0)
			lockspace.KeepOpen(fd)
			return err
		}},
	} {
		if err := step.do(); err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
		runtime.GC()
		if free(t, path, lockspace.Exclusive) {
			t.Fatalf("%s has dropped the lock", step.name)
		}
	}
	if _, err := lock.Duplicate(); err == nil {
		t.Error("a POSIX lock was duplicated")
	}
	if n := descriptors(t) - before; n > 12 {
		t.Errorf("%d descriptors more than before", n)
	}
	release(t, lock)
	if !free(t, path, lockspace.Exclusive) {
		t.Error("released lock is not free")
	}
	if n := descriptors(t); n != before {
		t.Errorf("%d descriptors, before %d", n, before)
	}
}

func TestPOSIXLockOfTwoDescriptorsEndsWithTheSecond(t *testing.T) {
	path := disk(t)
	fd := locked(t, path, lockspace.POSIX, lockspace.Exclusive)
	second, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	var locks []*lockspace.Lock
	for _, n := range []int{fd, second} {
		lock, err := lockspace.Inherit(n, lockspace.Resource{Name: path})
		if err != nil {
			t.Fatal(err)
		}
		locks = append(locks, lock)
	}
	release(t, locks[0])
	if free(t, path, lockspace.Exclusive) {
		t.Fatal("the first has dropped the lock of both")
	}
	release(t, locks[1])
	if !free(t, path, lockspace.Exclusive) {
		t.Error("released lock is not free")
	}
}

func TestScanFindsAllLocks(t *testing.T) {
	want := map[string]lockspace.Found{}
	for _, kind := range []lockspace.Kind{lockspace.OFD, lockspace.POSIX} {
		for _, mode := range []lockspace.Mode{lockspace.Exclusive, lockspace.Shared} {
			path := disk(t)
			fd := locked(t, path, kind, mode)
			defer unix.Close(fd)
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil {
				t.Fatal(err)
			}
			want[path] = lockspace.Found{FD: fd, Kind: kind, Mode: mode, Path: path, File: lockspace.FileID{Dev: st.Dev, Ino: st.Ino}}
		}
	}
	gone := disk(t)
	fd := locked(t, gone, lockspace.OFD, lockspace.Exclusive)
	defer unix.Close(fd)
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	all, err := lockspace.Scan()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if w, ok := want[f.Path]; ok && f == w {
			delete(want, f.Path)
		}
		if f.Path == gone && f.FD == fd {
			gone = ""
		}
	}
	if len(want) > 0 || gone != "" {
		t.Errorf("Scan found %v, but not %v, nor perhaps %q", all, want, gone)
	}
}

// A process with many threads, as Go's are, keeps its locks of both kinds when it is executed anew.
func TestLocksSurviveExec(t *testing.T) {
	posix, ofd := disk(t), disk(t)
	them := other(t, "exec", posix+":"+ofd)
	_, err := lockspace.Take(lockspace.Resource{Name: posix})
	var busy *lockspace.BusyError
	if !errors.As(err, &busy) || busy.PID != them.Process.Pid {
		t.Errorf("Take: %v, want held by process %d", err, them.Process.Pid)
	}
	if _, err := lockspace.Take(lockspace.Resource{Name: ofd}); !errors.As(err, &busy) {
		t.Errorf("Take: %v", err)
	}
}

// execRole locks two files, executes this program anew while other threads run, and inherits the locks.
func execRole(paths string) error {
	posix, ofd, _ := strings.Cut(paths, ":")
	var fds [2]int
	for n, path := range []string{posix, ofd} {
		fd, err := unix.Open(path, unix.O_RDWR, 0)
		if err != nil {
			return err
		}
		cmd := []int{unix.F_SETLK, unix.F_OFD_SETLK}[n]
		if err := unix.FcntlFlock(uintptr(fd), cmd, &unix.Flock_t{Type: unix.F_WRLCK, Len: 1}); err != nil {
			return err
		}
		fds[n] = fd
	}
	for range 8 {
		go func() {
			runtime.LockOSThread()
			for {
				_ = unix.Nanosleep(&unix.Timespec{Nsec: int64(time.Millisecond)}, nil)
			}
		}()
	}
	time.Sleep(20 * time.Millisecond)
	if err := os.Setenv(roleVariable, "heir"); err != nil {
		return err
	}
	args := []string{os.Args[0], fmt.Sprintf("%d:%s:%d:%s", fds[0], posix, fds[1], ofd)}
	return syscall.Exec("/proc/self/exe", args, os.Environ())
}

// heirRole is what execRole becomes.
func heirRole(arg string) error {
	f := strings.Split(arg, ":")
	for n, kind := range []lockspace.Kind{lockspace.POSIX, lockspace.OFD} {
		fd, err := strconv.Atoi(f[2*n])
		if err != nil {
			return err
		}
		lock, err := lockspace.Inherit(fd, lockspace.Resource{Name: f[2*n+1]})
		if err != nil {
			return err
		}
		if lock.Kind() != kind {
			return fmt.Errorf("lock of %q is %v", f[2*n+1], lock.Kind())
		}
	}
	return nil
}
