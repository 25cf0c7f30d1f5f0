package qmp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
)

// Version is what a QEMU says about itself in its greeting.
type Version struct {
	QEMU struct {
		Major int `json:"major"`
		Minor int `json:"minor"`
		Micro int `json:"micro"`
	} `json:"qemu"`
	Package string `json:"package"`
}

// message is any line that QEMU sends; which of the fields is there tells its kind.
type message struct {
	Greeting *struct {
		Version Version `json:"version"`
	} `json:"QMP"`
	Return    json.RawMessage `json:"return"`
	Error     *Error          `json:"error"`
	ID        json.RawMessage `json:"id"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

// decode reads one line. An event, a greeting and a reply are told apart by the message's fields.
func decode(line []byte) (*message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return nil, protocolError("decode %d bytes: %v", len(line), err)
	}
	kinds := 0
	for _, present := range []bool{m.Greeting != nil, m.Return != nil, m.Error != nil, m.Event != ""} {
		if present {
			kinds++
		}
	}
	if kinds != 1 {
		return nil, protocolError("a message is to be a greeting, a reply, an error or an event")
	}
	if m.Event != "" && len(line) > MaxEvent {
		return nil, protocolError("event %q of %d bytes", m.Event, len(line))
	}
	return &m, nil
}

// replyID is the number of the command that a reply belongs to.
func (m *message) replyID() (uint64, error) {
	id, err := strconv.ParseUint(string(m.ID), 10, 64)
	if err != nil {
		if m.Error != nil {
			return 0, protocolError("error without an id: %s", m.Error.Desc)
		}
		return 0, protocolError("reply without an id")
	}
	return id, nil
}

func (m *message) time() time.Time {
	if m.Timestamp.Seconds < 0 { // QEMU could not read its clock
		return time.Time{}
	}
	return time.Unix(m.Timestamp.Seconds, m.Timestamp.Microseconds*1000)
}

// readLine reads up to a newline, which it cuts off with the blanks before it. The buffer that it returns is valid until the
// next call unless the line was longer than the reader's own buffer. A line over limit bytes is a protocol error; an unended
// last line is ErrGone like a clean end, because half a message means nothing.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var long []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(long)+len(part) > limit {
			return nil, protocolError("message over %d bytes", limit)
		}
		switch {
		case err == nil && long == nil:
			return bytes.TrimRight(part, " \t\r\n"), nil
		case err == nil:
			return bytes.TrimRight(append(long, part...), " \t\r\n"), nil
		case errors.Is(err, bufio.ErrBufferFull):
			long = append(long, part...)
		case errors.Is(err, io.EOF):
			return nil, ErrGone
		default:
			return nil, fmt.Errorf("%w: %w", ErrGone, err)
		}
	}
}

// encode writes a command as a line.
func encode(id uint64, name string, args any) ([]byte, error) {
	cmd := struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{name, args, id}
	line, err := json.Marshal(cmd)
	if err != nil {
		return nil, fmt.Errorf("encode command %q: %w", name, err)
	}
	if len(line) >= MaxCommand {
		return nil, fmt.Errorf("encode command %q: %d bytes are more than %d", name, len(line), MaxCommand)
	}
	return append(line, '\n'), nil
}
