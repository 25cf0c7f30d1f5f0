// Package image reads the headers of disk images, for storage drivers and the core.
//
// Whatever is in a header was perhaps written by a guest: only sizes, features and names are read, bounded, and nothing that it names is
// opened. A format that a header states is what it looks like, not what it may be used as. Functions keep nothing and are safe
// concurrently.
package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Image is what the header of an image says; whatever it is was perhaps written by a guest.
type Image struct {
	// Format is libvirt's name: raw, qcow, qcow2, qed, vmdk, iso.
	Format string
	// Size is what a guest sees, in bytes; 0 if the header does not say it, as in raw images.
	Size uint64
	// Compat is the version of a qcow2 image as libvirt has it: "0.10" or "1.1".
	Compat string
	// ClusterSize of a qcow2 image in bytes.
	ClusterSize uint64
	// LazyRefcounts and ExtendedL2 are features of a qcow2 image.
	LazyRefcounts, ExtendedL2 bool
	// Encrypted says that the content is encrypted by LUKS: that of a qcow2 image, or all of it for the format "luks".
	Encrypted bool
	// Offset is where the content begins, in bytes, for encrypted volumes whose header says it; it is not a part of the size.
	Offset uint64
	// Backing is the path of the image below as the header has it, "" if there is none or its name is a URL. It is not opened.
	Backing string
	// BackingFormat is the format that the header gives the image below, "" if it gives none.
	BackingFormat string
}

// layout is where a format's header has the size that a guest sees.
type layout struct {
	magic, format string
	// offset of the size; unit is what it counts, in bytes.
	offset, unit uint64
	order        binary.ByteOrder
}

// layouts are the formats that are told apart by how they begin. Sources: docs/interop/qcow2.rst and docs/interop/qed_spec.rst of
// QEMU, and VMware's Virtual Disk Format 5.0 for sparse extents.
var layouts = []layout{
	{qcowMagic, "qcow2", 24, 1, binary.BigEndian},
	{"QED\x00", "qed", 48, 1, binary.LittleEndian},
	{"KDMV", "vmdk", 12, 512, binary.LittleEndian},
}

const (
	// headerSize is how much of an image is read at first.
	headerSize = 112
	// isoOffset is where an ISO 9660 image has its magic, see ECMA-119 8.4.
	isoOffset = 16*2048 + 1
	isoMagic  = "CD001"
	// qcowMagic begins qcow images.
	qcowMagic = "QFI\xfb"
	// Versions of qcow images: the first one is a format of its own.
	qcow1, qcow2, qcow3 = 1, 2, 3
	// The longest names that the format allows, and how far extensions are read, in bytes.
	maxBackingName = 1023
	maxFormatName  = 64
	maxExtensions  = 64 << 10
	// Extensions of a qcow2 header.
	extensionEnd    = 0
	extensionFormat = 0xe2792aca
	// Cluster sizes are powers of two with exponents in this range.
	minClusterBits, maxClusterBits = 9, 21
)

// Parse reads an image's header. What is no known format, or begins like one and contradicts it, is raw. It fails only if reading does.
func Parse(r io.ReaderAt) (Image, error) {
	head, err := readUpTo(r, headerSize, 0)
	if err != nil {
		return Image{}, err
	}
	for _, l := range layouts {
		if !strings.HasPrefix(string(head), l.magic) || len(head) < int(l.offset)+8 {
			continue
		}
		size := l.order.Uint64(head[l.offset:])
		if size > math.MaxInt64/l.unit {
			break
		}
		img := Image{Format: l.format, Size: size * l.unit}
		if l.format != "qcow2" {
			return img, nil
		}
		return img.qcow(r, head)
	}
	if strings.HasPrefix(string(head), luksMagic) {
		return luks(head), nil
	}
	iso, err := readUpTo(r, len(isoMagic), isoOffset)
	if err != nil {
		return Image{}, err
	}
	if string(iso) == isoMagic {
		return Image{Format: "iso"}, nil
	}
	return Image{Format: "raw"}, nil
}

// luksMagic begins a LUKS volume; see the LUKS1 On-Disk Format Specification, 2.
const luksMagic = "LUKS\xba\xbe"

// luks reads the header of a LUKS volume.
func luks(head []byte) Image {
	const sector, payload = 512, 104
	img := Image{Format: "raw"}
	if len(head) < payload+4 || head[6] != 0 || head[7] < 1 || head[7] > 2 {
		return img
	}
	img.Encrypted = true
	if head[7] == 1 {
		img.Offset = uint64(binary.BigEndian.Uint32(head[payload:])) * sector
	}
	return img
}

// readUpTo reads so many bytes, or fewer where the image ends.
func readUpTo(r io.ReaderAt, size int, at int64) ([]byte, error) {
	b := make([]byte, size)
	n, err := r.ReadAt(b, at)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %d bytes at %d: %w", size, at, err)
	}
	return b[:n], nil
}

// qcow reads the rest of the header of a qcow or qcow2 image.
func (img Image) qcow(r io.ReaderAt, head []byte) (Image, error) {
	if binary.BigEndian.Uint32(head[4:]) == qcow1 {
		img.Format = "qcow"
		return img, nil
	}
	q, err := parseQCOW2(head)
	if err != nil {
		return Image{Format: "raw"}, nil
	}
	img.Compat = "0.10"
	if q.version == qcow3 {
		img.Compat = "1.1"
		img.ExtendedL2 = binary.BigEndian.Uint64(head[72:])&(1<<4) != 0
		img.LazyRefcounts = binary.BigEndian.Uint64(head[80:])&1 != 0
	}
	const cryptLUKS = 2
	img.Encrypted = binary.BigEndian.Uint32(head[32:]) == cryptLUKS
	img.ClusterSize = q.clusterSize
	below, err := q.below(r)
	if err != nil && !errors.Is(err, ErrFormat) {
		return img, err
	}
	// A name that is broken or cannot be told is as good as none.
	if printable(below.Name) && !hasProtocol(below.Name) {
		img.Backing, img.BackingFormat = below.Name, knownFormat(below.Format)
	}
	return img, nil
}

// backingFormats are the names that may be told on.
var backingFormats = map[string]bool{"raw": true, "qcow": true, "qcow2": true, "qed": true, "vmdk": true}

func knownFormat(name string) string {
	if backingFormats[name] {
		return name
	}
	return ""
}

// hasProtocol reports whether QEMU would take a name for a URL or a description, not for a path.
func hasProtocol(name string) bool {
	colon, slash := strings.IndexByte(name, ':'), strings.IndexByte(name, '/')
	return colon >= 0 && (slash < 0 || colon < slash)
}

// printable reports whether a name can be told in XML and in a table.
func printable(name string) bool {
	return name != "" && utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl) &&
		!strings.ContainsFunc(name, func(r rune) bool { return r == utf8.RuneError || r == '\uFFFE' || r == '\uFFFF' })
}
