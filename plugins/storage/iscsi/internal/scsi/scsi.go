// Package scsi reads what SCSI devices answer: lists of units, what they are, how big they are, and what they are called for good.
//
// All of it comes from a target or a device and is untrusted: lengths are checked against what was received, and what makes no sense is an
// error. Functions are pure and safe concurrently. The formats are those of SPC-4 (REPORT LUNS, INQUIRY), SBC-3 (READ CAPACITY) and
// SAM-5 (numbers of units).
package scsi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
)

// ErrShort says that an answer ends before what it should have.
var ErrShort = errors.New("answer is too short")

const (
	// lunSize is the size of an entry of REPORT LUNS in bytes.
	lunSize = 8
	// MaxListed bounds the units of one target.
	MaxListed = 1 << 14
	// ReportSize is the room that the answer to REPORT LUNS needs at most.
	ReportSize = lunSize * (1 + MaxListed)
)

// ParseLUNs returns the numbers in an answer to REPORT LUNS, ascending, as Linux and QEMU have them: the first two bytes of the address,
// so that number 256 of a flat space is 16640. Units that are addressed in other ways than by a number are left out.
func ParseLUNs(data []byte) ([]int, error) {
	if len(data) < lunSize {
		return nil, fmt.Errorf("list of units: %w", ErrShort)
	}
	size := uint64(binary.BigEndian.Uint32(data))
	list := data[lunSize:]
	if size < uint64(len(list)) {
		list = list[:size]
	}
	var all []int
	for len(list) >= lunSize {
		entry := list[:lunSize]
		list = list[lunSize:]
		if slices.ContainsFunc(entry[2:], func(b byte) bool { return b != 0 }) {
			continue // a unit behind another one
		}
		if isFlat := entry[0]>>6 == 1; isFlat || entry[0] == 0 {
			all = append(all, int(binary.BigEndian.Uint16(entry)))
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// IsDisk reports whether an answer to INQUIRY is that of a disk that is there.
func IsDisk(data []byte) (bool, error) {
	if len(data) < 1 {
		return false, fmt.Errorf("kind of unit: %w", ErrShort)
	}
	return data[0] == 0, nil // direct access, connected
}

// Capacity is the size of a disk.
type Capacity struct {
	// Blocks is how many there are.
	Blocks uint64
	// BlockSize is the size of one in bytes, a power of two from 512 to 1 MiB.
	BlockSize uint32
}

// Bytes is the size of the disk.
func (c Capacity) Bytes() uint64 { return c.Blocks * uint64(c.BlockSize) }

// ParseCapacity reads an answer to READ CAPACITY(16), which tells the last block and not how many there are.
func ParseCapacity(data []byte) (Capacity, error) {
	if len(data) < 12 {
		return Capacity{}, fmt.Errorf("capacity of unit: %w", ErrShort)
	}
	c := Capacity{Blocks: binary.BigEndian.Uint64(data) + 1, BlockSize: binary.BigEndian.Uint32(data[8:])}
	if c.BlockSize < 512 || c.BlockSize > 1<<20 || bits.OnesCount32(c.BlockSize) != 1 {
		return Capacity{}, fmt.Errorf("blocks of %d bytes cannot be used", c.BlockSize)
	}
	if high, size := bits.Mul64(c.Blocks, uint64(c.BlockSize)); c.Blocks == 0 || high != 0 || size>>63 != 0 {
		return Capacity{}, fmt.Errorf("a disk of %d blocks cannot be used", c.Blocks)
	}
	return c, nil
}

// Kinds of names in page 0x83 that belong to a unit, the best first, as scsi_id(8) prefers them.
var kinds = []byte{naa, eui64, vendorID}

const (
	vendorID = 1
	eui64    = 2
	naa      = 3
)

// ParseSerial returns what a unit is called for good, in the form that scsi_id(8) gives it, from its vital product data page 0x83; "" if it
// has no such name.
func ParseSerial(page []byte) string {
	if len(page) < 4 || page[1] != 0x83 {
		return ""
	}
	list := page[4:]
	if size := int(binary.BigEndian.Uint16(page[2:])); size < len(list) {
		list = list[:size]
	}
	found := map[byte]string{}
	for len(list) >= 4 {
		size := int(list[3])
		if len(list) < 4+size {
			break
		}
		code, kind, name := list[0]&0xf, list[1]&0xf, list[4:4+size]
		if ofUnit := list[1]>>4&3 == 0; ofUnit && size > 0 && found[kind] == "" {
			found[kind] = serial(code, kind, name)
		}
		list = list[4+size:]
	}
	for _, kind := range kinds {
		if s := found[kind]; s != "" {
			return s
		}
	}
	return ""
}

// serial prints a name: the digit of its kind, and then its bytes in hexadecimal, or as text with underscores for what is no letter.
func serial(code, kind byte, name []byte) string {
	const binaryCode = 1
	if code == binaryCode {
		return fmt.Sprintf("%d%x", kind, name)
	}
	text := slices.Clone(name)
	for len(text) > 0 && (text[len(text)-1] == 0 || text[len(text)-1] == ' ') {
		text = text[:len(text)-1]
	}
	var out []byte
	for _, b := range text {
		if b <= ' ' || b > '~' {
			if len(out) > 0 && out[len(out)-1] == '_' {
				continue
			}
			b = '_'
		}
		out = append(out, b)
	}
	return fmt.Sprintf("%d%s", kind, out)
}
