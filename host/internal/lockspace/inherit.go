package lockspace

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Found is a descriptor of this process that carries a lock.
type Found struct {
	FD   int
	Kind Kind
	Mode Mode
	// Path is where the file was when it was opened or last renamed; it may have lost that name.
	Path string
	File FileID
}

// Inherit makes a lock of a descriptor that this process had before it was executed anew. The kernel must list the lock with the descriptor,
// as the description's (OFD) or as this process's (POSIX), and its mode goes into the Lock's resource; whether the resource's path
// still leads to the file is not asked. The descriptor is the Lock's from now on, and no longer survives an execve. On an error it
// stays the caller's: ErrNoLock, ErrName, or one of the system.
func Inherit(fd int, r Resource) (*Lock, error) { return inherit(fd, r, listed) }

// InheritExclusive is Inherit of a lock that is known to be exclusive, which is proven by taking it once more: that is the cheapest proof.
func InheritExclusive(fd int, r Resource) (*Lock, error) { return inherit(fd, r, retaken) }

// listed returns what the kernel lists with a descriptor.
func listed(fd int) (carried, bool) { return readInfo("/proc/self/fdinfo/" + strconv.Itoa(fd)) }

// retaken takes an exclusive lock, which changes nothing for whoever has it, and is refused if anybody else has one. A lock of this
// process stands in the way of one of the description.
func retaken(fd int) (carried, bool) {
	for kind, command := range [...]int{OFD: unix.F_OFD_SETLK, POSIX: unix.F_SETLK} {
		if fcntl(fd, command, &unix.Flock_t{Type: unix.F_WRLCK, Len: 1}) == nil {
			return carried{kind: Kind(kind), mode: Exclusive}, true
		}
	}
	return listed(fd)
}

func inherit(fd int, r Resource, prove func(fd int) (carried, bool)) (*Lock, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	id, err := identify(fd)
	if err != nil {
		return nil, fmt.Errorf("inherit lock of %q: descriptor %d: %w", r.Path(), fd, err)
	}
	c, ok := prove(fd)
	if !ok {
		return nil, fmt.Errorf("inherit lock of %q: descriptor %d: %w", r.Path(), fd, ErrNoLock)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("inherit lock of %q: descriptor %d: %w", r.Path(), fd, err)
	}
	r.Mode = c.mode
	if c.kind == POSIX {
		held.add(id, c.mode)
	}
	return &Lock{fd: fd, kind: c.kind, file: id, resource: r, path: r.Path(), inherited: true, shared: true}, nil
}

// KeepOpen makes sure that a descriptor is not closed as long as a POSIX lock of this process on its file lives; without such a lock it is
// closed. It is for descriptors that an earlier image of this process kept open for that reason.
func KeepOpen(fd int) {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err == nil {
		discard(fd)
	}
}

// Scan returns all descriptors of this process that hold a lock on byte 0. A description with several descriptors is returned as often.
func Scan() ([]Found, error) {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return nil, fmt.Errorf("scan descriptors: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("scan descriptors: %w", err)
	}
	var out []Found
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if f, ok := look(fd); ok {
			out = append(out, f)
		}
	}
	return out, nil
}

// look returns what a descriptor of this process carries.
func look(fd int) (Found, bool) {
	name := strconv.Itoa(fd)
	c, ok := readInfo("/proc/self/fdinfo/" + name)
	if !ok {
		return Found{}, false
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Found{}, false
	}
	path, err := os.Readlink("/proc/self/fd/" + name)
	if err != nil {
		return Found{}, false
	}
	if st.Nlink == 0 {
		path = strings.TrimSuffix(path, " (deleted)")
	}
	return Found{FD: fd, Kind: c.kind, Mode: c.mode, Path: path, File: FileID{Dev: st.Dev, Ino: st.Ino}}, true
}
