package lockspace

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// maxRaces bounds how often Take starts anew because the file was removed or replaced under its hands.
const maxRaces = 1000

// FileID is a file's identity while somebody has it open.
type FileID struct {
	Dev, Ino uint64
}

// BusyError says that somebody else holds a lock that conflicts.
type BusyError struct {
	// Resource is what was asked for.
	Resource Resource
	// File is the locked file.
	File FileID
	// PID is the holder's process if the kernel tells (it does so for POSIX locks only), else 0.
	PID int
}

// Error names the file and, if known, the process.
func (e *BusyError) Error() string {
	who := "another process"
	if e.PID > 0 {
		who = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("lock %q: held by %s", e.Resource.Path(), who)
}

// Lock is a lock that this process holds, with the descriptor that carries it. Its owner ends it with Release or Close.
type Lock struct {
	fd       int
	kind     Kind
	file     FileID
	resource Resource
	path     string
	// inherited says that somebody else had it first, shared that somebody else may have a duplicate of the descriptor.
	inherited, shared bool
}

// Take locks a resource at once or returns a *BusyError. The file is created if the resource is temporary; an error of the
// system (missing file, no permission) is wrapped.
func Take(r Resource) (*Lock, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	path := r.Path()
	for range maxRaces {
		if err := held.refused(r, path); err != nil {
			return nil, err
		}
		l, err := open(r, path)
		if err != nil {
			return nil, err
		}
		if err := l.set(r.Mode); err != nil {
			err = l.explain(err)
			l.Close()
			return nil, err
		}
		if l.Named() {
			return l, nil
		}
		l.Close()
	}
	return nil, fmt.Errorf("lock %q: the file is replaced all the time", path)
}

// open returns a Lock that is not locked yet.
func open(r Resource, path string) (*Lock, error) {
	if fd, id, ok := held.again(path); ok {
		return &Lock{fd: fd, file: id, resource: r, path: path}, nil
	}
	flags := unix.O_RDWR | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY
	if r.Temporary {
		flags |= unix.O_CREAT
	}
	fd, err := openat(path, flags)
	if r.Mode == Shared && (errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES)) {
		fd, err = openat(path, flags&^(unix.O_RDWR|unix.O_CREAT))
	}
	if err != nil {
		return nil, fmt.Errorf("open lock file %q: %w", path, err)
	}
	id, err := identify(fd)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open lock file %q: %w", path, err)
	}
	return &Lock{fd: fd, file: id, resource: r, path: path}, nil
}

func openat(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags, 0o600)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// identify returns the identity of an open file, which must be a regular one or a block device.
func identify(fd int) (FileID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return FileID{}, err
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFBLK {
		return FileID{}, errors.New("neither a regular file nor a block device")
	}
	return FileID{Dev: st.Dev, Ino: st.Ino}, nil
}

// set changes the lock of the description, without waiting.
func (l *Lock) set(m Mode) error {
	kind := int16(unix.F_WRLCK)
	if m == Shared {
		kind = unix.F_RDLCK
	}
	return fcntl(l.fd, l.command(), &unix.Flock_t{Type: kind, Whence: 0, Start: 0, Len: 1})
}

func (l *Lock) command() int {
	if l.kind == POSIX {
		return unix.F_SETLK
	}
	return unix.F_OFD_SETLK
}

func fcntl(fd, cmd int, lk *unix.Flock_t) error {
	for {
		err := unix.FcntlFlock(uintptr(fd), cmd, lk)
		if err != unix.EINTR {
			return err
		}
	}
}

// explain turns the kernel's refusal into a BusyError that names the holder.
func (l *Lock) explain(err error) error {
	if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
		return fmt.Errorf("lock %q: %w", l.path, err)
	}
	busy := &BusyError{Resource: l.resource, File: l.file}
	lk := unix.Flock_t{Type: unix.F_WRLCK, Len: 1}
	if l.resource.Mode == Shared {
		lk.Type = unix.F_RDLCK
	}
	if fcntl(l.fd, unix.F_OFD_GETLK, &lk) == nil && lk.Type != unix.F_UNLCK && lk.Pid > 0 {
		busy.PID = int(lk.Pid)
	}
	return busy
}

// Resource returns what is locked.
func (l *Lock) Resource() Resource { return l.resource }

// Kind returns how the kernel keeps the lock.
func (l *Lock) Kind() Kind { return l.kind }

// Descriptor returns the number of the descriptor that carries the lock. It stays the Lock's.
func (l *Lock) Descriptor() int { return l.fd }

// File returns the identity of the locked file.
func (l *Lock) File() FileID { return l.file }

// Inherited reports whether somebody else had the lock first: it comes from FromProcess, FromFile or Inherit.
func (l *Lock) Inherited() bool { return l.inherited }

// Named reports whether the resource's path still leads to the locked file.
func (l *Lock) Named() bool {
	id, err := Identify(l.path)
	return err == nil && id == l.file
}

// Identify returns the identity of the file that a path leads to.
func Identify(path string) (FileID, error) {
	var st unix.Stat_t
	for {
		err := unix.Stat(path, &st)
		if err == nil {
			return FileID{Dev: st.Dev, Ino: st.Ino}, nil
		}
		if err != unix.EINTR {
			return FileID{}, fmt.Errorf("look at lock file %q: %w", path, err)
		}
	}
}

// Duplicate returns another descriptor of the same description, for a guest to inherit. The caller closes it with CloseFile. There is
// none of a POSIX lock, which nobody can inherit.
func (l *Lock) Duplicate() (*os.File, error) {
	if l.kind == POSIX {
		return nil, fmt.Errorf("duplicate lock of %q: it is a POSIX lock: %w", l.path, ErrNoLock)
	}
	fd, err := unix.FcntlInt(uintptr(l.fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("duplicate lock of %q: %w", l.path, err)
	}
	l.shared = true
	return os.NewFile(uintptr(fd), l.path), nil
}

// Keep says whether the descriptor survives an execve, with all those that must not be closed while the lock is held.
func (l *Lock) Keep(keep bool) error {
	flags := unix.FD_CLOEXEC
	if keep {
		flags = 0
	}
	for _, fd := range append(l.Others(), l.fd) {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, flags); err != nil {
			return fmt.Errorf("keep lock of %q: %w", l.path, err)
		}
	}
	return nil
}

// Others returns the other descriptors of the file that must not be closed while this process has a POSIX lock on it.
func (l *Lock) Others() []int { return held.others(l.file) }

// Release drops the lock, for all duplicates of the descriptor too, and closes it. The file of a temporary resource is removed
// while it is still locked, unless others share it, so that nobody can lock a file that has lost its name. A lock that was never
// duplicated is dropped by the close alone; a child that this process has just forked may keep it until it executes its program.
func (l *Lock) Release() error {
	if l.kind == POSIX && !held.last(l.file) {
		// The process has one lock of the file, however many descriptors; it is dropped with the last of them.
		return l.close()
	}
	var removed, dropped error
	if l.resource.Temporary && l.resource.Lockspace != "" && l.alone() && l.Named() {
		removed = unix.Unlink(l.path)
	}
	if l.shared || l.kind == POSIX {
		dropped = fcntl(l.fd, l.command(), &unix.Flock_t{Type: unix.F_UNLCK, Len: 1})
	}
	if err := errors.Join(removed, dropped, l.close()); err != nil {
		return fmt.Errorf("release lock of %q: %w", l.path, err)
	}
	return nil
}

// alone reports whether nobody shares the lock, and sees to it that nobody can from now on.
func (l *Lock) alone() bool { return l.resource.Mode == Exclusive || l.set(Exclusive) == nil }

// Close closes the descriptor; duplicates keep an OFD lock alive, and nothing a POSIX lock.
func (l *Lock) Close() { _ = l.close() }

func (l *Lock) close() error {
	if l.kind == OFD {
		return held.close(l.fd, l.file, !l.shared)
	}
	held.drop(l.file)
	return held.close(l.fd, l.file, false)
}
