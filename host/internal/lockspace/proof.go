package lockspace

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

const (
	// maxDescriptors bounds how many descriptors of a process are looked at.
	maxDescriptors = 1 << 16
	// maxInfo bounds how much is read about one descriptor, in bytes. That of a lock file is some 200 long.
	maxInfo = 4 << 10
)

// ErrNoLock says that no descriptor was found, or that the one given does not carry the lock.
var ErrNoLock = errors.New("descriptor does not hold the lock")

// carried is a lock on byte 0 as the kernel lists it with a descriptor.
type carried struct {
	kind Kind
	mode Mode
}

// kindWords and modeWords are how the kernel calls kinds and modes.
var (
	kindWords = map[string]Kind{"OFDLCK": OFD, "POSIX": POSIX}
	modeWords = map[string]Mode{"WRITE": Exclusive, "READ": Shared}
)

// parseInfo reads the text of a file of /proc/PID/fdinfo and returns the lock on byte 0 that this very description holds. The kernel
// lists a lock there only if it was taken through that description, and a POSIX lock only if that process has it
// (proc_pid_fdinfo(5): "lock:"), which makes it a proof.
func parseInfo(text []byte) (c carried, ok bool) {
	for line := range bytes.Lines(text) {
		// lock: 1: OFDLCK ADVISORY WRITE -1 fe:00:9978209 0 0
		if !bytes.HasPrefix(line, []byte("lock:")) {
			continue
		}
		f := bytes.Fields(line)
		if len(f) < 9 || string(f[7]) != "0" {
			continue
		}
		kind, known := kindWords[string(f[2])]
		mode, held := modeWords[string(f[4])]
		if known && held && (!ok || kind == OFD) {
			c, ok = carried{kind: kind, mode: mode}, true
		}
	}
	return c, ok
}

func readInfo(path string) (c carried, ok bool) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return carried{}, false
	}
	defer unix.Close(fd)
	var text [maxInfo]byte
	n := 0
	for n < len(text) {
		got, err := unix.Read(fd, text[n:])
		if err != nil || got <= 0 {
			break
		}
		n += got
	}
	return parseInfo(text[:n])
}

// Carrier is a descriptor of a process that carries an OFD lock, or that is the only one that can.
type Carrier struct {
	FD   int
	File FileID
	// known says that the kernel lists the lock with it, in the mode.
	known bool
	mode  Mode
}

// Has reports whether the carrier can have a lock in a mode.
func (c Carrier) Has(m Mode) bool { return !c.known || c.mode == m }

// Carriers looks once at all descriptors of a process and returns those that carry an OFD lock on one of the files, or are the only one of
// a file and may: Lock is the proof. It may fail with an error of the system, such as no permission to look into the process.
func Carriers(p *process.Process, files map[FileID]bool) ([]Carrier, error) {
	proc := "/proc/" + strconv.Itoa(int(p.ID().PID))
	dir, err := os.Open(proc + "/fd")
	if err != nil {
		return nil, fmt.Errorf("look for locks in process %d: %w", p.ID().PID, err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxDescriptors)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("look for locks in process %d: %w", p.ID().PID, err)
	}
	at, ok := number(dir)
	if !ok {
		return nil, fmt.Errorf("look for locks in process %d: %w", p.ID().PID, os.ErrClosed)
	}
	found := map[FileID][]Carrier{}
	for _, name := range names {
		// The guest's files may lie on a server that does not answer, so nobody is asked but the kernel.
		var st unix.Statx_t
		if err := unix.Statx(at, name, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_INO, &st); err != nil {
			continue
		}
		id := FileID{Dev: unix.Mkdev(st.Dev_major, st.Dev_minor), Ino: st.Ino}
		if fd, err := strconv.Atoi(name); err == nil && files[id] {
			found[id] = append(found[id], Carrier{FD: fd, File: id})
		}
	}
	var out []Carrier
	for _, some := range found {
		if len(some) > 1 {
			some = prefer(some, proc)
		}
		out = append(out, some...)
	}
	return out, nil
}

// prefer returns those that the kernel lists a lock with.
func prefer(some []Carrier, proc string) []Carrier {
	var out []Carrier
	for _, c := range some {
		if lock, ok := readInfo(proc + "/fdinfo/" + strconv.Itoa(c.FD)); ok && lock.kind == OFD {
			c.known, c.mode = true, lock.mode
			out = append(out, c)
		}
	}
	return out
}

// Lock takes the lock back from the process by a duplicate of the descriptor, and proves on it that it is the lock of that file in the
// resource's mode. Returns ErrNoLock if it is not, or an error of the system.
func (c Carrier) Lock(p *process.Process, r Resource) (*Lock, error) {
	fd, err := p.TakeDescriptor(c.FD)
	if err != nil {
		return nil, fmt.Errorf("take lock of %q back: %w", r.Path(), err)
	}
	l, err := prove(fd, r)
	if err == nil && l.file != c.File {
		err = ErrNoLock
	}
	if err != nil {
		discard(fd)
		return nil, fmt.Errorf("take lock of %q back from process %d: %w", r.Path(), p.ID().PID, err)
	}
	return l, nil
}

// FromProcess takes back the lock of a file from a process that inherited it. Returns ErrNoLock if the process has none, or an error of
// the system.
func FromProcess(p *process.Process, r Resource, file FileID) (*Lock, error) {
	all, err := Carriers(p, map[FileID]bool{file: true})
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if !c.Has(r.Mode) {
			continue
		}
		if l, err := c.Lock(p, r); !errors.Is(err, ErrNoLock) {
			return l, err
		}
	}
	return nil, fmt.Errorf("take lock of %q back from process %d: %w", r.Path(), p.ID().PID, ErrNoLock)
}

// FromFile makes a lock of a descriptor that somebody has kept. The descriptor is duplicated; the caller still closes the file.
// Returns ErrNoLock if the resource's path does not lead to that file, or its description holds no such lock.
func FromFile(f *os.File, r Resource) (*Lock, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("adopt lock of %q: %w", r.Path(), err)
	}
	l, err := prove(fd, r)
	if err == nil && !l.Named() {
		err = ErrNoLock
	}
	if err != nil {
		discard(fd)
		return nil, fmt.Errorf("adopt lock of %q: %w", r.Path(), err)
	}
	return l, nil
}

// prove returns a Lock over a descriptor of ours if the kernel says that its description holds the lock in the resource's mode.
// The descriptor stays the caller's when it fails.
func prove(fd int, r Resource) (*Lock, error) {
	id, err := identify(fd)
	if err != nil {
		return nil, err
	}
	if c, ok := readInfo("/proc/self/fdinfo/" + strconv.Itoa(fd)); !ok || c != (carried{OFD, r.Mode}) {
		return nil, ErrNoLock
	}
	return &Lock{fd: fd, file: id, resource: r, path: r.Path(), inherited: true, shared: true}, nil
}

// discard closes a descriptor that turned out to be no use.
func discard(fd int) {
	id, err := identify(fd)
	if err != nil {
		unix.Close(fd)
		return
	}
	_ = held.close(fd, id, false)
}
