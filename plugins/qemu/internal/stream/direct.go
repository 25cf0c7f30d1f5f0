package stream

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// alignment is what offsets, sizes and buffers of direct input and output are multiples of, in bytes.
const alignment = 4096

// openDirect opens the file behind a descriptor once more, so that whoever shares the descriptor goes on as usual. It returns the
// present offset, too.
func openDirect(file *os.File, mode int) (*os.File, int64, error) {
	offset, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, 0, fmt.Errorf("find place in file: %w", err)
	}
	if offset%alignment != 0 {
		return nil, 0, fmt.Errorf("%w: the state begins at %d", ErrDirect, offset)
	}
	direct, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), mode|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, unix.EINVAL) {
			err = errors.Join(ErrDirect, err)
		}
		return nil, 0, fmt.Errorf("open file again: %w", err)
	}
	return direct, offset, nil
}

// alignedBuffer returns a buffer of a chunk that begins at a multiple of the alignment.
func alignedBuffer() []byte {
	b := make([]byte, chunk+alignment)
	shift := -int(uintptr(unsafe.Pointer(&b[0]))) & (alignment - 1)
	return b[shift : shift+chunk]
}

// directWriter collects whole chunks and writes them past the page cache; the rest at the end goes through it.
type directWriter struct {
	plain, direct *os.File
	offset        int64
	buf           []byte
	used          int
}

func newDirectWriter(file *os.File) (*directWriter, error) {
	direct, offset, err := openDirect(file, os.O_WRONLY)
	if err != nil {
		return nil, err
	}
	return &directWriter{plain: file, direct: direct, offset: offset, buf: alignedBuffer()}, nil
}

// Write implements io.Writer.
func (w *directWriter) Write(p []byte) (int, error) {
	taken := 0
	for len(p) > 0 {
		n := copy(w.buf[w.used:], p)
		w.used += n
		taken += n
		p = p[n:]
		if w.used < len(w.buf) {
			break
		}
		if _, err := w.direct.WriteAt(w.buf, w.offset); err != nil {
			return taken, err
		}
		w.offset += int64(len(w.buf))
		w.used = 0
	}
	return taken, nil
}

// Close writes the rest, and leaves the file's offset at its end.
func (w *directWriter) Close() error {
	err := w.direct.Close()
	if w.used > 0 {
		_, werr := w.plain.WriteAt(w.buf[:w.used], w.offset)
		err = errors.Join(err, werr)
		w.offset += int64(w.used)
		w.used = 0
	}
	_, serr := w.plain.Seek(w.offset, io.SeekStart)
	return errors.Join(err, serr)
}

// directReader reads whole chunks past the page cache.
type directReader struct {
	direct *os.File
	offset int64
	buf    []byte
	rest   []byte
	end    error
}

func newDirectReader(file *os.File) (*directReader, error) {
	direct, offset, err := openDirect(file, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return &directReader{direct: direct, offset: offset, buf: alignedBuffer()}, nil
}

// Read implements io.Reader.
func (r *directReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		if r.end != nil {
			return 0, r.end
		}
		// One call and no more: after the end of a file the offset is not aligned.
		n, err := unix.Pread(int(r.direct.Fd()), r.buf, r.offset)
		switch {
		case err != nil:
			return 0, os.NewSyscallError("pread", err)
		case n < len(r.buf):
			r.end = io.EOF
		}
		r.offset += int64(n)
		r.rest = r.buf[:n]
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	if n == 0 {
		return 0, r.end
	}
	return n, nil
}

// Close implements io.Closer.
func (r *directReader) Close() error { return r.direct.Close() }
