package main

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Numbers of libvirt's remote protocol (src/remote/remote_protocol.x of libvirt).
const (
	remoteProgram = 0x20008086
	remoteVersion = 1

	procOpen        = 1
	procCreateXML   = 10
	procDefineXML   = 11
	procDestroy     = 12
	procGetXMLDesc  = 14
	procLookupName  = 23
	procAuthList    = 66
	procLibVersion  = 157
	procUndefine    = 231
	procListDomains = 273
	procAllStats    = 344

	statsState  = 1
	statsVCPU   = 8
	listActive  = 1
	startPaused = 1
)

// headerSize is the size of a frame's length word and header.
const headerSize = 28

// frameMax bounds the answers that the client takes.
const frameMax = 33554432

// conn is one connection with blocking calls; it is for one goroutine.
type conn struct {
	fd     int
	serial uint32
	out    []byte
	in     []byte
}

// remoteError is an error that the daemon has answered with.
type remoteError struct {
	code    uint32
	message string
}

func (e *remoteError) Error() string {
	return fmt.Sprintf("libvirt error %d: %s", e.code, e.message)
}

// dial connects, asks for the kinds of authentication and opens the URI.
func dial(socket, uri string) (*conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	c := &conn{fd: fd, in: make([]byte, 64<<10)}
	// No answer takes longer than this, so no measurement waits for ever.
	limit := unix.Timeval{Sec: 60}
	if err := errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit),
		unix.Connect(fd, &unix.SockaddrUnix{Name: socket}),
	); err != nil {
		c.close()
		return nil, fmt.Errorf("dial: %w", err)
	}
	open := appendUint32(appendString(appendUint32(nil, 1), uri), 0)
	for _, step := range []struct {
		proc uint32
		args []byte
	}{{procAuthList, nil}, {procOpen, open}} {
		if _, err := c.call(step.proc, step.args); err != nil {
			c.close()
			return nil, fmt.Errorf("open %s: %w", uri, err)
		}
	}
	return c, nil
}

// close closes the connection without a word, as clients may.
func (c *conn) close() {
	_ = unix.Close(c.fd) // Nothing is pending, and there is nobody to tell.
}

// call makes a call and returns the payload of its answer, which is good until the next call.
func (c *conn) call(proc uint32, args []byte) ([]byte, error) {
	c.serial++
	c.out = c.out[:0]
	for _, word := range [...]uint32{uint32(headerSize + len(args)), remoteProgram, remoteVersion, proc, 0, c.serial, 0} {
		c.out = binary.BigEndian.AppendUint32(c.out, word)
	}
	c.out = append(c.out, args...)
	for sent := 0; sent < len(c.out); {
		n, err := unix.Write(c.fd, c.out[sent:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("send: %w", err)
		}
		sent += n
	}
	return c.receive()
}

// receive reads the answer to the call that was made last.
func (c *conn) receive() ([]byte, error) {
	have := 0
	fill := func(want int) error {
		if len(c.in) < want {
			c.in = append(c.in, make([]byte, want-len(c.in))...)
		}
		for have < want {
			n, err := unix.Read(c.fd, c.in[have:])
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return fmt.Errorf("receive: %w", err)
			}
			if n == 0 {
				return errors.New("receive: the daemon has closed the connection")
			}
			have += n
		}
		return nil
	}
	if err := fill(headerSize); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint32(c.in))
	if size < headerSize || size > frameMax {
		return nil, fmt.Errorf("receive: frame of %d bytes", size)
	}
	if err := fill(size); err != nil {
		return nil, err
	}
	if serial := binary.BigEndian.Uint32(c.in[20:]); serial != c.serial || have != size {
		return nil, fmt.Errorf("receive: unexpected frame: serial %d, want %d", serial, c.serial)
	}
	payload := c.in[headerSize:size]
	if status := binary.BigEndian.Uint32(c.in[24:]); status != 0 {
		return nil, decodeError(payload)
	}
	return payload, nil
}

// decodeError reads the code and the message of an error's payload.
func decodeError(payload []byte) error {
	e := &remoteError{}
	if len(payload) >= 16 && binary.BigEndian.Uint32(payload[8:]) == 1 {
		e.code = binary.BigEndian.Uint32(payload)
		size := int(binary.BigEndian.Uint32(payload[12:]))
		e.message = string(payload[16 : 16+min(size, len(payload)-16)])
	}
	return e
}

// appendUint32 and appendString append XDR (RFC 4506).
func appendUint32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }

func appendString(b []byte, s string) []byte {
	b = append(appendUint32(b, uint32(len(s))), s...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}
