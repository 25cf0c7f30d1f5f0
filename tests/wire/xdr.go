package wire

import (
	"encoding/binary"
	"errors"
)

// errShort says that an encoding ends too soon.
var errShort = errors.New("encoding ends too soon")

// Uint32 appends an unsigned integer as XDR (RFC 4506).
func Uint32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }

// Uint64 appends an unsigned hyper integer.
func Uint64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }

// Bool appends a boolean.
func Bool(b []byte, v bool) []byte {
	if v {
		return Uint32(b, 1)
	}
	return Uint32(b, 0)
}

// String appends a string.
func String(b []byte, s string) []byte {
	b = append(Uint32(b, uint32(len(s))), s...)
	return append(b, make([]byte, padding(len(s)))...)
}

// padding is how many zeros follow n bytes.
func padding(n int) int { return -n & 3 }

// Reader reads XDR. After the first error everything is zero.
type Reader struct {
	// Rest is what has not been read.
	Rest []byte
	// Err is the first error.
	Err error
}

// Fixed reads n bytes without a length. What it returns is the reader's.
func (r *Reader) Fixed(n int) []byte {
	whole := n + padding(n)
	if r.Err == nil && (n < 0 || len(r.Rest) < whole) {
		r.Err = errShort
	}
	if r.Err != nil {
		return nil
	}
	b := r.Rest[:n]
	r.Rest = r.Rest[whole:]
	return b
}

// Uint32 reads an unsigned integer.
func (r *Reader) Uint32() uint32 {
	if b := r.Fixed(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// Uint64 reads an unsigned hyper integer.
func (r *Reader) Uint64() uint64 {
	if b := r.Fixed(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// Bool reads a boolean.
func (r *Reader) Bool() bool { return r.Uint32() != 0 }

// String reads a string.
func (r *Reader) String() string { return string(r.Fixed(int(r.Uint32()))) }

// Count reads the length of a list whose elements take at least size bytes each, so that nothing is promised that is not there.
func (r *Reader) Count(size int) int {
	n := int(r.Uint32())
	if r.Err == nil && n > len(r.Rest)/size {
		r.Err = errShort
	}
	if r.Err != nil {
		return 0
	}
	return n
}
