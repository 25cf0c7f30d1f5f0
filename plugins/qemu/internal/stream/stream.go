// Package stream carries the state of a guest between the pipe that QEMU writes or reads and a file, compressed or not, through the
// host's page cache or past it.
//
// A copy owns neither side; who made them closes them, which also is how a copy is ended early: a pipe that is closed ends it. A
// copy to a file returns when the file is synced. Each call uses goroutines of a compression only while it runs.
package stream

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// Formats of a file.
const (
	Raw  = "raw"
	Gzip = "gzip"
	Zstd = "zstd"
)

// Formats lists the formats that can be written and read.
func Formats() []string { return []string{Raw, Gzip, Zstd} }

// Known reports whether a format can be written and read.
func Known(format string) bool { return format == Raw || format == Gzip || format == Zstd }

// ErrDirect means that a file cannot be used past the page cache.
var ErrDirect = errors.New("the file system cannot bypass the page cache")

// chunk is how much is moved at a time, in bytes.
const chunk = 1 << 20

// maxWindow bounds the memory that reading a zstd stream takes.
const maxWindow = 128 << 20

// Copy is one copy.
type Copy struct {
	// Format is that of the file.
	Format string
	// Direct says to bypass the page cache.
	Direct bool

	moved atomic.Uint64
}

// Moved is how many bytes of the guest's state were moved so far; it may be read meanwhile.
func (c *Copy) Moved() uint64 { return c.moved.Load() }

// Save copies from QEMU's pipe into a file, from its present offset on, which is a multiple of 4096 for a direct copy, until the pipe
// is closed on its other side.
func (c *Copy) Save(file *os.File, from io.Reader) error {
	sink, err := c.sink(file)
	if err != nil {
		return err
	}
	encoder, err := c.encoder(sink)
	if err != nil {
		return errors.Join(fmt.Errorf("write state of guest: %w", err), sink.Close())
	}
	err = c.move(encoder, from)
	if cerr := errors.Join(encoder.Close(), sink.Close()); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write state of guest: %w", plain(err))
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("write state of guest: %w", err)
	}
	return nil
}

// Restore copies a file, from its present offset on, into QEMU's pipe. A reader that has all that it wants, and closes the pipe before the
// end of the file, is no error.
func (c *Copy) Restore(to io.Writer, file *os.File) error {
	source, err := c.source(file)
	if err != nil {
		return err
	}
	decoder, err := c.decoder(source)
	if err != nil {
		return errors.Join(fmt.Errorf("read state of guest: %w", err), source.Close())
	}
	err = c.move(to, decoder)
	if errors.Is(err, unix.EPIPE) {
		err = nil
	}
	if cerr := errors.Join(decoder.Close(), source.Close()); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("read state of guest: %w", plain(err))
	}
	return nil
}

// plain is what the system says: the files here have no names that mean anything to a person.
func plain(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// move copies and counts.
func (c *Copy) move(to io.Writer, from io.Reader) error {
	buf := make([]byte, chunk)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				return werr
			}
			c.moved.Add(uint64(n))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (c *Copy) sink(file *os.File) (io.WriteCloser, error) {
	if c.Direct {
		return newDirectWriter(file)
	}
	return &steadyWriter{file: file}, nil
}

func (c *Copy) source(file *os.File) (io.ReadCloser, error) {
	if c.Direct {
		return newDirectReader(file)
	}
	return io.NopCloser(file), nil
}

func (c *Copy) encoder(to io.Writer) (io.WriteCloser, error) {
	switch c.Format {
	case Raw:
		return nopCloser{to}, nil
	case Gzip:
		return gzip.NewWriterLevel(to, gzip.BestSpeed)
	case Zstd:
		return zstd.NewWriter(to, zstd.WithEncoderLevel(zstd.SpeedFastest))
	}
	return nil, fmt.Errorf("format %q is not known", c.Format)
}

func (c *Copy) decoder(from io.Reader) (io.ReadCloser, error) {
	switch c.Format {
	case Raw:
		return io.NopCloser(from), nil
	case Gzip:
		return gzip.NewReader(from)
	case Zstd:
		d, err := zstd.NewReader(from, zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return nil, fmt.Errorf("format %q is not known", c.Format)
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// steadyWriter has the kernel write out what it has got, so that the sync at the end has little left to wait for.
type steadyWriter struct {
	file    *os.File
	unasked int64
}

// steadyEvery is how much is left to the kernel before it is asked to write.
const steadyEvery = 64 << 20

// Write implements io.Writer.
func (w *steadyWriter) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	if w.unasked += int64(n); w.unasked >= steadyEvery && err == nil {
		w.unasked = 0
		// It only begins sooner what Sync makes sure of; not every file system can.
		_ = unix.SyncFileRange(int(w.file.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	return n, err
}

// Close implements io.Closer; the file stays open.
func (w *steadyWriter) Close() error { return nil }
