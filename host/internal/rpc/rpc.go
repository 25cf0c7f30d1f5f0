// Package rpc is the framing of libvirt's RPC protocol, for the door and for the lock daemon: frames with their header, file
// descriptors and error payloads, and buffered bounded reading and writing of them.
//
// A Reader belongs to one goroutine; a Writer may be used by many. The connection belongs to whoever made it: neither closes it,
// but after an error of either it is of no further use. A peer can make a Reader hold at most what it really sent of one
// frame, and a Writer at most its buffer; a peer that does not read for the Writer's timeout makes every Send fail.
//
// Facts are from libvirt's public documentation of its RPC protocol (https://libvirt.org/kbase/internals/rpc.html).
package rpc

import (
	"encoding/binary"
	"errors"
)

// Type says what a frame is.
type Type uint32

// Types of frames.
const (
	Call         Type = 0
	Reply        Type = 1
	Message      Type = 2
	Stream       Type = 3
	CallWithFDs  Type = 4
	ReplyWithFDs Type = 5
	StreamHole   Type = 6
)

// Status says how a call or a stream fares.
type Status uint32

// Statuses of frames; a Call carries OK.
const (
	OK       Status = 0
	Failed   Status = 1
	Continue Status = 2
)

const (
	// lengthSize is the size of the length word, which counts itself.
	lengthSize = 4
	// HeaderSize is the size of an encoded Header in bytes.
	HeaderSize = 24
	// MaxMessage is the largest frame in bytes without its length word.
	MaxMessage = 33554432
	// MaxPayload is the largest payload in bytes.
	MaxPayload = MaxMessage - HeaderSize
	// MaxFDs is the largest number of descriptors that one frame carries.
	MaxFDs = 32
)

// Keepalive is the program of pings; its messages carry serial 0 and no payload.
const (
	KeepaliveProgram uint32 = 0x6b656570
	KeepaliveVersion uint32 = 1
	KeepalivePing    int32  = 1
	KeepalivePong    int32  = 2
)

var (
	// ErrFrame says that the peer sent something that is no frame; the connection must be closed without an answer.
	ErrFrame = errors.New("malformed frame")
	// ErrTooLarge says that a payload to be sent is above MaxPayload; nothing was sent.
	ErrTooLarge = errors.New("payload is too large")
	// ErrFDs says that descriptors were announced that did not come, or that the connection cannot carry any.
	ErrFDs = errors.New("descriptors missing")
)

// Header is what every frame begins with.
type Header struct {
	Program   uint32
	Version   uint32
	Procedure int32
	Type      Type
	Serial    uint32
	Status    Status
}

// Answer returns the header of a reply to a call.
func (h Header) Answer(status Status) Header {
	h.Type, h.Status = Reply, status
	return h
}

// Append appends the encoded header.
func (h Header) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, h.Program)
	b = binary.BigEndian.AppendUint32(b, h.Version)
	b = binary.BigEndian.AppendUint32(b, uint32(h.Procedure))
	b = binary.BigEndian.AppendUint32(b, uint32(h.Type))
	b = binary.BigEndian.AppendUint32(b, h.Serial)
	return binary.BigEndian.AppendUint32(b, uint32(h.Status))
}

// parseHeader decodes a header from at least HeaderSize bytes. Any value is accepted: it is the caller who judges.
func parseHeader(b []byte) Header {
	return Header{
		Program:   binary.BigEndian.Uint32(b),
		Version:   binary.BigEndian.Uint32(b[4:]),
		Procedure: int32(binary.BigEndian.Uint32(b[8:])),
		Type:      Type(binary.BigEndian.Uint32(b[12:])),
		Serial:    binary.BigEndian.Uint32(b[16:]),
		Status:    Status(binary.BigEndian.Uint32(b[20:])),
	}
}

// frameSize reads a length word and returns the size of the whole frame, or false if there can be no such frame.
func frameSize(word uint32) (int, bool) {
	if word < lengthSize+HeaderSize || word-lengthSize > MaxMessage {
		return 0, false
	}
	return int(word), true
}

// withFDs reports whether frames of the type carry descriptors.
func (t Type) withFDs() bool { return t == CallWithFDs || t == ReplyWithFDs }
