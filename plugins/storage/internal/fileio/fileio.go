// Package fileio reads, writes and copies the content of volumes that are files or block devices, with their holes.
//
// Source and Sink belong to one goroutine; Copy may be used concurrently for different files.
package fileio

import (
	"context"
	"errors"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// piece is how much of a volume is read at once, in bytes.
	piece = 256 << 10
	// copyPiece is how much is copied at once.
	copyPiece = 16 << 20
)

// Size returns where a file or device ends, in bytes.
func Size(f *os.File) (uint64, error) {
	end, err := f.Seek(0, io.SeekEnd)
	return uint64(max(end, 0)), err
}

// Copy copies the data of a file, up to end bytes, to the same places of another one, in the kernel where it can. Holes are left out.
func Copy(ctx context.Context, in, out *os.File, end int64, progress storage.Progress) error {
	for at := int64(0); at < end; {
		data, hole := extent(in, at, end)
		if err := copyRange(ctx, in, out, data, hole, func(done int64) { progress(uint64(done), uint64(end)) }); err != nil {
			return err
		}
		at = hole
	}
	return nil
}

// extent returns the next piece of data at or after a place: where it begins and where it ends.
func extent(f *os.File, at, end int64) (data, hole int64) {
	data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return end, end
	case err != nil: // the file system does not tell
		return at, end
	}
	hole, err = unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
	if err != nil || hole > end {
		hole = end
	}
	return min(data, end), hole
}

// copyRange copies bytes to the same place of another file, in the kernel where it can.
func copyRange(ctx context.Context, in, out *os.File, from, to int64, progress func(int64)) error {
	for from < to {
		if err := ctx.Err(); err != nil {
			return verr.New(verr.OperationAborted, "copying '%s' was given up: %w", in.Name(), err).In(verr.FromStorage)
		}
		rd, wr := from, from
		n, err := unix.CopyFileRange(int(in.Fd()), &rd, int(out.Fd()), &wr, int(min(to-from, copyPiece)), 0)
		if err != nil || n == 0 {
			var copied int64
			copied, err = io.Copy(io.NewOffsetWriter(out, from), io.NewSectionReader(in, from, min(to-from, copyPiece)))
			n = int(copied)
		}
		if err != nil {
			return storage.SystemError(err, "cannot copy '%s'", in.Name())
		}
		if n == 0 {
			return nil // it became shorter meanwhile
		}
		from += int64(n)
		progress(from)
	}
	return nil
}

// Open begins to read length bytes of a file from offset, or all from there if length is 0, and tells holes if sparse. The file belongs
// to the source, also if it fails.
func Open(file *os.File, offset, length uint64, sparse bool) (*Source, error) {
	end, err := Size(file)
	if err == nil && offset > end {
		err = unix.EINVAL
	}
	if err != nil {
		return nil, errors.Join(storage.SystemError(err, "unable to seek '%s' to %d", file.Name(), offset), file.Close())
	}
	if length > 0 && length < end-offset {
		end = offset + length
	}
	return &Source{file: file, at: int64(offset), end: int64(end), sparse: sparse, buf: make([]byte, piece)}, nil
}

// Source reads a file; it implements storage.Source.
type Source struct {
	file    *os.File
	at, end int64
	// data is where the piece of data ends that at lies in, if holes are told.
	data   int64
	sparse bool
	buf    []byte
}

// Next implements storage.Source.
func (s *Source) Next(context.Context) ([]byte, uint64, error) {
	if s.at >= s.end {
		return nil, 0, io.EOF
	}
	limit := s.end
	if s.sparse {
		if s.at >= s.data {
			begin, end := extent(s.file, s.at, s.end)
			s.data = end
			if begin > s.at {
				hole := uint64(begin - s.at)
				s.at = begin
				return nil, hole, nil
			}
		}
		limit = s.data
	}
	n, err := s.file.ReadAt(s.buf[:min(int64(len(s.buf)), limit-s.at)], s.at)
	s.at += int64(n)
	if n > 0 {
		return s.buf[:n], 0, nil
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = storage.SystemError(err, "cannot read '%s'", s.file.Name())
	}
	return nil, 0, err
}

// Close implements storage.Source.
func (s *Source) Close() error { return s.file.Close() }

// Create begins to write at most length bytes of a file from offset, or as many as come if length is 0. The file belongs to the sink, also
// if it fails.
func Create(file *os.File, offset, length uint64) (*Sink, error) {
	if offset > math.MaxInt64 || length > math.MaxInt64-offset {
		return nil, errors.Join(verr.New(verr.Overflow, "offset %d is too big", offset).In(verr.FromStorage), file.Close())
	}
	s := &Sink{file: file, at: int64(offset), end: math.MaxInt64}
	if length > 0 {
		s.end = s.at + int64(length)
	}
	return s, nil
}

// Sink writes a file; it implements storage.Sink.
type Sink struct {
	file    *os.File
	at, end int64
}

// room refuses what goes beyond the length that was stated.
func (s *Sink) room(n int64) error {
	if n > s.end-s.at {
		return verr.New(verr.OperationFailed, "more was sent to '%s' than the %d bytes that were stated", s.file.Name(), s.end).In(verr.FromStorage)
	}
	return nil
}

// Write implements storage.Sink.
func (s *Sink) Write(_ context.Context, data []byte) error {
	if err := s.room(int64(len(data))); err != nil {
		return err
	}
	n, err := s.file.WriteAt(data, s.at)
	s.at += int64(n)
	if err != nil {
		return storage.SystemError(err, "cannot write '%s'", s.file.Name())
	}
	return nil
}

// Hole implements storage.Sink.
func (s *Sink) Hole(_ context.Context, length uint64) error {
	if length > math.MaxInt64 {
		return s.room(math.MaxInt64)
	}
	n := int64(length)
	if err := s.room(n); err != nil {
		return err
	}
	fd := int(s.file.Fd())
	size, err := s.file.Seek(0, io.SeekEnd)
	if err == nil && s.at < size {
		err = unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, s.at, n)
	}
	if err == nil && s.at+n > size {
		err = unix.Ftruncate(fd, s.at+n)
	}
	if err != nil {
		return storage.SystemError(err, "cannot make a hole in '%s'", s.file.Name())
	}
	s.at += n
	return nil
}

// Finish implements storage.Sink. The system writes to the disk when it likes, as after any copy.
func (s *Sink) Finish(context.Context) error {
	if err := s.file.Close(); err != nil {
		return storage.SystemError(err, "cannot write '%s'", s.file.Name())
	}
	return nil
}

// Abort implements storage.Sink.
func (s *Sink) Abort() { _ = s.file.Close() }
