package driver

import (
	"context"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
)

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
