package process

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// batch is how many exits are fetched at once.
const batch = 128

// Poller waits for the exit of many processes with one descriptor and one goroutine. All methods are safe concurrently.
type Poller struct {
	file   *os.File
	closed atomic.Bool

	mu      sync.Mutex
	waiting map[uint64]func()
	next    uint64
}

// NewPoller returns a poller, which tells nothing before Run.
func NewPoller() (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return nil, fmt.Errorf("watch processes: %w", err)
	}
	return &Poller{file: os.NewFile(uintptr(fd), "pidfds"), waiting: map[uint64]func(){}}, nil
}

// Add has gone called once, on Run's goroutine, when the process has exited, also if it had before. It must return soon. A process is
// added to one poller at most.
func (p *Poller) Add(process *Process, gone func()) error {
	p.mu.Lock()
	p.next++
	token := p.next
	p.waiting[token] = gone
	p.mu.Unlock()
	err := p.control(func(epoll int) error {
		return process.control(func(fd int) error {
			event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(uint32(token)), Pad: int32(token >> 32)}
			return unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &event)
		})
	})
	process.mu.Lock()
	defer process.mu.Unlock()
	process.token = token
	if err != nil {
		p.forget(token)
		return fmt.Errorf("watch process %d: %w", process.id.PID, err)
	}
	return nil
}

// Remove ends the wait for a process. Its call may be under way meanwhile.
func (p *Poller) Remove(process *Process) {
	process.mu.Lock()
	token := process.token
	process.token = 0
	process.mu.Unlock()
	if token == 0 || p.forget(token) == nil {
		return
	}
	// What fails here has no effect but an event that nobody waits for.
	_ = p.control(func(epoll int) error {
		return process.control(func(fd int) error { return unix.EpollCtl(epoll, unix.EPOLL_CTL_DEL, fd, nil) })
	})
}

// forget takes a call out.
func (p *Poller) forget(token uint64) func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	gone := p.waiting[token]
	delete(p.waiting, token)
	return gone
}

func (p *Poller) control(do func(epoll int) error) error {
	conn, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := conn.Control(func(fd uintptr) { inner = do(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// Run tells of exits until Close, and returns nil then.
func (p *Poller) Run() error {
	conn, err := p.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch processes: %w", err)
	}
	events := make([]unix.EpollEvent, batch)
	for {
		n := 0
		var inner error
		err := conn.Read(func(fd uintptr) bool {
			n, inner = unix.EpollWait(int(fd), events, 0)
			return n != 0
		})
		switch {
		case p.closed.Load():
			return nil
		case err == nil && errors.Is(inner, unix.EINTR):
			continue
		case err == nil:
			err = inner
		}
		if err != nil {
			return fmt.Errorf("watch processes: %w", err)
		}
		for _, e := range events[:n] {
			if gone := p.forget(uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32); gone != nil {
				gone()
			}
		}
	}
}

// Close ends Run. Processes that were added stay open.
func (p *Poller) Close() {
	p.closed.Store(true)
	p.file.Close()
}
