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

// Missing returns how many bytes are missing for the first frame in b to be whole, as far as can be told: of a frame whose length is not
// known yet, those of the length. It is 0 for a whole frame, and for what is none.
func Missing(b []byte) int {
	_, _, size, err := Split(b)
	switch {
	case err != nil || size > 0:
		return 0
	case len(b) < lengthSize:
		return lengthSize - len(b)
	}
	whole, _ := frameSize(binary.BigEndian.Uint32(b))
	if len(b) < whole {
		return whole - len(b)
	}
	count := binary.BigEndian.Uint32(b[lengthSize+HeaderSize:])
	return whole + int(count) - len(b)
}
