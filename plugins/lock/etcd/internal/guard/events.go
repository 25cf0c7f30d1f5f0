package guard

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/boot"
)

// events waits for a moment of CLOCK_BOOTTIME, for ends of processes, and for being woken. wait is for one goroutine, the rest is safe
// concurrently.
type events struct {
	poll, timer, bell int
}

func newEvents() (*events, error) {
	e := &events{poll: -1, timer: -1, bell: -1}
	var err error
	if e.poll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err == nil {
		// After a suspended machine has woken up, a timer on this clock has run out if its moment has passed.
		if e.timer, err = unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err == nil {
			e.bell, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		}
	}
	if err == nil {
		err = errors.Join(e.add(e.timer), e.add(e.bell))
	}
	if err != nil {
		e.close()
		return nil, fmt.Errorf("prepare to wait: %w", err)
	}
	return e, nil
}

func (e *events) close() {
	closeFD(e.bell)
	closeFD(e.timer)
	closeFD(e.poll)
}

// add has wait tell when a pidfd's process ends. -1 is left out.
func (e *events) add(fd int) error {
	if fd < 0 {
		return nil
	}
	if err := unix.EpollCtl(e.poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("wait for descriptor: %w", err)
	}
	return nil
}

// remove undoes add, before the descriptor is closed.
func (e *events) remove(fd int) {
	if fd >= 0 {
		_ = unix.EpollCtl(e.poll, unix.EPOLL_CTL_DEL, fd, nil)
	}
}

// wake lets wait return.
func (e *events) wake() {
	one := [8]byte{1}
	_, _ = unix.Write(e.bell, one[:]) // a bell that is full rings already
}

// wait waits until a moment, an end of a process, or a wake, and returns the pidfds of the processes that have ended.
func (e *events) wait(until boot.Time) (ended []int, err error) {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(int64(until), 1))}
	if err := unix.TimerfdSettime(e.timer, unix.TFD_TIMER_ABSTIME, &spec, nil); err != nil {
		return nil, fmt.Errorf("set timer: %w", err)
	}
	var list [64]unix.EpollEvent
	n, err := unix.EpollWait(e.poll, list[:], -1)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return nil, fmt.Errorf("poll: %w", err)
	}
	for _, event := range list[:max(n, 0)] {
		var counter [8]byte
		switch fd := int(event.Fd); fd {
		case e.timer, e.bell:
			_, _ = unix.Read(fd, counter[:])
		default:
			ended = append(ended, fd)
		}
	}
	return ended, nil
}
