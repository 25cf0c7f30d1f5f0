package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/lodgevirt/lodge/sdk/procfs"
	"golang.org/x/sys/unix"
)

// Process is a running process that is no child of ours. All methods are safe concurrently.
type Process struct {
	id    ID
	pidfd *os.File
	done  chan struct{}
	stop  sync.Once
}

// Open takes hold of a process. It returns ErrGone if it has ended or the pid means another process by now.
func Open(id ID) (*Process, error) {
	if id.PID <= 0 {
		return nil, fmt.Errorf("open process %d: %w", id.PID, ErrGone)
	}
	fd, err := unix.PidfdOpen(id.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
			err = ErrGone
		}
		return nil, fmt.Errorf("open process %d: %w", id.PID, err)
	}
	// The start time is read after the pidfd was opened, so it is that of the process which the pidfd means, or that one has ended.
	start, err := procfs.StartTime(id.PID)
	if err != nil || start != id.StartTime || ended(fd) {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("open process %d: %w", id.PID, ErrGone)
	}
	p := &Process{id: id, pidfd: os.NewFile(uintptr(fd), "pidfd"), done: make(chan struct{})}
	go p.watch()
	return p, nil
}

// ended reports whether a pidfd's process has ended, be it a zombie still.
func ended(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// watch closes done when the process has ended or Close was called. The runtime's poller waits, no thread is held.
func (p *Process) watch() {
	conn, err := p.pidfd.SyscallConn()
	if err == nil {
		err = conn.Read(func(fd uintptr) bool { return ended(int(fd)) })
	}
	if err == nil {
		close(p.done)
	}
}

// ID returns pid and start time.
func (p *Process) ID() ID { return p.id }

// Done is closed when the process has ended: its descriptors are closed and its memory is free, whether or not its parent has
// taken notice. It is never closed after Close.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal. It returns ErrGone if the process has ended.
func (p *Process) Signal(sig unix.Signal) error {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return fmt.Errorf("signal process %d: %w", p.id.PID, err)
	}
	var sent error
	err = conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	if err == nil {
		err = sent
	}
	if errors.Is(err, unix.ESRCH) {
		err = ErrGone
	}
	if err != nil {
		return fmt.Errorf("signal process %d: %w", p.id.PID, err)
	}
	return nil
}

// Kill ends the process for sure and waits until it is gone. It returns ErrAlive if the context ends first, which happens to a
// process that hangs in the kernel.
func (p *Process) Kill(ctx context.Context) error {
	if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, ErrGone) {
		return err
	}
	return p.Wait(ctx)
}

// Wait returns when the process has ended, or ErrAlive when the context ends first.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for process %d: %w: %w", p.id.PID, ErrAlive, ctx.Err())
	}
}

// Close lets go of the process and leaves it alone.
func (p *Process) Close() {
	p.stop.Do(func() { _ = p.pidfd.Close() })
}
