package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// replyWithFiles is the type of an answer that carries descriptors; behind the frame comes one byte for each.
const replyWithFiles = 5

// filesMax bounds the descriptors of an answer.
const filesMax = 32

// CallFiles is Call for a procedure whose answer may carry descriptors. The caller closes the files.
func (c *Conn) CallFiles(p Program, procedure uint32, args []byte) ([]byte, []*os.File, error) {
	if err := c.Send(p, procedure, args); err != nil {
		return nil, nil, err
	}
	// Not a byte more than the frame is read: a descriptor that comes with data that is read otherwise is lost.
	have, err := c.fill(0, headerSize, headerSize)
	if err != nil {
		return nil, nil, err
	}
	size, err := c.size()
	if err != nil {
		return nil, nil, err
	}
	if _, err := c.fill(have, size, size); err != nil {
		return nil, nil, err
	}
	payload, err := c.payload(size)
	if err != nil || binary.BigEndian.Uint32(c.in[16:]) != replyWithFiles {
		return payload, nil, err
	}
	r := Reader{Rest: payload}
	n := r.Uint32()
	if r.Err != nil || n > filesMax {
		return nil, nil, fmt.Errorf("receive: answer with %d descriptors", n)
	}
	var files []*os.File
	for range n {
		f, err := ReceiveFile(c.fd)
		if err != nil {
			for _, f := range files {
				_ = f.Close() // It was only received.
			}
			return nil, nil, err
		}
		files = append(files, f)
	}
	return r.Rest, files, nil
}

// ReceiveFile receives a byte and the descriptor that comes with it from a unix socket.
func ReceiveFile(fd int) (*os.File, error) {
	data, control := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	for {
		n, size, _, _, err := unix.Recvmsg(fd, data, control, unix.MSG_CMSG_CLOEXEC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, fmt.Errorf("receive descriptor: %w", err)
		case n == 0:
			return nil, ErrClosed
		}
		messages, err := unix.ParseSocketControlMessage(control[:size])
		if err != nil || len(messages) != 1 {
			return nil, fmt.Errorf("receive descriptor: %d messages: %w", len(messages), err)
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 {
			return nil, fmt.Errorf("receive descriptor: %d of them: %w", len(fds), err)
		}
		return os.NewFile(uintptr(fds[0]), "lock"), nil
	}
}
