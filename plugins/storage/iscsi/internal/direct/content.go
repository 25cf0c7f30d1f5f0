package direct

import (
	"context"
	"errors"

	"github.com/lodgevirt/lodge/plugins/storage/internal/pieces"
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
	if errors.Is(err, initiator.ErrNotDisk) {
		err = storage.NoVolume(c.name)
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

// Read implements pieces.Content; a place and an end need not be at the edges of blocks.
func (c *content) Read(ctx context.Context, data []byte, at uint64) error {
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
		if err := c.Read(ctx, whole, first*c.block); err != nil {
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
	defer c.Close()
	return failedUnless(pool, wipe.Over(ctx, c, c.size, algorithm, progress))
}

// Close implements pieces.Content.
func (c *content) Close() { c.session.Close() }

// volume opens a volume by pieces.
func (p *Pools) volume(ctx context.Context, pool *define.Pool, secrets []*pb.Secret, v *pb.Volume) (pieces.Volume, error) {
	c, err := p.content(ctx, pool, secrets, v)
	if err != nil {
		return pieces.Volume{}, err
	}
	return pieces.Volume{Content: c, Size: c.size, Piece: c.step()}, nil
}

// Download opens a volume to read a part of it. A unit does not tell its holes.
func (p *Pools) Download(ctx context.Context, pool *define.Pool, req *pb.DownloadRequest) (storage.Source, error) {
	v, err := p.volume(ctx, pool, req.GetPool().GetSecrets(), req.GetVolume())
	if err != nil {
		return nil, err
	}
	return v.Open(req.GetOffset(), req.GetLength(), req.GetSparse())
}

// Upload opens a volume to write a part of it.
func (p *Pools) Upload(ctx context.Context, pool *define.Pool, begin *pb.UploadBegin) (storage.Sink, error) {
	v, err := p.volume(ctx, pool, begin.GetPool().GetSecrets(), begin.GetVolume())
	if err != nil {
		return nil, err
	}
	return v.Create(begin.GetOffset(), begin.GetLength())
}
