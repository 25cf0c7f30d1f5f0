// Package pieces reads and writes the content of volumes that are no files, by pieces of a size that suits the storage.
//
// A Source or Sink belongs to one goroutine, and so does the Content behind it, which it closes at its end. Errors are verr errors, or
// those of the Content.
package pieces

import (
	"bytes"
	"context"
	"io"
	"math"

	"github.com/lodgevirt/lodge/plugins/storage/internal/wipe"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// message is the most bytes that a Source may hand out at once.
const message = 256 << 10

// Content is what is in a volume.
type Content interface {
	wipe.Content
	// Read fills a buffer from a place.
	Read(ctx context.Context, data []byte, at uint64) error
	// Close ends the use of the volume. It is called once.
	Close()
}

// Volume is a volume that is open.
type Volume struct {
	Content
	// Size is where it ends, in bytes.
	Size uint64
	// Piece is how much is read or written at once: pieces begin at its multiples.
	Piece uint64
}

// Source reads a volume; it implements storage.Source.
type Source struct {
	Volume
	at, end uint64
	sparse  bool
	buf     []byte
	// rest is what was read and not handed out yet; at is behind it.
	rest []byte
}

// Open begins to read length bytes from offset, or all from there if length is 0. Pieces of zeros are told as holes if sparse. The volume
// belongs to the source, also if it fails.
func (v Volume) Open(offset, length uint64, sparse bool) (*Source, error) {
	if offset > v.Size {
		v.Close()
		return nil, verr.New(verr.InvalidArg, "offset %d is behind the end of volume '%s'", offset, v.Name()).In(verr.FromStorage)
	}
	end := v.Size
	if length > 0 && length < end-offset {
		end = offset + length
	}
	return &Source{Volume: v, at: offset, end: end, sparse: sparse, buf: make([]byte, min(v.Piece, end-offset))}, nil
}

// Next implements storage.Source.
func (s *Source) Next(ctx context.Context) ([]byte, uint64, error) {
	if len(s.rest) == 0 {
		if s.at >= s.end {
			return nil, 0, io.EOF
		}
		data := s.buf[:min(s.Piece-s.at%s.Piece, s.end-s.at)]
		if err := s.Read(ctx, data, s.at); err != nil {
			return nil, 0, err
		}
		s.at += uint64(len(data))
		if s.sparse && len(bytes.TrimLeft(data, "\x00")) == 0 {
			return nil, uint64(len(data)), nil
		}
		s.rest = data
	}
	data := s.rest[:min(message, len(s.rest))]
	s.rest = s.rest[len(data):]
	return data, 0, nil
}

// Close implements storage.Source.
func (s *Source) Close() error {
	s.Volume.Close()
	return nil
}

// Sink writes a volume; it implements storage.Sink. It gathers what is written into pieces.
type Sink struct {
	Volume
	at, end uint64
	pending []byte // what is to be written before at
}

var (
	_ storage.Source = (*Source)(nil)
	_ storage.Sink   = (*Sink)(nil)
)

// Create begins to write at most length bytes from offset, or as many as there is room for if length is 0. The volume belongs to the sink,
// also if it fails.
func (v Volume) Create(offset, length uint64) (*Sink, error) {
	end := v.Size
	if length > 0 {
		end = offset + min(length, math.MaxUint64-offset)
	}
	if offset > v.Size || end > v.Size {
		v.Close()
		return nil, verr.New(verr.InvalidArg, "volume '%s' ends at byte %d, before %d", v.Name(), v.Size, max(offset, end)).In(verr.FromStorage)
	}
	return &Sink{Volume: v, at: offset, end: end}, nil
}

// room refuses what goes beyond the end.
func (s *Sink) room(n uint64) error {
	if n > s.end-s.at {
		return verr.New(verr.OperationFailed, "more was sent to volume '%s' than there is room for up to byte %d", s.Name(), s.end).In(verr.FromStorage)
	}
	return nil
}

// Write implements storage.Sink.
func (s *Sink) Write(ctx context.Context, data []byte) error {
	if err := s.room(uint64(len(data))); err != nil {
		return err
	}
	for len(data) > 0 {
		n := min(s.Piece-s.at%s.Piece, uint64(len(data)))
		s.pending = append(s.pending, data[:n]...)
		data, s.at = data[n:], s.at+n
		if s.at%s.Piece == 0 {
			if err := s.push(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// push writes what was gathered.
func (s *Sink) push(ctx context.Context) error {
	data := s.pending
	s.pending = s.pending[:0]
	if len(data) == 0 {
		return nil
	}
	return s.Overwrite(ctx, data, s.at-uint64(len(data)))
}

// Hole implements storage.Sink by zeros.
func (s *Sink) Hole(ctx context.Context, length uint64) error {
	if err := s.room(length); err != nil {
		return err
	}
	zeros := make([]byte, min(length, message))
	for length > 0 {
		n := min(length, uint64(len(zeros)))
		if err := s.Write(ctx, zeros[:n]); err != nil {
			return err
		}
		length -= n
	}
	return nil
}

// Finish implements storage.Sink.
func (s *Sink) Finish(ctx context.Context) error {
	defer s.Close()
	if err := s.push(ctx); err != nil {
		return err
	}
	return s.Flush(ctx)
}

// Abort implements storage.Sink. What was gathered for a piece is lost.
func (s *Sink) Abort() { s.Close() }
