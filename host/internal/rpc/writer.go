package rpc

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// writeBuffer is how much may wait in a Writer before Send itself waits, in bytes.
	writeBuffer = 64 << 10
	// directPayload is the size from which a payload is written without being copied into the buffer.
	directPayload = 32 << 10
)

// Writer writes frames to a connection. It is safe concurrently, frames never mix, and those of one goroutine stay in order.
type Writer struct {
	conn    net.Conn
	timeout time.Duration

	mu sync.Mutex
	// cond tells that busy, buf or err changed.
	cond *sync.Cond
	// buf waits to be written; spare is the other buffer, in use while busy.
	buf, spare []byte
	// busy says that a goroutine is writing, without mu.
	busy bool
	// err is the first failure; it stays.
	err error
	// deadline is when the connection's write deadline ends.
	deadline time.Time
}

// NewWriter returns a writer to conn. A write that makes no end within about timeout, and at least three quarters of it, fails.
func NewWriter(conn net.Conn, timeout time.Duration) *Writer {
	w := &Writer{conn: conn, timeout: timeout}
	w.cond = sync.NewCond(&w.mu)
	return w
}

// Queue takes a frame and may leave it in the buffer until Flush or a later Send. It fails with ErrTooLarge, or with the error that
// ended the connection.
func (w *Writer) Queue(h Header, payload []byte) error { return w.put(h, payload, false) }

// Send takes a frame and writes all that waits; when another goroutine is writing already, that one writes it.
func (w *Writer) Send(h Header, payload []byte) error { return w.put(h, payload, true) }

// Flush writes all that waits.
func (w *Writer) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.flush()
}

// SendFiles sends a frame of type CallWithFDs or ReplyWithFDs and the descriptors of files, at most MaxFDs. The files stay the caller's.
// On anything but a unix socket it fails with ErrFDs.
func (w *Writer) SendFiles(h Header, payload []byte, files []*os.File) error {
	conn, ok := w.conn.(*net.UnixConn)
	if !ok || len(files) > MaxFDs {
		return fmt.Errorf("send %d descriptors: %w", len(files), ErrFDs)
	}
	if len(payload) > MaxPayload-4 {
		return ErrTooLarge
	}
	b := AppendFrameWithFDs(nil, h, payload, len(files))
	return w.direct(b, func() error {
		for _, f := range files {
			if err := sendFile(conn, f); err != nil {
				return err
			}
		}
		return nil
	})
}

func (w *Writer) put(h Header, payload []byte, now bool) error {
	if len(payload) > MaxPayload {
		return ErrTooLarge
	}
	if len(payload) >= directPayload {
		return w.direct(appendPrefix(nil, h, len(payload)), func() error {
			_, err := w.conn.Write(payload)
			return err
		})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.busy && w.err == nil && len(w.buf) >= writeBuffer {
		w.cond.Wait()
	}
	if w.err != nil {
		return w.err
	}
	w.buf = append(appendPrefix(w.buf, h, len(payload)), payload...)
	if now || len(w.buf) >= writeBuffer {
		return w.flush()
	}
	return nil
}

// AppendFrame appends a frame of any type that carries no descriptors. The payload must not be above MaxPayload.
func AppendFrame(b []byte, h Header, payload []byte) []byte {
	return append(appendPrefix(b, h, len(payload)), payload...)
}

// AppendFrameWithFDs appends a frame that announces descriptors, at most MaxFDs. Each of them follows with one byte that is zero.
func AppendFrameWithFDs(b []byte, h Header, payload []byte, count int) []byte {
	b = appendPrefix(b, h, 4+len(payload))
	return append(binary.BigEndian.AppendUint32(b, uint32(count)), payload...)
}

func appendPrefix(b []byte, h Header, payload int) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(lengthSize+HeaderSize+payload))
	return h.Append(b)
}

// flush writes until nothing waits, with mu held on entry and on return. A goroutine that finds another one writing leaves
// it the work.
func (w *Writer) flush() error {
	if w.busy {
		return w.err
	}
	w.busy = true
	for len(w.buf) > 0 && w.err == nil {
		w.writeBuffered(nil)
	}
	w.busy = false
	w.trim()
	w.cond.Broadcast()
	return w.err
}

// direct writes what waits, then b, then calls more, as the only writer.
func (w *Writer) direct(b []byte, more func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.busy && w.err == nil {
		w.cond.Wait()
	}
	if w.err != nil {
		return w.err
	}
	w.busy = true
	w.buf = append(w.buf, b...)
	w.writeBuffered(more)
	w.busy = false
	w.cond.Broadcast()
	return w.flush()
}

// writeBuffered writes the buffer and calls more, without mu.
func (w *Writer) writeBuffered(more func() error) {
	out := w.buf
	w.buf = w.spare[:0]
	err := w.extend()
	w.mu.Unlock()
	if err == nil {
		_, err = w.conn.Write(out)
	}
	if err == nil && more != nil {
		err = more()
	}
	w.mu.Lock()
	w.spare = out
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("write frame: %w", err)
	}
	w.cond.Broadcast()
}

// extend moves the write deadline when a quarter of it is over, which is cheaper than at every write.
func (w *Writer) extend() error {
	now := time.Now()
	if w.deadline.Sub(now) > w.timeout*3/4 {
		return nil
	}
	w.deadline = now.Add(w.timeout)
	return w.conn.SetWriteDeadline(w.deadline)
}

// trim gives back buffers that a burst made large, so that idle connections stay small.
func (w *Writer) trim() {
	const kept = 16 << 10
	if cap(w.buf) > kept && len(w.buf) == 0 {
		w.buf = nil
	}
	if cap(w.spare) > kept {
		w.spare = nil
	}
}
