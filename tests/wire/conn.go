// Package wire speaks libvirt's RPC with blocking system calls and one call at a time, so that a client's own share of a round trip is small,
// for the benchmark and for tests of daemons. It knows frames, errors and XDR, and no program's procedures.
//
// A Conn is for one goroutine and owns its descriptor. Every call has a deadline; after an error that is no *Error the connection is of no
// use any more, because the answer may still come.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// headerSize is the size of a frame's length word and header.
	headerSize = 28
	// frameMax bounds the answers that the client takes, in bytes.
	frameMax = 33554432 + 4
	// patience bounds the wait for an answer unless SetPatience says otherwise.
	patience = time.Minute
)

// Program is a set of procedures.
type Program struct {
	Number, Version uint32
}

// Conn is one connection.
type Conn struct {
	fd     int
	serial uint32
	out    []byte
	in     []byte
}

// Dial connects to a unix socket.
func Dial(socket string) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	c := New(fd)
	if err := errors.Join(c.SetPatience(patience), connect(fd, socket)); err != nil {
		c.Close()
		return nil, fmt.Errorf("dial %s: %w", socket, err)
	}
	return c, nil
}

// New makes a connection of a connected socket, which is its own from now on.
func New(fd int) *Conn { return &Conn{fd: fd, in: make([]byte, 4<<10)} }

func connect(fd int, socket string) error {
	for {
		err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket})
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// SetPatience bounds the waits of each call; an answer that does not come in time is unix.EAGAIN.
func (c *Conn) SetPatience(d time.Duration) error {
	limit := unix.NsecToTimeval(d.Nanoseconds())
	if err := errors.Join(
		unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit),
	); err != nil {
		return fmt.Errorf("set patience: %w", err)
	}
	return nil
}

// HangUp says that no more calls will come, waits until the daemon has closed the connection on account of that, and closes it.
func (c *Conn) HangUp() error {
	defer c.Close()
	if err := unix.Shutdown(c.fd, unix.SHUT_WR); err != nil {
		return fmt.Errorf("hang up: %w", err)
	}
	if _, err := c.fill(0, 1, 1); !errors.Is(err, ErrClosed) {
		return fmt.Errorf("hang up: the daemon goes on: %w", err)
	}
	return nil
}

// Descriptor is the socket, which stays the connection's.
func (c *Conn) Descriptor() int { return c.fd }

// Close closes the connection without a word, as clients may.
func (c *Conn) Close() {
	_ = unix.Close(c.fd) // Nothing is pending, and there is nobody to tell.
}

// Call makes a call and returns the payload of its answer, which is good until the next call. What the daemon refuses is an *Error.
func (c *Conn) Call(p Program, procedure uint32, args []byte) ([]byte, error) {
	if err := c.Send(p, procedure, args); err != nil {
		return nil, err
	}
	return c.Receive()
}

// Send sends a call. Its answer is to be received before the next one is sent.
func (c *Conn) Send(p Program, procedure uint32, args []byte) error {
	c.serial++
	c.out = c.out[:0]
	for _, word := range [...]uint32{uint32(headerSize + len(args)), p.Number, p.Version, procedure, 0, c.serial, 0} {
		c.out = binary.BigEndian.AppendUint32(c.out, word)
	}
	c.out = append(c.out, args...)
	for sent := 0; sent < len(c.out); {
		n, err := unix.SendmsgN(c.fd, c.out[sent:], nil, nil, unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("send: %w", err)
		}
		sent += n
	}
	return nil
}

// Receive reads the answer to the call that was sent last, without descriptors.
func (c *Conn) Receive() ([]byte, error) {
	have, err := c.fill(0, headerSize, len(c.in))
	if err != nil {
		return nil, err
	}
	size, err := c.size()
	if err != nil {
		return nil, err
	}
	if have, err = c.fill(have, size, size); err != nil {
		return nil, err
	}
	if have != size {
		return nil, errors.New("receive: more than an answer")
	}
	return c.payload(size)
}

// size reads the length of the frame whose header has been read.
func (c *Conn) size() (int, error) {
	size := int(binary.BigEndian.Uint32(c.in))
	if size < headerSize || size > frameMax {
		return 0, fmt.Errorf("receive: frame of %d bytes", size)
	}
	return size, nil
}

// payload takes apart the frame that has been read.
func (c *Conn) payload(size int) ([]byte, error) {
	if serial := binary.BigEndian.Uint32(c.in[20:]); serial != c.serial {
		return nil, fmt.Errorf("receive: unexpected frame: serial %d, want %d", serial, c.serial)
	}
	payload := c.in[headerSize:size]
	if status := binary.BigEndian.Uint32(c.in[24:]); status != 0 {
		return nil, ParseError(payload)
	}
	return payload, nil
}

// fill reads until there are at least want bytes, and not more than most.
func (c *Conn) fill(have, want, most int) (int, error) {
	if len(c.in) < most {
		c.in = append(c.in, make([]byte, most-len(c.in))...)
	}
	for have < want {
		n, err := unix.Read(c.fd, c.in[have:most])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return have, fmt.Errorf("receive: %w", err)
		}
		if n == 0 {
			return have, ErrClosed
		}
		have += n
	}
	return have, nil
}

// ErrClosed says that the daemon has closed the connection instead of answering.
var ErrClosed = errors.New("the daemon has closed the connection")

// Error is a refusal.
type Error struct {
	// Code and Domain are libvirt's numbers (virErrorNumber, virErrorDomain).
	Code, Domain uint32
	Message      string
}

// Error tells code, domain and message.
func (e *Error) Error() string {
	return fmt.Sprintf("libvirt error %d of domain %d: %s", e.Code, e.Domain, e.Message)
}

// ParseError reads the beginning of an error's payload. What it does not understand becomes an *Error of code 0.
func ParseError(payload []byte) *Error {
	r := Reader{Rest: payload}
	e := &Error{Code: r.Uint32(), Domain: r.Uint32()}
	if r.Uint32() == 1 {
		e.Message = r.String()
	}
	if r.Err != nil {
		return &Error{Message: "an error that cannot be read"}
	}
	return e
}
