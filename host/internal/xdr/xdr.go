// Package xdr encodes and decodes Go values in XDR (RFC 4506), as libvirt's wire protocol uses it.
//
// Go types map to XDR so:
//
//	struct                   its exported fields in order
//	string                   string
//	[]byte, [N]byte          variable and fixed opaque
//	bool, int8 to uint32     four bytes (libvirt's char and short are four bytes too, so [32]int8 takes 128)
//	int64, uint64, float64   eight bytes
//	[]T, [N]T                variable array with a count, fixed array
//	*T                       optional
//	[]T of a type named Opt* optional with at most one element, the way github.com/digitalocean/go-libvirt models it
//	struct{D uint32; I any}  the union in libvirt's typed parameters, see union.go
//
// A field's tag `xdr:"max=N"` bounds the bytes of a string or opaque and the elements of an array. Decoding trusts nothing: a count
// is checked against the bytes that are left before anything is allocated, so a hostile input makes the decoder allocate at most
// a small multiple of its own size.
//
// The work to understand a type is done once and kept. All functions are safe concurrently. Nothing that Unmarshal fills
// refers to its input. After an error the decoded value holds the fields that came before it.
package xdr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
)

const (
	// MaxString is the longest string accepted and produced, in bytes.
	MaxString = 4 << 20
	// MaxElements is the largest count of an array of anything but bytes without a tag that says otherwise.
	MaxElements = 262144
)

var (
	// ErrShort says that the input ends before the value does.
	ErrShort = errors.New("input ends within the value")
	// ErrLimit says that a length or count is above what is allowed.
	ErrLimit = errors.New("length is above the limit")
	// ErrInvalid says that the input is no encoding of the type.
	ErrInvalid = errors.New("invalid value")
	// ErrType says that a Go type has no place in XDR.
	ErrType = errors.New("type has no xdr encoding")
)

// Append appends the encoding of v, or of what v points to, to b. It fails with ErrType or ErrLimit, and then b is unchanged.
func Append(b []byte, v any) ([]byte, error) {
	if v == nil {
		return b, nil
	}
	val := reflect.ValueOf(v)
	if val.Kind() == reflect.Pointer {
		if val.IsNil() {
			return b, fmt.Errorf("encode %T: nil: %w", v, ErrType)
		}
		val = val.Elem()
	}
	p, err := planOf(val.Type())
	if err != nil {
		return b, fmt.Errorf("encode %T: %w", v, err)
	}
	out, err := p.enc(b, val)
	if err != nil {
		return b, fmt.Errorf("encode %T: %w", v, err)
	}
	return out, nil
}

// Unmarshal decodes into what v points to and returns the bytes behind the value. It fails with ErrShort, ErrLimit, ErrInvalid or
// ErrType.
func Unmarshal(b []byte, v any) (rest []byte, err error) {
	val := reflect.ValueOf(v)
	if val.Kind() != reflect.Pointer || val.IsNil() {
		return b, fmt.Errorf("decode %T: no pointer: %w", v, ErrType)
	}
	p, err := planOf(val.Type().Elem())
	if err != nil {
		return b, fmt.Errorf("decode %T: %w", v, err)
	}
	rest, err = p.dec(b, val.Elem())
	if err != nil {
		return b, fmt.Errorf("decode %T: %w", v, err)
	}
	return rest, nil
}

// AppendUint32 appends an unsigned int, an enum, a bool or, converted, an int.
func AppendUint32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }

// AppendUint64 appends an unsigned hyper.
func AppendUint64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }

// AppendString appends a string of at most MaxString bytes, or its first MaxString bytes.
func AppendString(b []byte, s string) []byte {
	if len(s) > MaxString {
		s = s[:MaxString]
	}
	b = AppendUint32(b, uint32(len(s)))
	b = append(b, s...)
	return pad(b, len(s))
}

// pad appends the zeros that fill n bytes up to a multiple of four.
func pad(b []byte, n int) []byte {
	var zero [3]byte
	return append(b, zero[:-n&3]...)
}

// Uint32At splits an unsigned int off, as Unmarshal does it, for hot paths that cannot afford reflection.
func Uint32At(b []byte) (v uint32, rest []byte, err error) { return uint32At(b) }

// uint32At splits four bytes off.
func uint32At(b []byte) (uint32, []byte, error) {
	if len(b) < 4 {
		return 0, b, ErrShort
	}
	return binary.BigEndian.Uint32(b), b[4:], nil
}

// uint64At splits eight bytes off.
func uint64At(b []byte) (uint64, []byte, error) {
	if len(b) < 8 {
		return 0, b, ErrShort
	}
	return binary.BigEndian.Uint64(b), b[8:], nil
}

// opaqueAt splits n bytes and their padding off. The result refers to b.
func opaqueAt(b []byte, n int) (data, rest []byte, err error) {
	padded := n + (-n & 3)
	if n < 0 || padded < n || padded > len(b) {
		return nil, b, ErrShort
	}
	return b[:n], b[padded:], nil
}
