// Package process names processes so that a pid used again is noticed, and watches and questions them through pidfds.
//
// A Process holds a pidfd, which names one process for ever, also after its pid belongs to another. All methods are safe
// concurrently; Close ends a Wait that is under way. A Poller waits for many processes at once. Nothing here ever ends a process,
// except Signal.
package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/lodgevirt/lodge/sdk/procfs"
	"golang.org/x/sys/unix"
)

// ErrGone says that the process has exited, or that its pid now belongs to another one.
var ErrGone = errors.New("process is gone")

// ID names a process of this boot.
type ID struct {
	// PID is its number; 0 is no process.
	PID int32 `json:"pid,omitempty"`
	// StartTime is when it started, in clock ticks after boot (field 22 of /proc/PID/stat, see proc_pid_stat(5)).
	StartTime uint64 `json:"start,omitempty"`
}

// Process is a process that existed when it was opened.
type Process struct {
	id     ID
	closed chan struct{}

	mu    sync.RWMutex
	fd    int // -1 when closed
	token uint64
}

// Find returns the identity of the process that has a pid now. Returns ErrGone if there is none.
func Find(pid int32) (ID, error) {
	if pid <= 0 {
		return ID{}, fmt.Errorf("find process %d: %w", pid, ErrGone)
	}
	start, err := startTime(pid)
	if err != nil {
		return ID{}, fmt.Errorf("find process %d: %w", pid, err)
	}
	return ID{PID: pid, StartTime: start}, nil
}

// Open returns the process, or ErrGone if it has exited. Any other error says nothing about the process.
func Open(id ID) (*Process, error) {
	if id.PID <= 0 {
		return nil, fmt.Errorf("open process %d: %w", id.PID, ErrGone)
	}
	fd, err := unix.PidfdOpen(int(id.PID), unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		err = ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", id.PID, err)
	}
	p := &Process{id: id, fd: fd, closed: make(chan struct{})}
	// The pid cannot be used again between the two looks unless the first process has exited, which Exited sees.
	start, err := startTime(id.PID)
	if err == nil && (start != id.StartTime || exited(fd)) {
		err = ErrGone
	}
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("open process %d: %w", id.PID, err)
	}
	return p, nil
}

// ID returns the identity.
func (p *Process) ID() ID { return p.id }

// Wait returns nil once the process has exited, all its threads ended and its descriptors closed; the context's error if that
// comes first; or another error if the Process is closed meanwhile.
func (p *Process) Wait(ctx context.Context) error {
	var file *os.File
	err := p.control(func(fd int) error {
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		file = os.NewFile(uintptr(own), "pidfd")
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", p.id.PID, err)
	}
	defer file.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel(nil)
	watch.Go(func() {
		select {
		case <-p.closed:
			cancel(os.ErrClosed)
		case <-ctx.Done():
		}
	})
	conn, err := file.SyscallConn()
	if err == nil {
		err = conn.Read(func(fd uintptr) bool { return exited(int(fd)) })
	}
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", p.id.PID, cmp.Or(context.Cause(ctx), err))
	}
	return nil
}

// Exited reports whether the process has exited. A Process that is closed has not, as far as anybody can tell.
func (p *Process) Exited() bool {
	gone := false
	err := p.control(func(fd int) error { gone = exited(fd); return nil })
	return err == nil && gone
}

// Signal sends a signal; a process that is gone is no error.
func (p *Process) Signal(sig unix.Signal) error {
	err := p.control(func(fd int) error { return unix.PidfdSendSignal(fd, sig, nil, 0) })
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.id.PID, err)
	}
	return nil
}

// TakeDescriptor duplicates a descriptor of the process into ours (pidfd_getfd(2)), which needs the right to trace it. The caller
// closes it.
func (p *Process) TakeDescriptor(number int) (int, error) {
	var got int
	err := p.control(func(fd int) (err error) {
		got, err = unix.PidfdGetfd(fd, number, 0)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("take descriptor %d of process %d: %w", number, p.id.PID, err)
	}
	return got, nil
}

// Close frees the pidfd. Whoever waits for the process in a Poller removes it there first.
func (p *Process) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd >= 0 {
		close(p.closed)
		unix.Close(p.fd)
		p.fd = -1
	}
}

func (p *Process) control(do func(fd int) error) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.fd < 0 {
		return os.ErrClosed
	}
	return do(p.fd)
}

// exited reports whether the process of a pidfd has exited.
func exited(fd int) bool {
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		if err != unix.EINTR {
			return err == nil && n > 0 && fds[0].Revents&unix.POLLIN != 0
		}
	}
}

func startTime(pid int32) (uint64, error) {
	start, err := procfs.StartTime(int(pid))
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrGone
	}
	return start, err
}
