package lockspace

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

const (
	// maxDescriptors bounds how many descriptors of a process are looked at.
	maxDescriptors = 1 << 16
	// maxInfo bounds how much is read about one descriptor, in bytes.
	maxInfo = 64 << 10
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

// parseInfo reads a file of /proc/PID/fdinfo and returns the lock on byte 0 that this very description holds. The kernel lists a
// lock there only if it was taken through that description, and a POSIX lock only if that process has it (proc_pid_fdinfo(5):
// "lock:"), which makes it a proof.
func parseInfo(r io.Reader) (c carried, ok bool) {
	lines := bufio.NewScanner(io.LimitReader(r, maxInfo))
	for lines.Scan() {
		// lock: 1: OFDLCK ADVISORY WRITE -1 fe:00:9978209 0 0
		f := strings.Fields(lines.Text())
		if len(f) < 9 || f[0] != "lock:" || f[7] != "0" {
			continue
		}
		kind, known := kindWords[f[2]]
		mode, held := modeWords[f[4]]
		if known && held && (!ok || kind == OFD) {
			c, ok = carried{kind: kind, mode: mode}, true
		}
	}
	return c, ok
}

func readInfo(pid, fd string) (c carried, ok bool) {
	f, err := os.Open("/proc/" + pid + "/fdinfo/" + fd)
	if err != nil {
		return carried{}, false
	}
	defer f.Close()
	return parseInfo(f)
}

// FromProcess takes back the lock of a file from a process that inherited it: it finds the descriptor whose description holds the
// lock in the resource's mode, duplicates it, and proves both once more on the duplicate. Returns ErrNoLock if the process
// has none, or an error of the system, such as no permission to look into the process.
func FromProcess(p *process.Process, r Resource, file FileID) (*Lock, error) {
	pid := strconv.Itoa(int(p.ID().PID))
	dir, err := os.Open("/proc/" + pid + "/fdinfo")
	if err != nil {
		return nil, fmt.Errorf("take lock of %q back from process %s: %w", r.Path(), pid, err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxDescriptors)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("take lock of %q back from process %s: %w", r.Path(), pid, err)
	}
	for _, name := range names {
		c, ok := readInfo(pid, name)
		fd, err := strconv.Atoi(name)
		if !ok || c != (carried{OFD, r.Mode}) || err != nil {
			continue
		}
		own, err := p.TakeDescriptor(fd)
		if err != nil {
			return nil, fmt.Errorf("take lock of %q back from process %s: %w", r.Path(), pid, err)
		}
		if l, err := prove(own, r); err == nil && l.file == file {
			return l, nil
		}
		discard(own)
	}
	return nil, fmt.Errorf("take lock of %q back from process %s: %w", r.Path(), pid, ErrNoLock)
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
	if c, ok := readInfo("self", strconv.Itoa(fd)); !ok || c != (carried{OFD, r.Mode}) {
		return nil, ErrNoLock
	}
	return &Lock{fd: fd, file: id, resource: r, inherited: true, shared: true}, nil
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
