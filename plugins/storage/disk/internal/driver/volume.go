package driver

import (
	"context"
	"strconv"

	"github.com/lodgevirt/lodge/plugins/storage/internal/blockdev"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Remove implements storage.Volumes. The logical partitions after one that goes get new numbers, and so new names.
func (d *Driver) Remove(ctx context.Context, req *pb.RemoveRequest) error {
	if err := storage.UnknownFlags(req.GetFlags(), 0); err != nil {
		return err
	}
	p, err := d.open(req.GetPool())
	if err != nil {
		return err
	}
	release, err := d.take(ctx, p)
	if err != nil {
		return err
	}
	defer release()
	t, part, err := p.find(ctx, req.GetVolume())
	if err != nil {
		return err
	}
	if part.Extended {
		for _, inner := range t.Parts {
			if inner.Logical {
				return verr.New(verr.OperationInvalid, "extended partition '%s' has logical partitions in it, such as '%s'", p.name(part), p.name(inner)).
					In(verr.FromStorage)
			}
		}
	}
	if err := p.Change(ctx, "rm", strconv.Itoa(part.Number)); err != nil {
		return storage.Failed("cannot remove partition '%s': %w", p.name(part), err)
	}
	return nil
}

// device has the path of what the core knows be that of its partition, which must not be an extended one.
func (d *Driver) device(ctx context.Context, ref *pb.Pool, known *pb.Volume) error {
	p, err := d.open(ref)
	if err != nil {
		return err
	}
	_, part, err := p.find(ctx, known)
	if err != nil {
		return err
	}
	if part.Extended {
		return verr.New(verr.OperationInvalid, "extended partition '%s' has no content of its own", p.name(part)).In(verr.FromStorage)
	}
	known.Path = p.node(part)
	return nil
}

// Wipe implements storage.Wiper.
func (d *Driver) Wipe(ctx context.Context, req *pb.WipeRequest, progress storage.Progress) error {
	if err := d.device(ctx, req.GetPool(), req.GetVolume()); err != nil {
		return err
	}
	return blockdev.Wipe(ctx, req.GetVolume(), req.GetAlgorithm(), progress)
}

// Download implements storage.Transfer.
func (d *Driver) Download(ctx context.Context, req *pb.DownloadRequest) (storage.Source, error) {
	if err := d.device(ctx, req.GetPool(), req.GetVolume()); err != nil {
		return nil, err
	}
	return blockdev.Download(req)
}

// Upload implements storage.Transfer.
func (d *Driver) Upload(ctx context.Context, begin *pb.UploadBegin) (storage.Sink, error) {
	if err := d.device(ctx, begin.GetPool(), begin.GetVolume()); err != nil {
		return nil, err
	}
	return blockdev.Upload(begin)
}
