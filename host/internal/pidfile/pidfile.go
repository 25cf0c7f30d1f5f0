// Package pidfile keeps a daemon from running twice: a file with the process's number that is locked for as long as the process
// lives, in the way of libvirt's daemons, so that they and ours exclude each other.
//
// The lock is a POSIX one, on the first byte: the kernel drops it when the process ends in whatever way, and as soon as the process
// closes any descriptor of the file. So nobody but this package may open it. It belongs to the process: one that replaces its program
// by execve keeps the lock as long as it keeps the descriptor, and the new program can claim the file again.
//
// A File is not safe concurrently.
package pidfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// ErrLocked says that another process has the file.
var ErrLocked = errors.New("another daemon is running")

// fileMode lets everybody read the number.
const fileMode = 0o644

// attempts is how often a file is opened again that its owner removes at the same time.
const attempts = 100

// File is a pid file that this process has claimed.
type File struct {
	file *os.File
}

// Claim makes the file, locks it, and writes the process's number into it. The error wraps ErrLocked, and names the other process, if
// one has it.
func Claim(path string) (*File, error) {
	for range attempts {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, fileMode)
		if err != nil {
			return nil, fmt.Errorf("open pid file: %w", err)
		}
		err = lock(f)
		if err == nil && !current(f) {
			// Its owner has removed it between our opening and our locking.
			f.Close()
			continue
		}
		if err == nil {
			err = write(f)
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("claim pid file %q: %w", path, err)
		}
		return &File{file: f}, nil
	}
	return nil, fmt.Errorf("claim pid file %q: it is removed again and again", path)
}

// lock locks the file without waiting.
func lock(f *os.File) error {
	want := unix.Flock_t{Type: unix.F_WRLCK, Len: 1}
	err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &want)
	if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
		return err
	}
	holder := unix.Flock_t{Type: unix.F_WRLCK, Len: 1}
	if unix.FcntlFlock(f.Fd(), unix.F_GETLK, &holder) == nil && holder.Type != unix.F_UNLCK && holder.Pid > 0 {
		return fmt.Errorf("%w: process %d", ErrLocked, holder.Pid)
	}
	return ErrLocked
}

// current reports whether the path still leads to the file.
func current(f *os.File) bool {
	ours, err := f.Stat()
	if err != nil {
		return false
	}
	now, err := os.Stat(f.Name())
	return err == nil && os.SameFile(ours, now)
}

// write writes the number as libvirt's daemons do, without a line's end. Where it stands already it can be read all the time.
func write(f *os.File) error {
	number := strconv.Itoa(os.Getpid())
	if _, err := f.WriteAt([]byte(number), 0); err != nil {
		return err
	}
	if err := f.Truncate(int64(len(number))); err != nil {
		return err
	}
	return f.Chmod(fileMode)
}

// Descriptor is the number of the descriptor that has to stay open. A program that leaves it to the one that follows by execve leaves the
// lock to it too, without a moment in which nobody has it.
func (f *File) Descriptor() int { return int(f.file.Fd()) }

// Inherit claims the file again in the program that follows, by the descriptor that was left to it. Where that is not the file any more, or
// there is none, it is Claim.
func Inherit(path string, fd int) (*File, error) {
	var left, now unix.Stat_t
	if fd < 0 || unix.Fstat(fd, &left) != nil || unix.Stat(path, &now) != nil || left.Dev != now.Dev || left.Ino != now.Ino {
		return Claim(path)
	}
	unix.CloseOnExec(fd)
	f := &File{file: os.NewFile(uintptr(fd), path)}
	err := lock(f.file)
	if err == nil {
		err = write(f.file)
	}
	if err != nil {
		return nil, fmt.Errorf("claim pid file %q again: %w", path, err)
	}
	return f, nil
}

// Release removes the file and gives up the lock.
func (f *File) Release() error {
	err := os.Remove(f.file.Name())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, f.file.Close())
}
