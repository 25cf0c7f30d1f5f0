package driver

import (
	"context"
	"errors"

	"github.com/lodgevirt/lodge/plugins/storage/internal/wipe"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/ceph"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/journal"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// resizeShrink is the flag of virStorageVolResizeFlags that allows a smaller capacity.
const resizeShrink = 1 << 2

// Resize implements storage.Resizer.
func (d *Driver) Resize(ctx context.Context, req *pb.ResizeRequest) (*pb.Volume, error) {
	if err := storage.UnknownFlags(req.GetFlags(), resizeShrink); err != nil {
		return nil, err
	}
	return with(ctx, d, req.GetPool(), 1, func(_ context.Context, u *use) (*pb.Volume, error) {
		name := req.GetVolume().GetName()
		if err := u.Journal.Claim(); err != nil {
			return nil, u.failed(err, "cannot resize image '%s'", name)
		}
		image, err := u.Open(name, false)
		if err != nil {
			return nil, u.missing(name, err)
		}
		err = u.resize(image, name, req.GetCapacity(), req.GetFlags()&resizeShrink != 0)
		if err = errors.Join(err, image.Close()); err != nil {
			return nil, u.failed(err, "cannot resize image '%s'", name)
		}
		return u.find(name)
	})
}

func (u *use) resize(image ceph.Image, name string, want uint64, mayShrink bool) error {
	size, err := image.Size()
	if err != nil || size == want {
		return err
	}
	if want > size {
		return image.Resize(want)
	}
	if !mayShrink {
		return verr.New(verr.InvalidArg, "volume '%s' has %d bytes by now, and is made shorter only if that is asked for", name, size).In(verr.FromStorage)
	}
	id, err := u.id(name)
	if err != nil {
		return err
	}
	e, err := u.Journal.Begin(journal.Entry{Kind: journal.Shrink, Name: name, ID: id, Size: want})
	if err != nil {
		return err
	}
	if err := image.Resize(want); err != nil {
		u.Journal.Leave(e)
		return err
	}
	return u.Journal.End(e)
}

// Wipe implements storage.Wiper.
func (d *Driver) Wipe(ctx context.Context, req *pb.WipeRequest, progress storage.Progress) error {
	_, err := with(ctx, d, req.GetPool(), 1, func(ctx context.Context, u *use) (struct{}, error) {
		name := req.GetVolume().GetName()
		if err := u.Journal.Claim(); err != nil {
			return struct{}{}, u.failed(err, "cannot wipe image '%s'", name)
		}
		image, err := u.Open(name, false)
		if err != nil {
			return struct{}{}, u.missing(name, err)
		}
		err = u.wipe(ctx, content{image, name}, req.GetAlgorithm(), progress)
		if err = errors.Join(err, image.Close()); err != nil {
			err = u.failed(err, "cannot wipe image '%s'", name)
		}
		return struct{}{}, err
	})
	return err
}

// content is an image as package wipe overwrites it.
type content struct {
	ceph.Image
	name string
}

// Name implements wipe.Content.
func (c content) Name() string { return c.name }

// Overwrite implements wipe.Content.
func (c content) Overwrite(_ context.Context, data []byte, at uint64) error {
	_, err := c.WriteAt(data, int64(at))
	return err
}

// Flush implements wipe.Content.
func (c content) Flush(context.Context) error { return c.Sync() }

// wipe overwrites an image. Zeros are written only where there may be data: what was never written has nothing to overwrite, and would take
// room.
func (u *use) wipe(ctx context.Context, image content, algorithm uint32, progress storage.Progress) error {
	size, err := image.Size()
	if err != nil {
		return err
	}
	switch algorithm {
	case wipe.Zero:
		return journal.Zero(image, func(done, total uint64) error {
			progress(done, total)
			return u.ended(ctx)
		})
	case wipe.Trim:
		return u.discard(ctx, image, 0, size, func(done uint64) { progress(done, size) })
	}
	return wipe.Over(ctx, image, size, algorithm, progress)
}

// discardPiece is how much is discarded at once.
const discardPiece = 256 << 20

// discard makes a part of an image read as zeros, and frees its room.
func (u *use) discard(ctx context.Context, image ceph.Image, at, length uint64, told func(done uint64)) error {
	for done := uint64(0); done < length; {
		if err := u.ended(ctx); err != nil {
			return err
		}
		n := min(discardPiece, length-done)
		if err := image.Discard(at+done, n); err != nil {
			return err
		}
		done += n
		told(done)
	}
	return image.Sync()
}
