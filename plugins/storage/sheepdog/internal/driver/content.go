package driver

import (
	"context"
	"errors"

	"github.com/lodgevirt/lodge/plugins/storage/internal/pieces"
	"github.com/lodgevirt/lodge/plugins/storage/internal/wipe"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// piece is how much a run of dog reads or writes, in bytes: the size of sheepdog's objects.
const piece = 4 << 20

// content is what is in an image; it implements pieces.Content.
type content struct {
	*pool
	name string
}

// Name implements wipe.Content.
func (c *content) Name() string { return c.name }

// Read implements pieces.Content.
func (c *content) Read(ctx context.Context, data []byte, at uint64) error {
	if err := c.cluster.Read(ctx, c.name, data, at); err != nil {
		return c.about("read", c.name, err)
	}
	return nil
}

// Overwrite implements wipe.Content.
func (c *content) Overwrite(ctx context.Context, data []byte, at uint64) error {
	if err := c.cluster.Write(ctx, c.name, data, at); err != nil {
		return c.about("write", c.name, err)
	}
	return nil
}

// Flush implements wipe.Content: dog ends when the nodes have what it has written.
func (c *content) Flush(context.Context) error { return nil }

// Close implements pieces.Content.
func (c *content) Close() {}

// open opens a volume.
func (d *Driver) open(ctx context.Context, ref *pb.Pool, v *pb.Volume) (pieces.Volume, error) {
	p, err := d.pool(ref)
	if err != nil {
		return pieces.Volume{}, err
	}
	now, err := p.look(ctx, v.GetName())
	if err != nil {
		return pieces.Volume{}, err
	}
	return pieces.Volume{Content: &content{p, now.GetName()}, Size: now.GetCapacity(), Piece: piece}, nil
}

// Wipe implements storage.Wiper. What snapshots have of the old content stays.
func (d *Driver) Wipe(ctx context.Context, req *pb.WipeRequest, progress storage.Progress) error {
	if req.GetAlgorithm() == wipe.Trim {
		return verr.New(verr.ArgumentUnsupported, "volumes in sheepdog cannot be trimmed").In(verr.FromStorage)
	}
	v, err := d.open(ctx, req.GetPool(), req.GetVolume())
	if err != nil {
		return err
	}
	err = wipe.Over(ctx, v, v.Size, req.GetAlgorithm(), progress)
	var known *verr.Error
	switch {
	case err == nil || errors.As(err, &known):
		return err
	case ctx.Err() != nil:
		return verr.New(verr.OperationAborted, "wiping volume '%s' was given up: %w", v.Name(), err).In(verr.FromStorage)
	}
	return storage.Failed("cannot wipe volume '%s': %w", v.Name(), err)
}

// Download implements storage.Transfer.
func (d *Driver) Download(ctx context.Context, req *pb.DownloadRequest) (storage.Source, error) {
	v, err := d.open(ctx, req.GetPool(), req.GetVolume())
	if err != nil {
		return nil, err
	}
	return v.Open(req.GetOffset(), req.GetLength(), req.GetSparse())
}

// Upload implements storage.Transfer.
func (d *Driver) Upload(ctx context.Context, begin *pb.UploadBegin) (storage.Sink, error) {
	v, err := d.open(ctx, begin.GetPool(), begin.GetVolume())
	if err != nil {
		return nil, err
	}
	return v.Create(begin.GetOffset(), begin.GetLength())
}
