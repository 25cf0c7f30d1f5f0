// Package image reads from disk images what they are backed by, without QEMU.
//
// An image's content is the guest's, who may have written anything into it, so the format of an image is never guessed from what
// is in it: it is what the definition, or the image above it, says. A backing file whose format nobody names is taken as raw, and
// refused if it looks like anything else. Reads are bounded; functions keep nothing and are safe concurrently.
//
// The format of headers is public: https://www.qemu.org/docs/master/interop/qcow2.html
package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Names of formats as QEMU has them.
const (
	Raw   = "raw"
	QCOW2 = "qcow2"
)

// Errors that name what is wrong with an image.
var (
	ErrFormat    = errors.New("image is not of the format that it is said to be")
	ErrAmbiguous = errors.New("format of the backing image is not named, and it does not look raw")
	ErrProtocol  = errors.New("backing image is not a local file")
)

// Backing is the image below another.
type Backing struct {
	// Path is absolute.
	Path string
	// Format is QEMU's name of it.
	Format string
}

const (
	magic         = "QFI\xfb"
	fixedHeader   = 72
	longHeader    = 104
	maxName       = 1023
	maxExtensions = 64 << 10
	endOfExts     = 0
	formatExt     = 0xe2792aca
	maxFormatName = 64
)

// ReadBacking returns what the image at a path is backed by, or nil if by nothing. Formats other than qcow2 have no backing images
// that are read here.
func ReadBacking(path, format string) (*Backing, error) {
	if format != QCOW2 {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read image: %w", err)
	}
	defer f.Close()
	b, err := parse(f)
	if err != nil {
		return nil, fmt.Errorf("read image %q: %w", path, err)
	}
	if b == nil {
		return nil, nil
	}
	if !filepath.IsAbs(b.Path) {
		b.Path = filepath.Join(filepath.Dir(path), b.Path)
	}
	if b.Format == "" {
		if b.Format, err = unnamed(b.Path); err != nil {
			return nil, fmt.Errorf("read image %q: backing image %q: %w", path, b.Path, err)
		}
	}
	return b, nil
}

// parse reads the header of a qcow2 image. The path is as it stands in the image.
func parse(r io.ReaderAt) (*Backing, error) {
	header := make([]byte, longHeader)
	n, err := r.ReadAt(header, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if n < fixedHeader || string(header[:4]) != magic {
		return nil, ErrFormat
	}
	version, offset, size := binary.BigEndian.Uint32(header[4:]), binary.BigEndian.Uint64(header[8:]), binary.BigEndian.Uint32(header[16:])
	if version != 2 && version != 3 {
		return nil, fmt.Errorf("%w: version %d", ErrFormat, version)
	}
	if offset == 0 || size == 0 {
		return nil, nil
	}
	if size > maxName || offset > 1<<32 {
		return nil, fmt.Errorf("%w: name of backing image at %d has %d bytes", ErrFormat, offset, size)
	}
	name := make([]byte, size)
	if _, err := r.ReadAt(name, int64(offset)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	path, err := localPath(string(name))
	if err != nil {
		return nil, err
	}
	start := int64(fixedHeader)
	if version == 3 {
		if n < longHeader {
			return nil, ErrFormat
		}
		start = int64(binary.BigEndian.Uint32(header[100:]))
	}
	format, err := backingFormat(r, start, int64(offset))
	return &Backing{Path: path, Format: format}, err
}

// backingFormat looks for the extension that names the format of the backing image.
func backingFormat(r io.ReaderAt, at, end int64) (string, error) {
	end = min(end, at+maxExtensions)
	for at+8 <= end {
		var head [8]byte
		if _, err := r.ReadAt(head[:], at); err != nil {
			return "", fmt.Errorf("%w: %w", ErrFormat, err)
		}
		kind, size := binary.BigEndian.Uint32(head[:]), int64(binary.BigEndian.Uint32(head[4:]))
		at += 8
		switch {
		case kind == endOfExts:
			return "", nil
		case kind == formatExt:
			if size > maxFormatName {
				return "", fmt.Errorf("%w: name of a format has %d bytes", ErrFormat, size)
			}
			name := make([]byte, size)
			if _, err := r.ReadAt(name, at); err != nil {
				return "", fmt.Errorf("%w: %w", ErrFormat, err)
			}
			return strings.TrimRight(string(name), "\x00"), nil
		}
		at += (size + 7) &^ 7
	}
	return "", nil
}

// localPath refuses URLs and QEMU's JSON names: the guest's image must not choose what the host connects to.
func localPath(name string) (string, error) {
	name = strings.TrimPrefix(name, "file:")
	slash, colon := strings.IndexByte(name, '/'), strings.IndexByte(name, ':')
	if name == "" || strings.ContainsRune(name, 0) || (colon >= 0 && (slash < 0 || colon < slash)) {
		return "", fmt.Errorf("%w: %q", ErrProtocol, name)
	}
	return name, nil
}

// unnamed is the format of a backing image that nobody names.
func unnamed(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, 4)
	if _, err := io.ReadFull(f, head); err == nil && knownMagic[string(head)] {
		return "", ErrAmbiguous
	}
	return Raw, nil
}

// knownMagic are the beginnings of images that are not raw: qcow and qcow2, VMDK (two), QED, VHDX ("vhdxfile"), VHD ("conectix"),
// LUKS, and VirtualBox's VDI ("<<< ").
var knownMagic = map[string]bool{
	magic: true, "KDMV": true, "COWD": true, "QED\x00": true, "vhdx": true, "cone": true, "LUKS": true, "<<< ": true,
}
