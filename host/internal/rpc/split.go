package rpc

import (
	"encoding/binary"
	"fmt"
)

// Split finds the first frame in what was received, for those who read without a Reader. It returns the frame, whose payload refers to
// b; how many descriptors it carries, each of which comes with one byte behind the frame; and the size of the frame with these
// bytes. A size of 0 means that the frame is not whole yet. What is no frame is ErrFrame.
func Split(b []byte) (f Frame, fds, size int, err error) {
	if len(b) < lengthSize {
		return Frame{}, 0, 0, nil
	}
	word := binary.BigEndian.Uint32(b)
	size, ok := frameSize(word)
	if !ok {
		return Frame{}, 0, 0, fmt.Errorf("length %d: %w", word, ErrFrame)
	}
	if len(b) < size {
		return Frame{}, 0, 0, nil
	}
	f = Frame{Header: parseHeader(b[lengthSize:]), Payload: b[lengthSize+HeaderSize : size]}
	if !f.Type.withFDs() {
		return f, 0, size, nil
	}
	if len(f.Payload) < 4 {
		return Frame{}, 0, 0, fmt.Errorf("type %d: %w", f.Type, ErrFrame)
	}
	count := binary.BigEndian.Uint32(f.Payload)
	if count > MaxFDs {
		return Frame{}, 0, 0, fmt.Errorf("%d descriptors: %w", count, ErrFrame)
	}
	if fds = int(count); len(b) < size+fds {
		return Frame{}, 0, 0, nil
	}
	f.Payload = f.Payload[4:]
	return f, fds, size + fds, nil
}
