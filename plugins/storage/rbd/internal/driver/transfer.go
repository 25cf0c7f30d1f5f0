package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/ceph"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/lane"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// object is the size of an image's objects by default: it is read and written by these.
	object = 4 << 20
	// piece is how much a download tells at once, at most.
	piece = 256 << 10
	// window is how much of an image is asked for its data at once.
	window = 1 << 30
)

// copy copies what an image of another pool has to an empty image of this one.
func (u *use) copy(ctx context.Context, source *use, from, to string, progress storage.Progress) error {
	in, err := source.Open(from, true)
	if err != nil {
		return source.missing(from, err)
	}
	defer func() { _ = in.Close() }()
	out, err := u.Open(to, false)
	if err != nil {
		return err
	}
	return errors.Join(u.copyData(ctx, in, out, progress), out.Close())
}

func (u *use) copyData(ctx context.Context, in, out ceph.Image, progress storage.Progress) error {
	size, err := in.Size()
	if err != nil {
		return err
	}
	buf := make([]byte, object)
	for at := uint64(0); at < size; at += window {
		extents, err := in.Extents(at, min(window, size-at), true)
		if err != nil {
			return fmt.Errorf("find data: %w", err)
		}
		for _, x := range extents {
			for n := uint64(0); n < x.Length; n += object {
				if err := u.ended(ctx); err != nil {
					return err
				}
				part, place := buf[:min(object, x.Length-n)], int64(x.At+n)
				if _, err := in.ReadAt(part, place); err != nil {
					return fmt.Errorf("read: %w", err)
				}
				if _, err := out.WriteAt(part, place); err != nil {
					return fmt.Errorf("write: %w", err)
				}
				progress(x.At+n, size)
			}
		}
	}
	return out.Sync()
}

// opened is an image that is open from call to call. Calls of it follow each other; one that is late keeps the image open until it returns.
type opened struct {
	*use
	image ceph.Image
	name  string
	size  uint64
	turn  chan struct{}
}

// openImage opens an image for a transfer.
func (d *Driver) openImage(ctx context.Context, ref *pb.Pool, name string, readOnly bool) (*opened, error) {
	u, err := d.open(ctx, ref)
	if err != nil {
		return nil, err
	}
	o, err := lane.Do(ctx, u.Lane, 1, func(context.Context) (*opened, error) { return u.openImage(name, readOnly) },
		func(o *opened) { _ = o.image.Close() })
	u.Broken(err)
	if err != nil {
		u.Release()
		return nil, err
	}
	return o, nil
}

func (u *use) openImage(name string, readOnly bool) (*opened, error) {
	if !readOnly {
		if err := u.Journal.Claim(); err != nil {
			return nil, u.failed(err, "cannot write image '%s'", name)
		}
	}
	image, err := u.Open(name, readOnly)
	if err != nil {
		return nil, u.missing(name, err)
	}
	size, err := image.Size()
	if err != nil {
		return nil, errors.Join(u.failed(err, "cannot open image '%s'", name), image.Close())
	}
	return &opened{use: u, image: image, name: name, size: size, turn: make(chan struct{}, 1)}, nil
}

// do runs a call on the image, in the pool's lane.
func (o *opened) do(ctx context.Context, what string, call func() error) error {
	_, err := lane.Do(ctx, o.Lane, 1, func(context.Context) (struct{}, error) {
		o.turn <- struct{}{}
		defer func() { <-o.turn }()
		return struct{}{}, call()
	}, nil)
	o.Broken(err)
	if err != nil {
		return o.failed(err, "cannot %s image '%s'", what, o.name)
	}
	return nil
}

// Close closes the image, when the last call of it has returned. It waits for nobody.
func (o *opened) Close() error {
	go func() {
		defer o.Release()
		o.turn <- struct{}{}
		_ = o.image.Close() // what was written was synced before
	}()
	return nil
}

// source reads an image; it implements storage.Source.
type source struct {
	*opened
	at, end uint64
	sparse  bool
	// data are the extents of the window that ends at seen, if holes are told.
	data []ceph.Extent
	seen uint64
	// rest is what was read and not told yet.
	rest []byte
}

// Download implements storage.Transfer.
func (d *Driver) Download(ctx context.Context, req *pb.DownloadRequest) (storage.Source, error) {
	o, err := d.openImage(ctx, req.GetPool(), req.GetVolume().GetName(), true)
	if err != nil {
		return nil, err
	}
	if req.GetOffset() > o.size {
		err := o.failed(unix.EINVAL, "cannot read at %d of image '%s'", req.GetOffset(), o.name)
		return nil, errors.Join(err, o.Close())
	}
	s := &source{opened: o, at: req.GetOffset(), end: o.size, sparse: req.GetSparse(), seen: req.GetOffset()}
	if n := req.GetLength(); n > 0 && n < s.end-s.at {
		s.end = s.at + n
	}
	return s, nil
}

// Next implements storage.Source.
func (s *source) Next(ctx context.Context) ([]byte, uint64, error) {
	if len(s.rest) == 0 {
		if s.at >= s.end {
			return nil, 0, io.EOF
		}
		limit := s.end
		if s.sparse {
			begin, end, err := s.extent(ctx)
			if err != nil {
				return nil, 0, err
			}
			if begin > s.at {
				hole := begin - s.at
				s.at = begin
				return nil, hole, nil
			}
			limit = end
		}
		if err := s.read(ctx, limit); err != nil {
			return nil, 0, err
		}
	}
	n := min(piece, len(s.rest))
	out := s.rest[:n]
	s.rest = s.rest[n:]
	s.at += uint64(n)
	return out, 0, nil
}

// read reads up to the end of the object that it is in.
func (s *source) read(ctx context.Context, limit uint64) error {
	n := min(object-s.at%object, limit-s.at)
	buf := make([]byte, n) // a late call may still write to the last one
	err := s.do(ctx, "read", func() error {
		_, err := s.image.ReadAt(buf, int64(s.at))
		return err
	})
	if err == nil {
		s.rest = buf
	}
	return err
}

// extent returns where the next data begins and ends; at the end of what was asked about it begins there.
func (s *source) extent(ctx context.Context) (begin, end uint64, err error) {
	for {
		for len(s.data) > 0 {
			x := s.data[0]
			if x.At+x.Length > s.at {
				return min(max(x.At, s.at), s.end), min(x.At+x.Length, s.end), nil
			}
			s.data = s.data[1:]
		}
		if s.seen >= s.end {
			return s.end, s.end, nil
		}
		length := min(window, s.end-s.seen)
		var data []ceph.Extent
		err := s.do(ctx, "find data of", func() (err error) {
			data, err = s.image.Extents(s.seen, length, true)
			return err
		})
		if err != nil {
			return 0, 0, err
		}
		s.data, s.seen = data, s.seen+length
	}
}

// sink writes an image; it implements storage.Sink.
type sink struct {
	*opened
	at, end uint64
	// full is what was taken and not written yet: up to the end of an object.
	full []byte
}

// Upload implements storage.Transfer.
func (d *Driver) Upload(ctx context.Context, begin *pb.UploadBegin) (storage.Sink, error) {
	o, err := d.openImage(ctx, begin.GetPool(), begin.GetVolume().GetName(), false)
	if err != nil {
		return nil, err
	}
	s := &sink{opened: o, at: begin.GetOffset(), end: o.size}
	if n := begin.GetLength(); n > math.MaxInt64 || s.at > o.size || n > o.size-s.at {
		err := verr.New(verr.OperationInvalid, "volume '%s' has %d bytes: %d bytes at %d do not fit", o.name, o.size, n, s.at).In(verr.FromStorage)
		return nil, errors.Join(err, o.Close())
	}
	if n := begin.GetLength(); n > 0 {
		s.end = s.at + n
	}
	return s, nil
}

// room refuses what goes beyond the end.
func (s *sink) room(n uint64) error {
	if n > s.end-s.at-uint64(len(s.full)) {
		return verr.New(verr.OperationFailed, "more was sent to '%s' than fits in it, or was stated: it ends at %d", s.name, s.end).In(verr.FromStorage)
	}
	return nil
}

// Write implements storage.Sink. Bytes are written by whole objects.
func (s *sink) Write(ctx context.Context, data []byte) error {
	if err := s.room(uint64(len(data))); err != nil {
		return err
	}
	for len(data) > 0 {
		n := min(len(data), int(object-(s.at+uint64(len(s.full)))%object))
		s.full = append(s.full, data[:n]...)
		data = data[n:]
		if (s.at+uint64(len(s.full)))%object == 0 {
			if err := s.flush(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush writes what was taken.
func (s *sink) flush(ctx context.Context) error {
	if len(s.full) == 0 {
		return nil
	}
	full, at := s.full, int64(s.at)
	err := s.do(ctx, "write", func() error {
		_, err := s.image.WriteAt(full, at)
		return err
	})
	if err != nil {
		return err
	}
	s.at += uint64(len(full))
	s.full = full[:0]
	return nil
}

// Hole implements storage.Sink.
func (s *sink) Hole(ctx context.Context, length uint64) error {
	if err := s.room(length); err != nil {
		return err
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	at := s.at
	err := s.do(ctx, "make a hole in", func() error { return s.discard(ctx, s.image, at, length, func(uint64) {}) })
	if err == nil {
		s.at += length
	}
	return err
}

// Finish implements storage.Sink.
func (s *sink) Finish(ctx context.Context) error {
	err := s.flush(ctx)
	if err == nil {
		err = s.do(ctx, "write", s.image.Sync)
	}
	return errors.Join(err, s.Close())
}

// Abort implements storage.Sink.
func (s *sink) Abort() { _ = s.Close() }
