package driver

import (
	"context"
	"errors"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/storage/local/internal/define"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// piece is how much of a volume is read at once, in bytes.
	piece = 256 << 10
	// copyPiece is how much is copied at once.
	copyPiece = 16 << 20
)

// copy copies a raw volume, sharing its content where the file system can, and its holes.
func (m *making) copy(ctx context.Context, from *pb.Volume, def *define.Volume, mustShare bool, progress storage.Progress) error {
	in, err := os.OpenFile(from.GetPath(), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return system(err, "cannot open input path '%s'", from.GetPath())
	}
	defer func() { _ = in.Close() }()
	end, err := in.Seek(0, io.SeekEnd)
	if err != nil {
		return system(err, "cannot find the size of '%s'", from.GetPath())
	}
	size := max(end, int64(def.CapacityBytes))
	out := int(m.file.Fd())
	if unix.IoctlFileClone(out, int(in.Fd())) == nil {
		if err := unix.Ftruncate(out, size); err != nil {
			return system(err, "cannot extend file '%s'", def.Name)
		}
		return nil
	}
	if mustShare {
		return verr.New(verr.OperationUnsupported, "the file system of '%s' cannot copy by reference", def.Name).In(verr.FromStorage)
	}
	if err := unix.Ftruncate(out, size); err != nil {
		return system(err, "cannot extend file '%s'", def.Name)
	}
	for at := int64(0); at < end; {
		data, hole := extent(in, at, end)
		if err := copyRange(ctx, in, m.file, data, hole, func(done int64) { progress(uint64(done), uint64(end)) }); err != nil {
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
			return system(err, "cannot copy '%s'", in.Name())
		}
		if n == 0 {
			return nil // it became shorter meanwhile
		}
		from += int64(n)
		progress(from)
	}
	return nil
}

// Download implements storage.Transfer.
func (d *Driver) Download(_ context.Context, req *pb.DownloadRequest) (storage.Source, error) {
	f, err := d.folder(req.GetPool())
	if err != nil {
		return nil, err
	}
	defer f.close()
	file, err := f.open(req.GetVolume(), unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	end, err := file.Seek(0, io.SeekEnd)
	if err == nil && req.GetOffset() > uint64(end) {
		err = unix.EINVAL
	}
	if err != nil {
		return nil, errors.Join(system(err, "unable to seek '%s' to %d", file.Name(), req.GetOffset()), file.Close())
	}
	if n := req.GetLength(); n > 0 && n < uint64(end)-req.GetOffset() {
		end = int64(req.GetOffset() + n)
	}
	return &source{file: file, at: int64(req.GetOffset()), end: end, sparse: req.GetSparse(), buf: make([]byte, piece)}, nil
}

// source reads a file.
type source struct {
	file    *os.File
	at, end int64
	// data is where the piece of data ends that at lies in, if holes are told.
	data   int64
	sparse bool
	buf    []byte
}

// Next implements storage.Source.
func (s *source) Next(context.Context) ([]byte, uint64, error) {
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
		err = system(err, "cannot read '%s'", s.file.Name())
	}
	return nil, 0, err
}

// Close implements storage.Source.
func (s *source) Close() error { return s.file.Close() }

// Upload implements storage.Transfer.
func (d *Driver) Upload(_ context.Context, begin *pb.UploadBegin) (storage.Sink, error) {
	f, err := d.folder(begin.GetPool())
	if err != nil {
		return nil, err
	}
	defer f.close()
	if begin.GetOffset() > math.MaxInt64 || begin.GetLength() > math.MaxInt64-begin.GetOffset() {
		return nil, verr.New(verr.Overflow, "offset %d is too big", begin.GetOffset()).In(verr.FromStorage)
	}
	file, err := f.open(begin.GetVolume(), unix.O_RDWR)
	if err != nil {
		return nil, err
	}
	s := &sink{file: file, at: int64(begin.GetOffset()), end: math.MaxInt64}
	if begin.GetLength() > 0 {
		s.end = s.at + int64(begin.GetLength())
	}
	return s, nil
}

// sink writes a file.
type sink struct {
	file    *os.File
	at, end int64
}

// room refuses what goes beyond the length that was stated.
func (s *sink) room(n int64) error {
	if n > s.end-s.at {
		return verr.New(verr.OperationFailed, "more was sent to '%s' than the %d bytes that were stated", s.file.Name(), s.end).In(verr.FromStorage)
	}
	return nil
}

// Write implements storage.Sink.
func (s *sink) Write(_ context.Context, data []byte) error {
	if err := s.room(int64(len(data))); err != nil {
		return err
	}
	n, err := s.file.WriteAt(data, s.at)
	s.at += int64(n)
	if err != nil {
		return system(err, "cannot write '%s'", s.file.Name())
	}
	return nil
}

// Hole implements storage.Sink.
func (s *sink) Hole(_ context.Context, length uint64) error {
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
		return system(err, "cannot make a hole in '%s'", s.file.Name())
	}
	s.at += n
	return nil
}

// Finish implements storage.Sink.
func (s *sink) Finish(context.Context) error {
	err := s.file.Sync()
	if err = errors.Join(err, s.file.Close()); err != nil {
		return system(err, "cannot write '%s'", s.file.Name())
	}
	return nil
}

// Abort implements storage.Sink.
func (s *sink) Abort() { _ = s.file.Close() }
