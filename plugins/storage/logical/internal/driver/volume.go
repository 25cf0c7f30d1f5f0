package driver

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/lodgevirt/lodge/plugins/storage/internal/blockdev"
	"github.com/lodgevirt/lodge/plugins/storage/internal/command"
	"github.com/lodgevirt/lodge/plugins/storage/logical/internal/define"
	"github.com/lodgevirt/lodge/plugins/storage/logical/internal/lvm"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Remove implements storage.Volumes. LVM would remove a volume's snapshots with it, which must be asked for.
func (d *Driver) Remove(ctx context.Context, req *pb.RemoveRequest) error {
	const withSnapshots = 1 << 1
	if err := storage.UnknownFlags(req.GetFlags(), withSnapshots); err != nil {
		return err
	}
	p, err := d.open(req.GetPool())
	if err != nil {
		return err
	}
	v, all, err := p.find(ctx, req.GetVolume().GetName())
	if err != nil {
		return err
	}
	var snapshots []string
	for _, other := range all {
		if other.Origin == v.Name && other.Snapshot() {
			snapshots = append(snapshots, other.Name)
		}
	}
	if len(snapshots) > 0 && req.GetFlags()&withSnapshots == 0 {
		return verr.New(verr.OperationInvalid, "volume '%s' has snapshots that would go with it: %s", v.Name, strings.Join(snapshots, ", ")).
			In(verr.FromStorage)
	}
	if err := p.Change(ctx, "lvremove", "--force", p.Group.Volume(v.Name)); err != nil {
		return storage.Failed("cannot remove volume '%s': %w", v.Name, err)
	}
	return nil
}

// Resize implements storage.Resizer. Sizes are rounded up to the group's extents.
func (d *Driver) Resize(ctx context.Context, req *pb.ResizeRequest) (*pb.Volume, error) {
	const allocate, shrink = 1 << 0, 1 << 2
	if err := storage.UnknownFlags(req.GetFlags(), allocate|shrink); err != nil {
		return nil, err
	}
	p, err := d.open(req.GetPool())
	if err != nil {
		return nil, err
	}
	v, _, err := p.find(ctx, req.GetVolume().GetName())
	if err != nil {
		return nil, err
	}
	if v.Snapshot() {
		return nil, verr.New(verr.OperationUnsupported, "volume '%s' is a snapshot or sparse, which keeps its capacity", v.Name).In(verr.FromStorage)
	}
	size, err := p.Size(ctx)
	if err != nil {
		return nil, p.failed("look at", err)
	}
	unit := max(size.Extent, 1)
	want := req.GetCapacity() / unit
	if req.GetCapacity()%unit > 0 {
		want++
	}
	switch has := v.Size / unit; {
	case want == 0:
		return nil, verr.New(verr.InvalidArg, "a logical volume cannot be empty").In(verr.FromStorage)
	case want < has && req.GetFlags()&shrink == 0:
		return nil, verr.New(verr.InvalidArg, "volume '%s' would shrink, which must be asked for", v.Name).In(verr.FromStorage)
	case want < has:
		err = p.reduce(ctx, v.Name, want)
	case want > has:
		err = p.Change(ctx, "lvextend", "--extents", fmt.Sprint(want), p.Group.Volume(v.Name))
	}
	if err != nil {
		return nil, storage.Failed("cannot resize volume '%s': %w", v.Name, err)
	}
	return p.look(ctx, v.Name)
}

// reduce shrinks a volume whatever is in it.
func (p *pool) reduce(ctx context.Context, name string, extents uint64) error {
	args := []string{"--force", "--yes", "--extents", fmt.Sprint(extents), p.Group.Volume(name)}
	err := p.Change(ctx, "lvreduce", append([]string{"--fs", "ignore"}, args...)...)
	var failed *command.Error
	if errors.As(err, &failed) && strings.Contains(failed.Words, "unrecognized option") { // before LVM 2.03.17, which looks for file systems
		return p.Change(ctx, "lvreduce", args...)
	}
	return err
}

// Wipe implements storage.Wiper.
func (d *Driver) Wipe(ctx context.Context, req *pb.WipeRequest, progress storage.Progress) error {
	_, v, err := d.device(ctx, req.GetPool(), req.GetVolume())
	if err != nil {
		return err
	}
	if v.Snapshot() || v.Thin() { // overwriting takes new room, and leaves what was written before
		return verr.New(verr.OperationUnsupported, "volume '%s' is a snapshot, sparse or thin, which cannot be wiped", v.Name).In(verr.FromStorage)
	}
	return blockdev.Wipe(ctx, req.GetVolume(), req.GetAlgorithm(), progress)
}

// device finds a volume, and has the path of what the core knows be its own.
func (d *Driver) device(ctx context.Context, ref *pb.Pool, known *pb.Volume) (*pool, *lvm.Volume, error) {
	p, err := d.open(ref)
	if err != nil {
		return nil, nil, err
	}
	if !define.ValidName(known.GetName()) || making(known.GetName()) {
		return nil, nil, storage.NoVolume(known.GetName())
	}
	v, _, err := p.find(ctx, known.GetName())
	if err != nil {
		return nil, nil, err
	}
	known.Path = p.Path(v.Name)
	return p, v, nil
}

// Download implements storage.Transfer.
func (d *Driver) Download(ctx context.Context, req *pb.DownloadRequest) (storage.Source, error) {
	if _, _, err := d.device(ctx, req.GetPool(), req.GetVolume()); err != nil {
		return nil, err
	}
	return blockdev.Download(req)
}

// Upload implements storage.Transfer.
func (d *Driver) Upload(ctx context.Context, begin *pb.UploadBegin) (storage.Sink, error) {
	if _, _, err := d.device(ctx, begin.GetPool(), begin.GetVolume()); err != nil {
		return nil, err
	}
	return blockdev.Upload(begin)
}
