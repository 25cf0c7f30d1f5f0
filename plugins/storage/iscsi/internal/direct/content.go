package direct

import (
	"bytes"
	"context"
	"io"
	"math"

	"github.com/lodgevirt/lodge/plugins/storage/internal/wipe"
	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/define"
	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/initiator"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// piece is how much is read or written at once, in bytes; a multiple of every block size that is smaller than it.
const piece = 256 << 10

// content is what is in a unit, by bytes. It belongs to one goroutine, and has a session of its own.
type content struct {
	pool    *define.Pool
	name    string
	session initiator.Session
	unit    initiator.Unit
	size    uint64
	block   uint64
}

// content opens the unit of a volume.
func (p *Pools) content(ctx context.Context, pool *define.Pool, secrets []*pb.Secret, v *pb.Volume) (*content, error) {
	lun, ok := define.Unit(v.GetName())
	if !ok {
		return nil, storage.NoVolume(v.GetName())
	}
	s, err := p.open(ctx, pool, secrets)
	if err != nil {
		return nil, err
	}
	c := &content{pool: pool, name: v.GetName(), session: s}
	if err = listed(ctx, s, lun, c.name); err == nil {
		c.unit, err = s.Unit(ctx, lun)
	}
	if err != nil {
		s.Close()
		return nil, failedUnless(pool, err)
	}
	c.size, c.block = c.unit.Capacity().Bytes(), uint64(c.unit.Capacity().BlockSize)
	return c, nil
}

// Name implements wipe.Content.
func (c *content) Name() string { return c.name }

// step is how much is handed to the unit at once.
func (c *content) step() uint64 { return max(piece, c.block) }

// read fills a buffer, at most a step long, from a place; both need not be at the edge of a block.
func (c *content) read(ctx context.Context, data []byte, at uint64) error {
	first, end := at/c.block, (at+uint64(len(data))+c.block-1)/c.block
	whole := data
	if span := (end - first) * c.block; span != uint64(len(data)) {
		whole = make([]byte, span)
	}
	for done := uint64(0); done < uint64(len(whole)); {
		part := whole[done:min(done+initiator.MaxPiece, uint64(len(whole)))]
		if err := c.unit.Read(ctx, first+done/c.block, part); err != nil {
			return failedUnless(c.pool, err)
		}
		done += uint64(len(part))
	}
	if len(whole) != len(data) {
		copy(data, whole[at-first*c.block:])
	}
	return nil
}

// Overwrite implements wipe.Content: it writes anywhere; what else is in the blocks at the edges stays as it is.
func (c *content) Overwrite(ctx context.Context, data []byte, at uint64) error {
	for len(data) > 0 {
		n := min(c.step()-at%c.step(), uint64(len(data)))
		if err := c.write(ctx, data[:n], at); err != nil {
			return failedUnless(c.pool, err)
		}
		data, at = data[n:], at+n
	}
	return nil
}

// write writes within a step.
func (c *content) write(ctx context.Context, data []byte, at uint64) error {
	first, end := at/c.block, (at+uint64(len(data))+c.block-1)/c.block
	if span := (end - first) * c.block; span != uint64(len(data)) {
		whole := make([]byte, span)
		if err := c.read(ctx, whole, first*c.block); err != nil {
			return err
		}
		copy(whole[at-first*c.block:], data)
		data = whole
	}
	return c.unit.Write(ctx, first, data)
}

// Flush implements wipe.Content.
func (c *content) Flush(ctx context.Context) error { return failedUnless(c.pool, c.unit.Flush(ctx)) }

// Wipe overwrites a volume.
func (p *Pools) Wipe(ctx context.Context, pool *define.Pool, secrets []*pb.Secret, v *pb.Volume, algorithm uint32, progress storage.Progress) error {
	if algorithm == wipe.Trim {
		return verr.New(verr.ArgumentUnsupported, "volumes of pools of type '%s' cannot be trimmed", pool.Type).In(verr.FromStorage)
	}
	c, err := p.content(ctx, pool, secrets, v)
	if err != nil {
		return err
	}
	defer c.session.Close()
	return failedUnless(pool, wipe.Over(ctx, c, c.size, algorithm, progress))
}

// source reads a part of a unit; it implements storage.Source.
type source struct {
	*content
	at, end uint64
	sparse  bool
	buf     []byte
}

// Download opens a volume to read a part of it.
func (p *Pools) Download(ctx context.Context, pool *define.Pool, req *pb.DownloadRequest) (storage.Source, error) {
	c, err := p.content(ctx, pool, req.GetPool().GetSecrets(), req.GetVolume())
	if err != nil {
		return nil, err
	}
	s := &source{content: c, at: req.GetOffset(), end: c.size, sparse: req.GetSparse(), buf: make([]byte, piece)}
	if s.at > s.end {
		c.session.Close()
		return nil, verr.New(verr.InvalidArg, "offset %d is beyond the end of volume '%s'", s.at, c.name).In(verr.FromStorage)
	}
	if n := req.GetLength(); n > 0 && n < s.end-s.at {
		s.end = s.at + n
	}
	return s, nil
}

// Next implements storage.Source. A unit does not tell its holes: pieces of zeros are told as some.
func (s *source) Next(ctx context.Context) ([]byte, uint64, error) {
	if s.at >= s.end {
		return nil, 0, io.EOF
	}
	data := s.buf[:min(piece-s.at%piece, s.end-s.at)]
	if err := s.read(ctx, data, s.at); err != nil {
		return nil, 0, err
	}
	s.at += uint64(len(data))
	if s.sparse && len(bytes.TrimLeft(data, "\x00")) == 0 {
		return nil, uint64(len(data)), nil
	}
	return data, 0, nil
}

// Close implements storage.Source.
func (s *source) Close() error {
	s.session.Close()
	return nil
}

// sink writes a part of a unit; it implements storage.Sink. It gathers what is written into steps, as clients send pieces that end within
// a block.
type sink struct {
	*content
	at, end uint64
	pending []byte // what is to be written before at
}

// Upload opens a volume to write a part of it.
func (p *Pools) Upload(ctx context.Context, pool *define.Pool, begin *pb.UploadBegin) (storage.Sink, error) {
	c, err := p.content(ctx, pool, begin.GetPool().GetSecrets(), begin.GetVolume())
	if err != nil {
		return nil, err
	}
	s := &sink{content: c, at: begin.GetOffset(), end: c.size}
	if n := begin.GetLength(); n > 0 {
		s.end = s.at + min(n, math.MaxUint64-s.at)
	}
	if s.at > c.size || s.end > c.size {
		c.session.Close()
		return nil, verr.New(verr.InvalidArg, "volume '%s' ends at byte %d, before %d", c.name, c.size, s.end).In(verr.FromStorage)
	}
	return s, nil
}

// room refuses what goes beyond the end.
func (s *sink) room(n uint64) error {
	if n > s.end-s.at {
		return verr.New(verr.OperationFailed, "more was sent to volume '%s' than there is room for up to byte %d", s.name, s.end).In(verr.FromStorage)
	}
	return nil
}

// Write implements storage.Sink.
func (s *sink) Write(ctx context.Context, data []byte) error {
	if err := s.room(uint64(len(data))); err != nil {
		return err
	}
	for len(data) > 0 {
		n := min(s.step()-s.at%s.step(), uint64(len(data)))
		s.pending = append(s.pending, data[:n]...)
		data, s.at = data[n:], s.at+n
		if s.at%s.step() == 0 {
			if err := s.push(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// push writes what was gathered.
func (s *sink) push(ctx context.Context) error {
	data := s.pending
	s.pending = s.pending[:0]
	return s.Overwrite(ctx, data, s.at-uint64(len(data)))
}

// Hole implements storage.Sink: a unit has none, so zeros are written.
func (s *sink) Hole(ctx context.Context, length uint64) error {
	if err := s.room(length); err != nil {
		return err
	}
	zeros := make([]byte, min(length, piece))
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
func (s *sink) Finish(ctx context.Context) error {
	defer s.session.Close()
	if err := s.push(ctx); err != nil {
		return err
	}
	return s.Flush(ctx)
}

// Abort implements storage.Sink.
func (s *sink) Abort() { s.session.Close() }
