package driver

import (
	"context"
	"slices"

	"github.com/lodgevirt/lodge/plugins/storage/internal/blockdev"
	"github.com/lodgevirt/lodge/plugins/storage/logical/internal/lvm"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
)

// lookBatch is how many volumes are told at once.
const lookBatch = 256

// Refresh implements storage.Driver.
func (d *Driver) Refresh(ctx context.Context, ref *pb.Pool, found func(...*pb.Volume) error) (*pb.PoolSize, error) {
	p, err := d.open(ref)
	if err != nil {
		return nil, err
	}
	all, err := p.Volumes(ctx)
	if err == nil && d.sweep(ctx, p, all) {
		all, err = p.Volumes(ctx) // what was to be swept may have been completed meanwhile
	}
	if err != nil {
		return nil, p.failed("look at", err)
	}
	shared := false
	var volumes []*pb.Volume
	for _, v := range all {
		if shown(v) {
			volumes = append(volumes, p.describe(v))
			shared = shared || v.Origin != ""
		}
	}
	for batch := range slices.Chunk(volumes, lookBatch) {
		if err := found(batch...); err != nil {
			return nil, err
		}
	}
	size, err := p.Size(ctx)
	if err != nil {
		return nil, p.failed("look at", err)
	}
	// A volume that goes takes its snapshots along.
	return &pb.PoolSize{Capacity: size.Total, Available: size.Free, Allocation: size.Total - min(size.Free, size.Total), Entangled: shared}, nil
}

// shown reports whether clients see a volume: it has, or can have, a device.
func shown(v *lvm.Volume) bool { return !v.Hidden && !v.Pool() && !v.Inactive() && !making(v.Name) }

// describe tells a volume to the core.
func (p *pool) describe(v *lvm.Volume) *pb.Volume {
	out := &pb.Volume{
		Name: v.Name, Key: v.UUID, Path: p.Path(v.Name), Type: pb.VolumeType_VOLUME_TYPE_BLOCK,
		Capacity: v.Capacity(), Allocation: v.Allocation(), Physical: v.Capacity(), Extents: v.Extents,
	}
	if v.Origin != "" {
		out.Backing = &pb.Backing{Path: p.Path(v.Origin)}
	}
	blockdev.Describe(out)
	if v.Partial() {
		out.Trouble = "a device of the volume group is missing"
	}
	return out
}

// Look implements storage.Volumes.
func (d *Driver) Look(ctx context.Context, ref *pb.Pool, name string) (*pb.Volume, error) {
	p, err := d.open(ref)
	if err != nil {
		return nil, err
	}
	return p.look(ctx, name)
}

func (p *pool) look(ctx context.Context, name string) (*pb.Volume, error) {
	v, _, err := p.find(ctx, name)
	if err != nil {
		return nil, err
	}
	return p.describe(v), nil
}

// find finds a volume that clients see, among all.
func (p *pool) find(ctx context.Context, name string) (*lvm.Volume, []*lvm.Volume, error) {
	all, err := p.Volumes(ctx)
	if err != nil {
		return nil, nil, p.failed("look at", err)
	}
	for _, v := range all {
		if v.Name == name && shown(v) {
			return v, all, nil
		}
	}
	return nil, nil, storage.NoVolume(name)
}
