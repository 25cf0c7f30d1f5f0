package lockspace

import (
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Kind is how the kernel keeps a lock.
type Kind uint8

// Kinds of locks. They conflict with each other as if they were one.
const (
	// OFD is a lock of an open file description: it lives as long as any process has a duplicate of the descriptor.
	OFD Kind = iota
	// POSIX is a lock of this process, as libvirt's virtlockd takes it. It outlives an execve, but not the first close of any
	// descriptor of the file. This package only ever inherits such locks.
	POSIX
)

// String returns "ofd" or "posix".
func (k Kind) String() string {
	if k == POSIX {
		return "posix"
	}
	return "ofd"
}

// held are the files on which this process has POSIX locks. The kernel drops such a lock when the process closes any descriptor of the
// file, so the set belongs to the process, like the locks, and not to whoever uses this package.
var held guard

// guard keeps descriptors of files with POSIX locks from being closed.
type guard struct {
	// some is set while there is a lock, so that everybody else pays nothing.
	some atomic.Bool

	mu    sync.Mutex
	files map[FileID]*guarded
}

// guarded is a file with a POSIX lock of this process.
type guarded struct {
	mode Mode
	// locks counts the Locks that rest on it.
	locks int
	// spare are descriptors with a description that nobody else has and no lock, to be used again.
	spare []int
	// kept only wait for the lock's end, as do files, which were others' to close.
	kept  []int
	files []*os.File
}

// add notes a POSIX lock.
func (g *guard) add(id FileID, mode Mode) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.files == nil {
		g.files = map[FileID]*guarded{}
	}
	f := g.files[id]
	if f == nil {
		f = &guarded{}
		g.files[id] = f
	}
	f.mode = mode
	f.locks++
	g.some.Store(true)
}

// drop forgets a POSIX lock and closes what was kept open for its sake, if it was the file's last. It reports whether it was.
func (g *guard) drop(id FileID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.files[id]
	if f == nil {
		return true
	}
	f.locks--
	if f.locks > 0 {
		return false
	}
	delete(g.files, id)
	g.some.Store(len(g.files) > 0)
	for _, fd := range slices.Concat(f.spare, f.kept) {
		unix.Close(fd)
	}
	for _, file := range f.files {
		file.Close()
	}
	return true
}

// on returns the mode of the POSIX lock on a file.
func (g *guard) on(id FileID) (Mode, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.files[id]
	if f == nil {
		return Exclusive, false
	}
	return f.mode, true
}

// reuse returns a spare descriptor of a file with a POSIX lock.
func (g *guard) reuse(id FileID) (int, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.files[id]
	if f == nil || len(f.spare) == 0 {
		return -1, false
	}
	last := len(f.spare) - 1
	fd := f.spare[last]
	f.spare = f.spare[:last]
	return fd, true
}

// others returns the descriptors that are kept open for a file's sake.
func (g *guard) others(id FileID) []int {
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.files[id]
	if f == nil {
		return nil
	}
	out := slices.Concat(f.spare, f.kept)
	for _, file := range f.files {
		if fd, ok := number(file); ok {
			out = append(out, fd)
		}
	}
	return out
}

// last reports whether no other Lock rests on the POSIX lock of a file.
func (g *guard) last(id FileID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.files[id]
	return f == nil || f.locks <= 1
}

// close closes a descriptor of ours, or keeps it if closing would drop a POSIX lock. The description of one that is alone is nobody
// else's.
func (g *guard) close(fd int, id FileID, alone bool) error {
	if !g.some.Load() {
		return unix.Close(fd)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.files[id]
	switch {
	case f == nil:
		return unix.Close(fd)
	case alone && fcntl(fd, unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK, Len: 1}) == nil:
		f.spare = append(f.spare, fd)
	default:
		f.kept = append(f.kept, fd)
	}
	return nil
}

// CloseFile closes a file of unknown origin, such as one that a client has sent, unless that would drop a POSIX lock of this process. Then
// it is kept open until the lock ends. Every descriptor that may be of a lock file must be closed by it.
func CloseFile(f *os.File) error {
	if f == nil {
		return nil
	}
	if !held.some.Load() {
		return f.Close()
	}
	held.mu.Lock()
	defer held.mu.Unlock()
	if g := held.files[idOf(f)]; g != nil {
		g.files = append(g.files, f)
		return nil
	}
	return f.Close()
}

// idOf returns the identity of an open file, or none.
func idOf(f *os.File) FileID {
	fd, ok := number(f)
	var st unix.Stat_t
	if !ok || unix.Fstat(fd, &st) != nil {
		return FileID{}
	}
	return FileID{Dev: st.Dev, Ino: st.Ino}
}

// number returns the descriptor of a file that its owner keeps open meanwhile. Unlike File.Fd it leaves the file as it is.
func number(f *os.File) (int, bool) {
	conn, err := f.SyscallConn()
	if err != nil {
		return -1, false
	}
	fd := -1
	err = conn.Control(func(n uintptr) { fd = int(n) })
	return fd, err == nil
}

// refused returns why a file with a POSIX lock of ours must not even be opened, or nil.
func (g *guard) refused(r Resource, path string) error {
	if !g.some.Load() {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil
	}
	id := FileID{Dev: st.Dev, Ino: st.Ino}
	mode, ok := g.on(id)
	if !ok || (mode == Shared && r.Mode == Shared) {
		return nil
	}
	return &BusyError{Resource: r, File: id, PID: os.Getpid()}
}

// again returns a spare descriptor of a file with a POSIX lock, if the path leads to one.
func (g *guard) again(path string) (fd int, id FileID, ok bool) {
	if !g.some.Load() {
		return -1, FileID{}, false
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return -1, FileID{}, false
	}
	id = FileID{Dev: st.Dev, Ino: st.Ino}
	fd, ok = g.reuse(id)
	return fd, id, ok
}
