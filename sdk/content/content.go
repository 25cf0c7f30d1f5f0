// Package content carries what is in a volume between core and driver over a socket of its own, beside gRPC, which would copy each byte
// several times.
//
// The core makes a Pair and sends one end to the driver's process, which the call names by a token (package fdpass). Content is a
// sequence of frames: a header of 8 bytes in network byte order, whose lower 63 bits are a length, and as many bytes of data; or with the
// highest bit set a hole of that length, without data. A header of 0 is the end of the content. A socket that ends without it has been
// broken off.
//
// A Conn carries content in one direction, and is used by one goroutine; Close may be called by any, and ends what is under way.
package content

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// MaxPiece is the most data that a frame may have, in bytes.
	MaxPiece = 256 << 10
	// headerSize is the size of a header in bytes, hole the bit that makes a hole of it.
	headerSize = 8
	hole       = 1 << 63
	// socketBuffer is how much may be under way, in bytes.
	socketBuffer = 1 << 20
)

// ErrFrame says that the other side does not keep to the format.
var ErrFrame = errors.New("content is malformed")

// Conn is one end.
type Conn struct {
	conn   net.Conn
	in     *bufio.Reader
	header [headerSize]byte
	buf    []byte
	// pieces is what WriteTo of net.Buffers works on, kept so that nothing is allocated for a piece.
	pieces [2][]byte
}

// Pair makes a connection. The file is the other end, for another process.
func Pair() (*Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket for content: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "content")
	c, err := New(os.NewFile(uintptr(fds[0]), "content"))
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return c, theirs, nil
}

// New makes an end of a socket, which is its own from now on, also if it fails.
func New(socket *os.File) (*Conn, error) {
	defer func() { _ = socket.Close() }()
	conn, err := net.FileConn(socket)
	if err != nil {
		return nil, fmt.Errorf("take socket for content: %w", err)
	}
	if u, ok := conn.(*net.UnixConn); ok {
		_ = errors.Join(u.SetWriteBuffer(socketBuffer), u.SetReadBuffer(socketBuffer)) // the kernel's own sizes do, too
	}
	return &Conn{conn: conn, in: bufio.NewReaderSize(conn, headerSize), buf: make([]byte, MaxPiece)}, nil
}

// Data sends bytes, in as many frames as they need.
func (c *Conn) Data(data []byte) error {
	for len(data) > 0 {
		n := min(len(data), MaxPiece)
		binary.BigEndian.PutUint64(c.header[:], uint64(n))
		c.pieces = [2][]byte{c.header[:], data[:n]}
		frame := net.Buffers(c.pieces[:])
		if _, err := frame.WriteTo(c.conn); err != nil {
			return fmt.Errorf("send content: %w", err)
		}
		data = data[n:]
	}
	return nil
}

// Hole sends a hole of a length in bytes, less than 2^63.
func (c *Conn) Hole(length uint64) error {
	if length == 0 {
		return nil
	}
	if length >= hole {
		return fmt.Errorf("%w: a hole of %d bytes", ErrFrame, length)
	}
	return c.send(length | hole)
}

// End tells that all was sent.
func (c *Conn) End() error { return c.send(0) }

func (c *Conn) send(header uint64) error {
	binary.BigEndian.PutUint64(c.header[:], header)
	if _, err := c.conn.Write(c.header[:]); err != nil {
		return fmt.Errorf("send content: %w", err)
	}
	return nil
}

// Next returns the next bytes, good until the next call, or the length of a hole; io.EOF at the end of the content, and
// io.ErrUnexpectedEOF where it was broken off.
func (c *Conn) Next() (data []byte, length uint64, err error) {
	if _, err := io.ReadFull(c.in, c.header[:]); err != nil {
		return nil, 0, broken(err)
	}
	switch header := binary.BigEndian.Uint64(c.header[:]); {
	case header == 0:
		return nil, 0, io.EOF
	case header&hole != 0:
		return nil, header &^ hole, nil
	case header > MaxPiece:
		return nil, 0, fmt.Errorf("%w: a piece of %d bytes, at most %d are allowed", ErrFrame, header, MaxPiece)
	default:
		data = c.buf[:header]
	}
	if _, err := io.ReadFull(c.in, data); err != nil {
		return nil, 0, broken(err)
	}
	return data, 0, nil
}

// broken is the error of a read that should not have ended.
func broken(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return fmt.Errorf("receive content: %w", err)
}

// Close ends the connection.
func (c *Conn) Close() error { return c.conn.Close() }
