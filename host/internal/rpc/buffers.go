package rpc

import "sync"

// Buffers of two sizes in bytes are used again and again, so that a connection on which large frames come costs no new memory for
// each: middle, and large, which holds a frame of a stream at its largest.
const (
	middle = 64 << 10
	large  = 320 << 10
)

var (
	middles = sync.Pool{New: func() any { return new([middle]byte) }}
	larges  = sync.Pool{New: func() any { return new([large]byte) }}
)

// Buffer returns a buffer of at least n bytes with what others have left in it. Release may take it back.
func Buffer(n int) []byte {
	switch {
	case n <= middle:
		return middles.Get().(*[middle]byte)[:]
	case n <= large:
		return larges.Get().(*[large]byte)[:]
	}
	return make([]byte, n)
}

// Release gives a buffer of Buffer back, whatever part of it b is as long as it begins where that began. Nobody may use it then.
func Release(b []byte) {
	switch cap(b) {
	case middle:
		middles.Put((*[middle]byte)(b[:middle]))
	case large:
		larges.Put((*[large]byte)(b[:large]))
	}
}
