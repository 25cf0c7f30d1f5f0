package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// readBuffer is what a Reader holds between frames, in bytes.
const readBuffer = 4096

// Frame is one frame as it was received.
type Frame struct {
	Header
	// Payload is valid until the next call of Next.
	Payload []byte
	// Files are the descriptors that came with the frame; they are the receiver's to close.
	Files []*os.File
}

// ReaderConfig says what a Reader accepts.
type ReaderConfig struct {
	// FrameTimeout is how long the rest of a frame may take once its first bytes are there; 0 is for ever. A connection may
	// be idle between frames for as long as it likes.
	FrameTimeout time.Duration
	// FDs is how many received descriptors may be held; all others are closed at once, and frames come without theirs. At
	// most MaxFDs.
	FDs int
}

// Reader reads frames from a connection.
type Reader struct {
	conn net.Conn
	cfg  ReaderConfig
	fds  *fdQueue
	// buf is what is read into: small, or a bigger one while a large frame comes.
	buf, small []byte
	// start and end delimit what is unread in buf.
	start, end int
}

// NewReader returns a reader of conn. Only on a unix socket can frames carry descriptors.
func NewReader(conn net.Conn, cfg ReaderConfig) *Reader {
	r := &Reader{conn: conn, cfg: cfg, small: make([]byte, readBuffer)}
	r.buf = r.small
	if unix, ok := conn.(*net.UnixConn); ok {
		r.fds = newFDQueue(unix, min(cfg.FDs, MaxFDs))
	}
	return r
}

// Buffered reports whether a whole further frame is in memory, so that Next will not wait.
func (r *Reader) Buffered() bool {
	have := r.end - r.start
	if have < lengthSize {
		return false
	}
	size, ok := frameSize(binary.BigEndian.Uint32(r.buf[r.start:]))
	return !ok || have >= size
}

// Next waits for the next frame. At the end of the connection between frames it returns io.EOF, within one
// io.ErrUnexpectedEOF, and for anything that is no frame ErrFrame or ErrFDs.
func (r *Reader) Next() (Frame, error) {
	r.shrink()
	if err := r.fill(lengthSize); err != nil {
		return Frame{}, err
	}
	word := binary.BigEndian.Uint32(r.buf[r.start:])
	size, ok := frameSize(word)
	if !ok {
		return Frame{}, fmt.Errorf("length %d: %w", word, ErrFrame)
	}
	if err := r.fill(size); err != nil {
		return Frame{}, err
	}
	raw := r.buf[r.start : r.start+size]
	r.start += size
	f := Frame{Header: parseHeader(raw[lengthSize:]), Payload: raw[lengthSize+HeaderSize:]}
	if !f.Type.withFDs() {
		return f, nil
	}
	return r.takeFiles(f)
}

// Close releases descriptors that were received and not taken. It does not close the connection.
func (r *Reader) Close() {
	if r.fds != nil {
		r.fds.close()
	}
}

// takeFiles reads what follows a frame with descriptors: one byte for each.
func (r *Reader) takeFiles(f Frame) (Frame, error) {
	if r.fds == nil || len(f.Payload) < 4 {
		return Frame{}, fmt.Errorf("type %d: %w", f.Type, ErrFrame)
	}
	count := binary.BigEndian.Uint32(f.Payload)
	if count > MaxFDs {
		return Frame{}, fmt.Errorf("%d descriptors: %w", count, ErrFrame)
	}
	n := int(count)
	f.Payload = append([]byte(nil), f.Payload[4:]...)
	if err := r.fill(n); err != nil {
		return Frame{}, err
	}
	r.start += n
	if r.cfg.FDs == 0 {
		return f, nil
	}
	files, err := r.fds.take(n)
	f.Files = files
	return f, err
}

// shrink makes room at the front, and gives back a buffer that only a large frame needed.
func (r *Reader) shrink() {
	if r.start == r.end {
		r.start, r.end = 0, 0
	}
	if len(r.buf) > readBuffer && r.end-r.start <= readBuffer {
		r.move(r.small)
	}
}

// move copies what is unread to the front of a buffer, and gives back the one that there was.
func (r *Reader) move(dst []byte) {
	r.end = copy(dst, r.buf[r.start:r.end])
	r.start = 0
	if &dst[0] == &r.buf[0] {
		return
	}
	Release(r.buf)
	r.buf = dst
}

// bigger returns a buffer for a frame of n bytes, of which as many have come as the present one holds.
func (r *Reader) bigger(n int) []byte {
	switch has := len(r.buf); {
	case has < middle:
		return Buffer(middle)
	case has < large:
		return Buffer(large)
	default:
		return make([]byte, min(2*has, n))
	}
}

// fill reads until n bytes are unread. The buffer grows with what arrives, not with what is announced.
func (r *Reader) fill(n int) error {
	if r.end-r.start >= n {
		return nil
	}
	limited := false
	for r.end-r.start < n {
		if r.end > r.start && !limited && r.cfg.FrameTimeout > 0 {
			limited = true
			if err := r.conn.SetReadDeadline(time.Now().Add(r.cfg.FrameTimeout)); err != nil {
				return fmt.Errorf("set read deadline: %w", err)
			}
		}
		if err := r.more(n); err != nil {
			return err
		}
	}
	if limited {
		if err := r.conn.SetReadDeadline(time.Time{}); err != nil {
			return fmt.Errorf("clear read deadline: %w", err)
		}
	}
	return nil
}

// more reads once, with n bytes wanted in all.
func (r *Reader) more(n int) error {
	switch {
	case r.end < len(r.buf):
	case r.start > 0:
		r.move(r.buf)
	default:
		r.move(r.bigger(n))
	}
	got, err := r.read(r.buf[r.end:])
	r.end += got
	if got > 0 {
		return nil
	}
	if errors.Is(err, io.EOF) && r.end > r.start {
		return io.ErrUnexpectedEOF
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

func (r *Reader) read(b []byte) (int, error) {
	if r.fds != nil {
		return r.fds.read(b)
	}
	return r.conn.Read(b)
}
