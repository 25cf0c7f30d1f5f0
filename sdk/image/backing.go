package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrFormat says that an image is no qcow2 image, or one that is broken.
var ErrFormat = errors.New("image is not of the format that it is said to be")

// Below is what a qcow2 image says of the image below it. Both may be anything that a guest can write.
type Below struct {
	// Name is as it stands in the header: a path that is absolute or as seen from the image, a URL, or one of QEMU's descriptions. It is ""
	// if there is no image below, and at most 1023 bytes.
	Name string
	// Format is as it stands in the header, "" if it does not stand there, and at most 64 bytes.
	Format string
}

// Backing reads what a qcow2 image says of the image below it, for those who are to open that. It takes no part of a header for another:
// what is not as it has to be is ErrFormat.
func Backing(r io.ReaderAt) (Below, error) {
	head, err := readUpTo(r, headerSize, 0)
	if err != nil {
		return Below{}, err
	}
	if !strings.HasPrefix(string(head), qcowMagic) {
		return Below{}, ErrFormat
	}
	q, err := parseQCOW2(head)
	if err != nil {
		return Below{}, err
	}
	return q.below(r)
}

// qcow2Header is what all versions of qcow2 have.
type qcow2Header struct {
	version     uint32
	clusterSize uint64
	// Where the name of the image below stands, in bytes; both are 0 if there is none.
	nameOffset uint64
	nameSize   uint32
	// extensions is where they begin, in bytes.
	extensions int64
}

// parseQCOW2 reads the beginning of a header, whose magic is known.
func parseQCOW2(head []byte) (qcow2Header, error) {
	const size2, size3 = 72, 104
	if len(head) < size2 {
		return qcow2Header{}, fmt.Errorf("%w: header has %d bytes", ErrFormat, len(head))
	}
	q := qcow2Header{
		version: binary.BigEndian.Uint32(head[4:]), nameOffset: binary.BigEndian.Uint64(head[8:]),
		nameSize: binary.BigEndian.Uint32(head[16:]), extensions: size2,
	}
	switch q.version {
	case qcow2:
	case qcow3:
		if len(head) < size3 {
			return qcow2Header{}, fmt.Errorf("%w: header has %d bytes", ErrFormat, len(head))
		}
		q.extensions = int64(binary.BigEndian.Uint32(head[100:]))
	default:
		return qcow2Header{}, fmt.Errorf("%w: version %d", ErrFormat, q.version)
	}
	bits := binary.BigEndian.Uint32(head[20:])
	if bits < minClusterBits || bits > maxClusterBits {
		return qcow2Header{}, fmt.Errorf("%w: clusters of 2^%d bytes", ErrFormat, bits)
	}
	q.clusterSize = 1 << bits
	return q, nil
}

// below reads what stands there of the image below. Beside ErrFormat it returns what it could read before.
func (q *qcow2Header) below(r io.ReaderAt) (Below, error) {
	if q.nameOffset == 0 || q.nameSize == 0 {
		return Below{}, nil
	}
	if q.nameSize > maxBackingName || q.nameOffset > q.clusterSize {
		return Below{}, fmt.Errorf("%w: name of backing image at %d has %d bytes", ErrFormat, q.nameOffset, q.nameSize)
	}
	name, err := readUpTo(r, int(q.nameSize), int64(q.nameOffset))
	if err != nil {
		return Below{}, err
	}
	if len(name) < int(q.nameSize) {
		return Below{}, fmt.Errorf("%w: it ends within the name of its backing image", ErrFormat)
	}
	b := Below{Name: string(name)}
	b.Format, err = q.format(r)
	return b, err
}

// format looks for the extension that names the format of the image below.
func (q *qcow2Header) format(r io.ReaderAt) (string, error) {
	at := q.extensions
	for end := min(int64(q.nameOffset), at+maxExtensions); at+8 <= end; {
		head, err := readUpTo(r, 8, at)
		if err != nil {
			return "", err
		}
		if len(head) < 8 {
			return "", fmt.Errorf("%w: it ends within its header", ErrFormat)
		}
		kind, size := binary.BigEndian.Uint32(head), int64(binary.BigEndian.Uint32(head[4:]))
		at += 8
		switch {
		case kind == extensionEnd:
			return "", nil
		case kind == extensionFormat && size > maxFormatName:
			return "", fmt.Errorf("%w: name of a format has %d bytes", ErrFormat, size)
		case kind == extensionFormat:
			name, err := readUpTo(r, int(size), at)
			if err == nil && len(name) < int(size) {
				err = fmt.Errorf("%w: it ends within the name of a format", ErrFormat)
			}
			return strings.TrimRight(string(name), "\x00"), err
		}
		at += (size + 7) &^ 7
	}
	return "", nil
}
