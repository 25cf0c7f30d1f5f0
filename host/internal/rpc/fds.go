package rpc

import (
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// fdQueue reads from a unix socket and keeps the descriptors that come along, up to a limit.
type fdQueue struct {
	conn  *net.UnixConn
	limit int
	oob   []byte
	files []*os.File
}

func newFDQueue(conn *net.UnixConn, limit int) *fdQueue {
	// The kernel itself closes what does not fit into oob, so a reader without a use for descriptors never holds one.
	q := &fdQueue{conn: conn, limit: limit}
	if limit > 0 {
		q.oob = make([]byte, unix.CmsgSpace(4*limit))
	}
	return q
}

// read is like io.Reader's.
func (q *fdQueue) read(b []byte) (int, error) {
	if q.limit == 0 {
		return q.conn.Read(b)
	}
	n, oobn, _, _, err := q.conn.ReadMsgUnix(b, q.oob)
	if oobn > 0 {
		q.keep(q.oob[:oobn])
	}
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// keep takes the descriptors out of a control message; those above the limit are closed.
func (q *fdQueue) keep(oob []byte) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			f := os.NewFile(uintptr(fd), "received")
			if len(q.files) >= q.limit {
				_ = f.Close()
				continue
			}
			q.files = append(q.files, f)
		}
	}
}

// take removes the first n files, or fails with ErrFDs.
func (q *fdQueue) take(n int) ([]*os.File, error) {
	if n > len(q.files) {
		return nil, fmt.Errorf("%d of %d descriptors: %w", len(q.files), n, ErrFDs)
	}
	taken := append([]*os.File(nil), q.files[:n]...)
	q.files = append(q.files[:0], q.files[n:]...)
	return taken, nil
}

func (q *fdQueue) close() {
	for _, f := range q.files {
		_ = f.Close()
	}
	q.files = nil
}

// sendFile sends one descriptor with the byte that carries it.
func sendFile(conn *net.UnixConn, f *os.File) error {
	_, _, err := conn.WriteMsgUnix([]byte{0}, unix.UnixRights(int(f.Fd())), nil)
	if err != nil {
		return fmt.Errorf("send descriptor: %w", err)
	}
	return nil
}
