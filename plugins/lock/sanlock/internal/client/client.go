package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"time"
)

// DefaultDir is the folder of the daemon's socket.
const DefaultDir = "/run/sanlock"

// socketName is the name of the socket in that folder.
const socketName = "sanlock.sock"

// magic begins each message, version says what protocol the client speaks.
const (
	magic   = 0x04282010
	version = 1
)

// command is what is asked of the daemon.
type command uint32

// Commands.
const (
	cmdRegister       command = 1
	cmdAddLockspace   command = 2
	cmdLeaveLockspace command = 3
	cmdStatus         command = 5
	cmdAcquire        command = 7
	cmdRelease        command = 8
	cmdRestrict       command = 10
	cmdAlign          command = 12
	cmdHostStatus     command = 15
	cmdKillPath       command = 17
	cmdWriteLockspace command = 18
	cmdWriteResource  command = 19
	cmdReadLockspace  command = 20
	cmdReadResource   command = 21
	cmdReadOwners     command = 24
	cmdVersion        command = 28
)

// itself in place of a pid means the connection that a request comes from.
const itself = ^uint32(0)

// header begins each message.
type header struct {
	command      command
	flags        uint32
	length       uint32
	data, data2  uint32
	magic, proto uint32
}

// message is a request whole.
func message(h header, body []byte) []byte {
	b := make([]byte, 0, headerSize+len(body))
	for _, n := range []uint32{
		magic, version, uint32(h.command), h.flags, uint32(headerSize + len(body)), 0, h.data, h.data2,
	} {
		b = endian.AppendUint32(b, n)
	}
	return append(b, body...)
}

func parseHeader(b []byte) header {
	number := func(i int) uint32 { return endian.Uint32(b[4*i:]) }
	return header{
		magic: number(0), proto: number(1), command: command(number(2)), flags: number(3), length: number(4), data: number(6), data2: number(7),
	}
}

// result is what an answer says of success.
func (h header) result() Result { return Result(int32(h.data)) }

// Client talks to one daemon.
type Client struct{ socket string }

// New returns a client of the daemon whose socket is in a folder.
func New(dir string) *Client { return &Client{socket: filepath.Join(dir, socketName)} }

// Socket returns the path of the daemon's socket.
func (c *Client) Socket() string { return c.socket }

// conn is a connection on which one request is made.
type conn struct {
	net.Conn
	stop func() bool
}

// roomPause is the time between two attempts to connect to a daemon that has no room for another connection: it lets few wait.
const roomPause = 5 * time.Millisecond

// Connect connects to the socket of a daemon, and waits for room there.
func Connect(ctx context.Context, socket string) (net.Conn, error) {
	var d net.Dialer
	for {
		nc, err := d.DialContext(ctx, "unix", socket)
		if !errors.Is(err, syscall.EAGAIN) {
			return nc, err
		}
		select {
		case <-time.After(roomPause):
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for room for a connection: %w", ctx.Err())
		}
	}
}

// dial connects. The connection fails when the context ends.
func (c *Client) dial(ctx context.Context) (*conn, error) {
	nc, err := Connect(ctx, c.socket)
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w: nobody listens on %q", ErrNotRunning, c.socket)
	case err != nil:
		return nil, fmt.Errorf("connect to the sanlock daemon: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	return &conn{Conn: nc, stop: stop}, nil
}

// Close implements io.Closer.
func (c *conn) Close() error {
	c.stop()
	return c.Conn.Close()
}

// open connects and sends a request.
func (c *Client) open(ctx context.Context, h header, body []byte) (*conn, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(message(h, body)); err != nil {
		_ = conn.Close()
		return nil, reason(ctx, "ask the sanlock daemon", err)
	}
	return conn, nil
}

// call makes a request whose answer is a header and perhaps a body of a size.
func (c *Client) call(ctx context.Context, h header, body []byte, size int) (header, []byte, error) {
	conn, err := c.open(ctx, h, body)
	if err != nil {
		return header{}, nil, err
	}
	defer conn.Close()
	answer, err := readHeader(conn, h.command)
	if err != nil {
		return header{}, nil, reason(ctx, "read the sanlock daemon's answer", err)
	}
	if err := failed(answer.result()); err != nil {
		return answer, nil, err
	}
	rest := make([]byte, size)
	if _, err := io.ReadFull(conn, rest); err != nil {
		return answer, nil, reason(ctx, "read the sanlock daemon's answer", err)
	}
	return answer, rest, nil
}

// readHeader reads the header of an answer.
func readHeader(r io.Reader, want command) (header, error) {
	b := make([]byte, headerSize)
	if _, err := io.ReadFull(r, b); err != nil {
		return header{}, err
	}
	h := parseHeader(b)
	if h.magic != magic || h.command != want {
		return header{}, fmt.Errorf("%q is no answer to request %d", b[:12], want)
	}
	return h, nil
}

// reason says why a connection has failed, which is the context if that has ended.
func reason(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return fmt.Errorf("%s: %w", what, err)
}
