package journal

import (
	"encoding/binary"
	"hash/crc32"
	"sync/atomic"
	"unsafe"
)

const (
	// magic is how the file begins.
	magic = "LODGELK2"
	// headSize is the size of the file's head: magic and salt.
	headSize = 16
	// frameHead is the size of a frame's length and checksum. Frames begin at multiples of it.
	frameHead = 8
	// maxFrame bounds the content of a frame, in bytes.
	maxFrame = 8 << 20
)

// frameSize returns how much of the file a frame takes. A frame is a part of the file that counts as a whole or not at all: the length of
// its content, a checksum, and the content, which is entries; all numbers are the machine's. The length is written last, so that a
// frame that has one is complete. The checksum begins with the file's salt, so that nobody can make up a name that reads as a frame
// when the frame around it was damaged.
func frameSize(content int) int { return (frameHead + content + frameHead - 1) &^ (frameHead - 1) }

func sum(salt uint64, content []byte) uint32 {
	var head [12]byte
	binary.NativeEndian.PutUint64(head[:], salt)
	binary.NativeEndian.PutUint32(head[8:], uint32(len(content)))
	return crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, content)
}

// putFrame writes a frame at the start of b, which has room for it, is zero, and begins at a multiple of four in memory.
func putFrame(b []byte, salt uint64, content []byte) {
	copy(b[frameHead:], content)
	binary.NativeEndian.PutUint32(b[4:], sum(salt, content))
	// Whoever reads after a SIGKILL sees all that was stored before.
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&b[0])), uint32(len(content)))
}

// appendFrame appends a frame.
func appendFrame(b []byte, salt uint64, content []byte) []byte {
	start := len(b)
	b = append(b, make([]byte, frameSize(len(content)))...)
	binary.NativeEndian.PutUint32(b[start:], uint32(len(content)))
	binary.NativeEndian.PutUint32(b[start+4:], sum(salt, content))
	copy(b[start+frameHead:], content)
	return b
}

// getFrame returns the content of the frame at the start of b, if there is a sound one.
func getFrame(b []byte, salt uint64) ([]byte, bool) {
	if len(b) < frameHead {
		return nil, false
	}
	length := uint64(binary.NativeEndian.Uint32(b))
	if length == 0 || length > maxFrame || frameHead+length > uint64(len(b)) {
		return nil, false
	}
	content := b[frameHead : frameHead+length]
	return content, binary.NativeEndian.Uint32(b[4:]) == sum(salt, content)
}

// frames calls do for the content of each sound frame, and returns how many places were damaged, and where the next frame may be written:
// behind all that is not zero. A place that is all zero was never written, or was being written when the writer was killed.
func frames(b []byte, salt uint64, do func(content []byte)) (damaged, used int) {
	harm := false
	for at := 0; at < len(b); {
		content, ok := getFrame(b[at:], salt)
		if ok {
			if harm {
				damaged++
			}
			harm = false
			do(content)
			at += frameSize(len(content))
			used = at
			continue
		}
		for _, c := range b[at:min(at+frameHead, len(b))] {
			if c != 0 {
				harm, used = true, at+frameHead
			}
		}
		at += frameHead
	}
	if harm {
		damaged++
	}
	return damaged, used
}
