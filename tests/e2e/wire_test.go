package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// Numbers of libvirt's remote protocol (src/remote/remote_protocol.x of libvirt).
const (
	remoteProgram  = 0x20008086
	procOpen       = 1
	procAuthList   = 66
	procLibVersion = 157
	typeCall       = 0
)

// answerWait bounds each wait for an answer.
const answerWait = 20 * time.Second

// header is a frame's header after its length word.
type header struct {
	program, version uint32
	procedure        int32
	kind             uint32
	serial, status   uint32
}

// frame encodes a frame.
func frame(h header, payload []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(28+len(payload)))
	for _, word := range []uint32{h.program, h.version, uint32(h.procedure), h.kind, h.serial, h.status} {
		b = binary.BigEndian.AppendUint32(b, word)
	}
	return append(b, payload...)
}

// call is the frame of an ordinary call.
func call(procedure int32, payload []byte) []byte {
	return frame(header{program: remoteProgram, version: 1, procedure: procedure, kind: typeCall, serial: 1}, payload)
}

// opening is the payload of a call that opens a URI.
func opening(uri string) []byte {
	b := binary.BigEndian.AppendUint32(nil, 1)
	b = append(binary.BigEndian.AppendUint32(b, uint32(len(uri))), uri...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return binary.BigEndian.AppendUint32(b, 0)
}

// reply is an answer: code is libvirt's error number, or 0.
type reply struct {
	code    uint32
	message string
	payload []byte
}

// readReply reads one frame. io.EOF says that the daemon has closed the connection without a word.
func readReply(conn net.Conn) (reply, error) {
	if err := conn.SetReadDeadline(time.Now().Add(answerWait)); err != nil {
		return reply{}, err
	}
	var head [28]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return reply{}, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size < 28 || size > 33554432+4 {
		return reply{}, fmt.Errorf("frame of %d bytes", size)
	}
	payload := make([]byte, size-28)
	if _, err := io.ReadFull(conn, payload); err != nil {
		return reply{}, err
	}
	if binary.BigEndian.Uint32(head[24:]) == 0 {
		return reply{payload: payload}, nil
	}
	if len(payload) < 16 {
		return reply{}, errors.New("short error")
	}
	r := reply{code: binary.BigEndian.Uint32(payload)}
	n := min(int(binary.BigEndian.Uint32(payload[12:])), len(payload)-16)
	r.message = string(payload[16 : 16+n])
	return r, nil
}

// connect opens a bare connection, which is closed with the test.
func connect(t *testing.T, socket string) net.Conn {
	t.Helper()
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // The test may have closed it.
	return conn
}

// exchange sends frames and reads one answer.
func exchange(conn net.Conn, frames ...[]byte) (reply, error) {
	for _, f := range frames {
		if _, err := conn.Write(f); err != nil {
			return reply{}, err
		}
	}
	return readReply(conn)
}

// open opens a URI on a bare connection.
func open(t *testing.T, conn net.Conn, uri string) {
	t.Helper()
	for _, f := range [][]byte{call(procAuthList, nil), call(procOpen, opening(uri))} {
		if r, err := exchange(conn, f); err != nil || r.code != 0 {
			t.Fatalf("open %s: %v %d %s", uri, err, r.code, r.message)
		}
	}
}
