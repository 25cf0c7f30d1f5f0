package process

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Registration is a connection that a guest's process makes itself, since who is at the other end knows it by that (SO_PEERCRED), and
// keeps open for as long as it lives.
type Registration struct {
	// Socket is the path of a unix stream socket.
	Socket string `json:"socket"`
	// Exchanges are made once it is connected, in order.
	Exchanges []Exchange `json:"exchanges"`
}

// Exchange is one message and the answer to it.
type Exchange struct {
	// Send is sent.
	Send []byte `json:"send,omitempty"`
	// Receive is the length of the answer in bytes; 0 reads none.
	Receive int `json:"receive,omitempty"`
	// Want is what the answer must be in the bits that are set in Mask. Both are as long as the answer, or both are empty for any.
	Want []byte `json:"want,omitempty"`
	Mask []byte `json:"mask,omitempty"`
}

// Bounds of registrations.
const (
	maxRegistrations = 16
	maxExchanges     = 16
	maxMessage       = 64 << 10
	// answerTime bounds each step of a registration: to be connected, to send, and to be answered.
	answerTime = 10 * time.Second
)

// checkRegistrations finds fault with registrations before anything is started.
func checkRegistrations(list []Registration) error {
	if len(list) > maxRegistrations {
		return fmt.Errorf("%d registrations are asked for, at most %d are made", len(list), maxRegistrations)
	}
	for _, r := range list {
		if len(r.Exchanges) > maxExchanges {
			return fmt.Errorf("register with %q: %d exchanges are asked for, at most %d are made", r.Socket, len(r.Exchanges), maxExchanges)
		}
		for _, e := range r.Exchanges {
			if err := e.check(); err != nil {
				return fmt.Errorf("register with %q: %w", r.Socket, err)
			}
		}
	}
	return nil
}

func (e Exchange) check() error {
	switch {
	case len(e.Send) > maxMessage || e.Receive < 0 || e.Receive > maxMessage:
		return fmt.Errorf("message of %d bytes with an answer of %d: at most %d each", len(e.Send), e.Receive, maxMessage)
	case len(e.Want) != len(e.Mask) || len(e.Want) != 0 && len(e.Want) != e.Receive:
		return fmt.Errorf("answer of %d bytes is wanted to be one of %d under a mask of %d", e.Receive, len(e.Want), len(e.Mask))
	}
	return nil
}

// register makes the connection and returns its descriptor, which execution closes.
func (r Registration) register() (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("register with %q: %w", r.Socket, err)
	}
	if err := r.talk(fd); err != nil {
		return 0, errors.Join(fmt.Errorf("register with %q: %w", r.Socket, err), unix.Close(fd))
	}
	return fd, nil
}

func (r Registration) talk(fd int) error {
	limit := unix.NsecToTimeval(answerTime.Nanoseconds())
	for _, option := range []int{unix.SO_SNDTIMEO, unix.SO_RCVTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &limit); err != nil {
			return err
		}
	}
	if err := again(func() error { return unix.Connect(fd, &unix.SockaddrUnix{Name: r.Socket}) }); err != nil {
		return err
	}
	for i, e := range r.Exchanges {
		if err := e.make(fd); err != nil {
			return fmt.Errorf("exchange %d: %w", i+1, err)
		}
	}
	return nil
}

// make sends the message and checks the answer.
func (e Exchange) make(fd int) error {
	for rest := e.Send; len(rest) > 0; {
		var n int
		err := again(func() (err error) { n, err = unix.SendmsgN(fd, rest, nil, nil, unix.MSG_NOSIGNAL); return err })
		if err != nil {
			return fmt.Errorf("send: %w", err)
		}
		rest = rest[n:]
	}
	answer := make([]byte, e.Receive)
	for got := 0; got < len(answer); {
		var n int
		err := again(func() (err error) { n, err = unix.Read(fd, answer[got:]); return err })
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		if n == 0 {
			return fmt.Errorf("the other end hung up after %d of %d bytes", got, len(answer))
		}
		got += n
	}
	return e.compare(answer)
}

func (e Exchange) compare(answer []byte) error {
	masked, want := bytes.Clone(answer), bytes.Clone(e.Want)
	for i, m := range e.Mask {
		masked[i] &= m
		want[i] &= m
	}
	if len(e.Mask) > 0 && !bytes.Equal(masked, want) {
		const shown = 64
		return fmt.Errorf("the answer is %x", answer[:min(len(answer), shown)])
	}
	return nil
}

// again repeats a system call that a signal broke into; a limit of time that has passed is told as one.
func again(call func() error) error {
	for {
		switch err := call(); {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return fmt.Errorf("no answer within %v: %w", answerTime, unix.ETIMEDOUT)
		default:
			return err
		}
	}
}
