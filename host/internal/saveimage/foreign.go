package saveimage

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// The header of a file of libvirt's qemu driver, as it is found in such files: magic, then 32-bit numbers in the byte order of
// the machine (version, size of what follows the header, whether the guest ran, compression, place of a cookie), 92 bytes in all.
// The definition follows, ended by a zero, and after it and its padding the stream of QEMU.
const (
	foreignMagic   = "LibvirtQemudSave"
	foreignPartial = "LibvirtQemudPart"
	foreignHeader  = 92
	foreignVersion = 2
	foreignDriver  = "qemu"
	// maxForeign bounds the definition with its padding.
	maxForeign = 8 << 20
)

// foreignFormats are libvirt's compressions by number, in the words of our own driver where it has one.
var foreignFormats = []string{"raw", "gzip", "bzip2", "xz", "lzop"}

// readForeign parses a file of libvirt's.
func (f *File) readForeign(from io.ReaderAt, size int64) error {
	var b [foreignHeader]byte
	if _, err := from.ReadAt(b[:], 0); err != nil {
		return fmt.Errorf("%w: it is cut off: %w", ErrCorrupt, err)
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if order.Uint32(b[16:]) > 1<<16 {
		order = binary.BigEndian
	}
	if v := order.Uint32(b[16:]); v != foreignVersion {
		return fmt.Errorf("%w: version %d of libvirt's", ErrVersion, v)
	}
	data, compression := int64(order.Uint32(b[20:])), order.Uint32(b[28:])
	if int(compression) >= len(foreignFormats) {
		return fmt.Errorf("%w: compression %d of libvirt's", ErrVersion, compression)
	}
	offset := foreignHeader + data
	if data > maxForeign || offset > size {
		return fmt.Errorf("%w: a definition of %d bytes in a file of %d", ErrCorrupt, data, size)
	}
	xml := make([]byte, data)
	if _, err := io.ReadFull(io.NewSectionReader(from, foreignHeader, data), xml); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	xml, _, ended := bytes.Cut(xml, []byte{0})
	if !ended || len(xml) > maxXML {
		return fmt.Errorf("%w: a definition of more than %d bytes", ErrCorrupt, len(xml))
	}
	f.Foreign, f.complete = true, true
	f.layout.streamOffset, f.length = offset, uint64(size-offset)
	f.Header = Header{
		Driver: foreignDriver, Format: foreignFormats[compression], Running: order.Uint32(b[24:]) != 0, XML: string(xml),
	}
	return nil
}
