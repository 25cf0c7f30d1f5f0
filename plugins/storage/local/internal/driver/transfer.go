package driver

import (
	"context"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/storage/internal/fileio"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// copy copies a raw volume, sharing its content where the file system can, and its holes.
func (m *making) copy(ctx context.Context, from *pb.Volume, def *poolxml.Volume, mustShare bool, progress storage.Progress) error {
	in, err := os.OpenFile(from.GetPath(), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return storage.SystemError(err, "cannot open input path '%s'", from.GetPath())
	}
	defer func() { _ = in.Close() }()
	end, err := in.Seek(0, io.SeekEnd)
	if err != nil {
		return storage.SystemError(err, "cannot find the size of '%s'", from.GetPath())
	}
	size := max(end, int64(def.CapacityBytes))
	out := int(m.file.Fd())
	if unix.IoctlFileClone(out, int(in.Fd())) == nil {
		if err := unix.Ftruncate(out, size); err != nil {
			return storage.SystemError(err, "cannot extend file '%s'", def.Name)
		}
		return nil
	}
	if mustShare {
		return verr.New(verr.OperationUnsupported, "the file system of '%s' cannot copy by reference", def.Name).In(verr.FromStorage)
	}
	if err := unix.Ftruncate(out, size); err != nil {
		return storage.SystemError(err, "cannot extend file '%s'", def.Name)
	}
	return fileio.Copy(ctx, in, m.file, end, progress)
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
	return fileio.Open(file, req.GetOffset(), req.GetLength(), req.GetSparse())
}

// Upload implements storage.Transfer.
func (d *Driver) Upload(_ context.Context, begin *pb.UploadBegin) (storage.Sink, error) {
	f, err := d.folder(begin.GetPool())
	if err != nil {
		return nil, err
	}
	defer f.close()
	file, err := f.open(begin.GetVolume(), unix.O_RDWR)
	if err != nil {
		return nil, err
	}
	return fileio.Create(file, begin.GetOffset(), begin.GetLength())
}
