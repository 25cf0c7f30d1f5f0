// Package saveimage is the file of a saved guest: a header with the guest's definition and with what a restore has to know, and
// the stream of a driver's, which is opaque here. The layout is described in docs/save-format.md.
//
// A file that Create has made is incomplete until Finish has returned, and Open refuses one that is. A header is written twice over: an
// update goes to the slot that is not in use, so that a crash in the middle leaves the old one good. Whoever opens a file owns its
// File and closes it. A File is used by one goroutine; different Files may be of one path, of which one at a time may be open
// for an update, and none while another is open for that.
//
// Files of libvirt's qemu driver can be read too, and not changed.
package saveimage

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Errors that callers tell apart.
var (
	// ErrNotImage means that a file is something else.
	ErrNotImage = errors.New("file is no image of a saved guest")
	// ErrIncomplete means that a save was cut off.
	ErrIncomplete = errors.New("save image is incomplete")
	// ErrCorrupt means that a file was a good image once.
	ErrCorrupt = errors.New("save image is corrupt")
	// ErrVersion means that a newer version, or a feature that is not known here, has made the file.
	ErrVersion = errors.New("save image has a layout that is not supported")
	// ErrTooLarge means that a new definition has no room in the file.
	ErrTooLarge = errors.New("definition has no room in the save image")
	// ErrBusy means that somebody else reads or changes the file.
	ErrBusy = errors.New("save image is in use")
	// ErrForeign means that a file of libvirt's was to be changed.
	ErrForeign = errors.New("save image was made by libvirt and can only be read")
)

// ID names one save.
type ID [16]byte

// Header is what is known of a saved guest.
type Header struct {
	// ID is zero for a foreign file.
	ID ID
	// Driver is the name of the driver that has written the stream, at most 31 bytes.
	Driver string
	// Format is the driver's name of what it has written, at most 31 bytes.
	Format string
	// Running says that the guest is to run when it is restored.
	Running bool
	// Saved is when the save began, in whole seconds.
	Saved time.Time
	// XML is the definition to start the guest with, secrets included.
	XML string
}

// File is an open image.
type File struct {
	// Header is that of the file.
	Header Header
	// Foreign says that libvirt has made the file.
	Foreign bool

	file     *os.File
	layout   layout
	sequence uint64
	complete bool
	length   uint64 // of the stream
}

// Create makes a file, which must not exist, with a header and no stream yet. Only its owner may read it.
func Create(path string, h *Header) (*File, error) {
	f := &File{Header: *h, layout: layoutFor(len(h.XML))}
	var err error
	if f.file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return nil, fmt.Errorf("make save image: %w", err)
	}
	if err := f.begin(); err != nil {
		return nil, errors.Join(fmt.Errorf("make save image: %w", err), f.Close(), os.Remove(path))
	}
	return f, nil
}

func (f *File) begin() error {
	if _, err := f.file.WriteAt(f.layout.encode(), 0); err != nil {
		return err
	}
	if err := f.writeSlot(); err != nil {
		return err
	}
	if err := f.file.Truncate(f.layout.streamOffset); err != nil {
		return err
	}
	_, err := f.file.Seek(f.layout.streamOffset, io.SeekStart)
	return err
}

// Writer is the open file, at the place where the stream begins. Its descriptor may be handed on; the File keeps its own.
func (f *File) Writer() *os.File { return f.file }

// Finish marks the file complete, with a stream of a format that ends where the file does, and returns when all is on disk.
func (f *File) Finish(format string) error {
	info, err := f.file.Stat()
	if err != nil {
		return fmt.Errorf("finish save image: %w", err)
	}
	if info.Size() < f.layout.streamOffset {
		return fmt.Errorf("finish save image: %w: it has %d bytes", ErrCorrupt, info.Size())
	}
	// What the header says must not be on disk before it is true.
	if err := f.file.Sync(); err != nil {
		return fmt.Errorf("finish save image: %w", err)
	}
	f.Header.Format, f.complete, f.length = format, true, uint64(info.Size()-f.layout.streamOffset)
	if err := f.writeSlot(); err != nil {
		return fmt.Errorf("finish save image: %w", err)
	}
	if err := f.file.Sync(); err != nil {
		return fmt.Errorf("finish save image: %w", err)
	}
	return nil
}

// Open opens a complete image to be read. It stays good for this File while it is open, even if it is removed.
func Open(path string) (*File, error) { return open(path, os.O_RDONLY, unix.LOCK_SH) }

// OpenUpdate opens a complete image whose header is to be changed.
func OpenUpdate(path string) (*File, error) { return open(path, os.O_RDWR, unix.LOCK_EX) }

func open(path string, mode, lock int) (*File, error) {
	file, err := os.OpenFile(path, mode|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open save image: %w", err)
	}
	f := &File{file: file}
	if err := f.load(lock); err != nil {
		return nil, errors.Join(fmt.Errorf("open save image %q: %w", path, err), file.Close())
	}
	return f, nil
}

func (f *File) load(lock int) error {
	if err := unix.Flock(int(f.file.Fd()), lock|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return ErrBusy
		}
		return fmt.Errorf("lock it: %w", err)
	}
	if err := f.parse(); err != nil {
		return err
	}
	if f.Foreign && lock == unix.LOCK_EX {
		return ErrForeign
	}
	return nil
}

func (f *File) parse() error {
	info, err := f.file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: it is no regular file", ErrNotImage)
	}
	return f.read(f.file, info.Size())
}

// read parses a file of a size.
func (f *File) read(from io.ReaderAt, size int64) error {
	var start [preambleSize]byte
	n, err := from.ReadAt(start[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch string(start[:min(n, len(magicText))]) {
	case magicText:
	case foreignMagic:
		return f.readForeign(from, size)
	case foreignPartial:
		return ErrIncomplete
	default:
		return ErrNotImage
	}
	if n < preambleSize {
		return fmt.Errorf("%w: it is cut off", ErrCorrupt)
	}
	if f.layout, err = decodeLayout(start[:]); err != nil {
		return err
	}
	if err := f.readSlots(from); err != nil {
		return err
	}
	switch {
	case !f.complete:
		return ErrIncomplete
	case size < f.layout.streamOffset || uint64(size-f.layout.streamOffset) < f.length:
		return fmt.Errorf("%w: it is cut off: it has %d bytes of %d", ErrCorrupt, size, uint64(f.layout.streamOffset)+f.length)
	}
	return nil
}

// Identify reads which save has made a complete file, whoever reads or changes it just now. Errors are those of Open but ErrBusy.
func Identify(path string) (ID, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return ID{}, fmt.Errorf("identify save image: %w", err)
	}
	defer file.Close()
	f := &File{file: file}
	if err := f.parse(); err != nil {
		return ID{}, fmt.Errorf("identify save image %q: %w", path, err)
	}
	return f.Header.ID, nil
}

// Update replaces the header; it is on disk when Update returns, and either the old or the new one is good at any moment.
func (f *File) Update(h *Header) error {
	before := f.Header
	f.Header = *h
	f.Header.ID, f.Header.Driver, f.Header.Format, f.Header.Saved = before.ID, before.Driver, before.Format, before.Saved
	if err := f.writeSlot(); err != nil {
		f.Header = before
		return fmt.Errorf("change save image: %w", err)
	}
	if err := f.file.Sync(); err != nil {
		return fmt.Errorf("change save image: %w", err)
	}
	return nil
}

// Stream opens the file anew, at the beginning of the stream, so that it can be read more than once.
func (f *File) Stream() (*os.File, error) {
	file, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.file.Fd()))
	if err != nil {
		return nil, fmt.Errorf("read save image: %w", err)
	}
	if _, err := file.Seek(f.layout.streamOffset, io.SeekStart); err != nil {
		return nil, errors.Join(fmt.Errorf("read save image: %w", err), file.Close())
	}
	return file, nil
}

// Aligned reports whether the stream begins where it can be read without the page cache.
func (f *File) Aligned() bool { return f.layout.streamOffset%pageSize == 0 }

// Close closes the file.
func (f *File) Close() error { return f.file.Close() }
