// Package image reads from disk images what they are backed by, without QEMU.
//
// An image's content is the guest's, who may have written anything into it, so the format of an image is never guessed from what
// is in it: it is what the definition, or the image above it, says. A backing file whose format nobody names is taken as raw, and
// refused if it looks like anything else. Reads are bounded; functions keep nothing and are safe concurrently.
package image

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/lodgevirt/lodge/sdk/image"
)

// Names of formats as QEMU has them.
const (
	Raw   = "raw"
	QCOW2 = "qcow2"
)

// Errors that name what is wrong with an image.
var (
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
	below, err := image.Backing(r)
	if err != nil || below.Name == "" {
		return nil, err
	}
	path, err := localPath(below.Name)
	if err != nil {
		return nil, err
	}
	return &Backing{Path: path, Format: below.Format}, nil
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
	"QFI\xfb": true, "KDMV": true, "COWD": true, "QED\x00": true, "vhdx": true, "cone": true, "LUKS": true, "<<< ": true,
}
