package saveimage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

// The layout of our own files; numbers are big endian.
const (
	magicText = "LodgeSavedGuest\n"
	version   = 1
	// pageSize is what everything is aligned to, so that streams can go past the page cache.
	pageSize = 4096
	// preambleSize is the part of the first page that means something.
	preambleSize = 36
	// slotHeader is the size of a slot's header, which the definition follows.
	slotHeader = 128
	// slotRoom is how much a definition may grow at least.
	slotRoom = 64 << 10
	// maxXML is the largest definition in bytes, libvirt's REMOTE_STRING_MAX.
	maxXML = 4 << 20
	// maxSlot is the largest slot.
	maxSlot = slotHeader + maxXML + pageSize

	nameSize = 32
)

// Bits of a slot's flags.
const (
	flagRunning  = 1 << 0
	flagComplete = 1 << 1
)

var checksums = crc32.MakeTable(crc32.Castagnoli)

// layout says where things are in a file.
type layout struct {
	slotSize     int64
	streamOffset int64
}

// layoutFor leaves a definition room to grow.
func layoutFor(xml int) layout {
	return layoutOf(roundUp(min(int64(slotHeader+2*xml+slotRoom), maxSlot)))
}

func layoutOf(slot int64) layout { return layout{slotSize: slot, streamOffset: pageSize + 2*slot} }

func roundUp(n int64) int64 { return (n + pageSize - 1) / pageSize * pageSize }

// encode returns the preamble.
func (l layout) encode() []byte {
	b := append(make([]byte, 0, preambleSize), magicText...)
	b = binary.BigEndian.AppendUint32(b, version)
	b = binary.BigEndian.AppendUint32(b, uint32(l.slotSize))
	b = binary.BigEndian.AppendUint64(b, uint64(l.streamOffset))
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, checksums))
}

// decodeLayout reads a preamble whose magic was seen.
func decodeLayout(b []byte) (layout, error) {
	if v := binary.BigEndian.Uint32(b[16:]); v != version {
		return layout{}, fmt.Errorf("%w: version %d", ErrVersion, v)
	}
	if crc32.Checksum(b[:32], checksums) != binary.BigEndian.Uint32(b[32:]) {
		return layout{}, fmt.Errorf("%w: the checksum of its beginning is wrong", ErrCorrupt)
	}
	l := layoutOf(int64(binary.BigEndian.Uint32(b[20:])))
	if l.slotSize < pageSize || l.slotSize > roundUp(maxSlot) || l.slotSize%pageSize != 0 ||
		binary.BigEndian.Uint64(b[24:]) != uint64(l.streamOffset) {
		return layout{}, fmt.Errorf("%w: a header of %d bytes", ErrCorrupt, l.slotSize)
	}
	return l, nil
}

// slotOffset is the place of a header; sequence counts the headers that were written.
func (l layout) slotOffset(sequence uint64) int64 { return pageSize + int64(sequence%2)*l.slotSize }

// writeSlot writes the header into the slot that is not in use.
func (f *File) writeSlot() error {
	slot, err := f.encodeSlot(f.sequence + 1)
	if err != nil {
		return err
	}
	if room := min(f.layout.slotSize-slotHeader, maxXML); int64(len(f.Header.XML)) > room {
		return fmt.Errorf("%w: it has %d bytes, %d are possible", ErrTooLarge, len(f.Header.XML), room)
	}
	if _, err := f.file.WriteAt(slot, f.layout.slotOffset(f.sequence+1)); err != nil {
		return err
	}
	f.sequence++
	return nil
}

func (f *File) encodeSlot(sequence uint64) ([]byte, error) {
	h := &f.Header
	var flags uint32
	if h.Running {
		flags |= flagRunning
	}
	if f.complete {
		flags |= flagComplete
	}
	b := make([]byte, 0, slotHeader+len(h.XML))
	b = binary.BigEndian.AppendUint64(b, sequence)
	b = binary.BigEndian.AppendUint64(b, f.length)
	b = binary.BigEndian.AppendUint64(b, uint64(h.Saved.Unix()))
	b = binary.BigEndian.AppendUint32(b, flags)
	b = binary.BigEndian.AppendUint32(b, uint32(len(h.XML)))
	b = append(b, h.ID[:]...)
	for _, name := range []string{h.Driver, h.Format} {
		if len(name) >= nameSize || bytes.IndexByte([]byte(name), 0) >= 0 {
			return nil, fmt.Errorf("name %q has more than %d bytes, or a zero", name, nameSize-1)
		}
		b = append(b, name...)
		b = append(b, make([]byte, nameSize-len(name))...)
	}
	b = b[:slotHeader-4]
	sum := crc32.Update(crc32.Checksum(b, checksums), checksums, []byte(h.XML))
	b = binary.BigEndian.AppendUint32(b, sum)
	return append(b, h.XML...), nil
}

// readSlots takes the newest of the two headers that is good.
func (f *File) readSlots(from io.ReaderAt) error {
	var why error
	for n := range uint64(2) {
		s, err := readSlot(from, f.layout, n)
		if err != nil {
			why = errors.Join(why, err)
			continue
		}
		if s.sequence > f.sequence {
			f.Header, f.sequence, f.complete, f.length = s.Header, s.sequence, s.complete, s.length
		}
	}
	if f.sequence == 0 {
		return fmt.Errorf("%w: neither of its headers is good: %w", ErrCorrupt, why)
	}
	return nil
}

// readSlot reads the even or the odd header.
func readSlot(from io.ReaderAt, l layout, parity uint64) (*File, error) {
	slot := io.NewSectionReader(from, l.slotOffset(parity), l.slotSize)
	var b [slotHeader]byte
	if _, err := io.ReadFull(slot, b[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(b[28:])
	if int64(size) > min(l.slotSize-slotHeader, maxXML) {
		return nil, fmt.Errorf("a definition of %d bytes", size)
	}
	xml := make([]byte, size)
	if _, err := io.ReadFull(slot, xml); err != nil {
		return nil, err
	}
	sum := crc32.Update(crc32.Checksum(b[:slotHeader-4], checksums), checksums, xml)
	s := &File{
		sequence: binary.BigEndian.Uint64(b[0:]), length: binary.BigEndian.Uint64(b[8:]),
		complete: binary.BigEndian.Uint32(b[24:])&flagComplete != 0,
	}
	if sum != binary.BigEndian.Uint32(b[slotHeader-4:]) || s.sequence == 0 || s.sequence%2 != parity {
		return nil, errors.New("a wrong checksum")
	}
	s.Header = Header{
		ID: ID(b[32:48]), Driver: text(b[48 : 48+nameSize]), Format: text(b[80 : 80+nameSize]), XML: string(xml),
		Running: binary.BigEndian.Uint32(b[24:])&flagRunning != 0,
		Saved:   time.Unix(int64(binary.BigEndian.Uint64(b[16:])), 0),
	}
	return s, nil
}

// text is a name that zeros follow.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}
