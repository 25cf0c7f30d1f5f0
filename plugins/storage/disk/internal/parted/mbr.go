package parted

import (
	"encoding/binary"
	"io"
)

// The partition table of a PC's disk: four entries in the first sector, and for logical partitions a chain of such tables, each with the
// partition that follows it and the next table. See https://en.wikipedia.org/wiki/Master_boot_record and
// https://en.wikipedia.org/wiki/Extended_boot_record.
const (
	msdos      = "msdos"
	maxPrimary = 4
	// maxLogical bounds how many tables are read.
	maxLogical = 1024

	tableAt   = 446
	entrySize = 16
	codeAt    = 4
	startAt   = 8
	magicAt   = 510
	magic     = 0xaa55
)

// extendedCode reports whether a kind of partition has others in it.
func extendedCode(code byte) bool { return code == 0x05 || code == 0x0f || code == 0x85 }

// entry is a part of a table: a kind, and where it begins in sectors from a place that its table states.
type entry struct {
	code  byte
	start uint64
}

// entries reads one table; none is no error.
func entries(r io.ReaderAt, at uint64) ([maxPrimary]entry, error) {
	var all [maxPrimary]entry
	var block [magicAt + 2]byte
	if _, err := r.ReadAt(block[:], int64(at)); err != nil {
		return all, err
	}
	if binary.LittleEndian.Uint16(block[magicAt:]) != magic {
		return all, nil
	}
	for n := range all {
		e := block[tableAt+n*entrySize:]
		all[n] = entry{e[codeAt], uint64(binary.LittleEndian.Uint32(e[startAt:]))}
	}
	return all, nil
}

// codes returns the kinds of all partitions by where they begin, in bytes. What a damaged chain leads to is left out.
func codes(r io.ReaderAt, sector uint64) (map[uint64]byte, error) {
	primary, err := entries(r, 0)
	if err != nil {
		return nil, err
	}
	found := map[uint64]byte{}
	for _, e := range primary {
		if e.code == 0 {
			continue
		}
		found[e.start*sector] = e.code
		if !extendedCode(e.code) {
			continue
		}
		at := e.start
		for range maxLogical {
			chain, err := entries(r, at*sector)
			if err != nil {
				break
			}
			if chain[0].code != 0 {
				found[(at+chain[0].start)*sector] = chain[0].code
			}
			if !extendedCode(chain[1].code) {
				break
			}
			at = e.start + chain[1].start
		}
	}
	return found, nil
}
