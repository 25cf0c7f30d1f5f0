package driver

import (
	"context"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Create implements storage.Volumes: disks are made at the target.
func (d *Driver) Create(context.Context, *pb.CreateRequest, storage.Progress) (*pb.Volume, error) {
	return nil, verr.New(verr.NoSupport, "storage pool does not support volume creation: disks are made at the iSCSI target").In(verr.FromStorage)
}

// Remove implements storage.Volumes: disks are removed at the target.
func (d *Driver) Remove(context.Context, *pb.RemoveRequest) error {
	return verr.New(verr.NoSupport, "storage pool does not support vol deletion: disks are removed at the iSCSI target").In(verr.FromStorage)
}

// Look implements storage.Volumes.
func (d *Driver) Look(ctx context.Context, ref *pb.Pool, name string) (*pb.Volume, error) {
	b, p, err := d.of(ref)
	if err != nil {
		return nil, err
	}
	return b.Look(ctx, p, ref.GetSecrets(), name)
}

// Wipe implements storage.Wiper.
func (d *Driver) Wipe(ctx context.Context, req *pb.WipeRequest, progress storage.Progress) error {
	b, p, err := d.of(req.GetPool())
	if err != nil {
		return err
	}
	return b.Wipe(ctx, p, req.GetPool().GetSecrets(), req.GetVolume(), req.GetAlgorithm(), progress)
}

// Download implements storage.Transfer.
func (d *Driver) Download(ctx context.Context, req *pb.DownloadRequest) (storage.Source, error) {
	b, p, err := d.of(req.GetPool())
	if err != nil {
		return nil, err
	}
	return b.Download(ctx, p, req)
}

// Upload implements storage.Transfer.
func (d *Driver) Upload(ctx context.Context, begin *pb.UploadBegin) (storage.Sink, error) {
	b, p, err := d.of(begin.GetPool())
	if err != nil {
		return nil, err
	}
	return b.Upload(ctx, p, begin)
}
