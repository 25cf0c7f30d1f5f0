package datastore

import (
	"context"

	"github.com/vmware/govmomi/vim25/types"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Remove deletes a volume, a disk with its extents.
func (p *Pool) Remove(ctx context.Context, req *pb.RemoveRequest) error {
	if err := storage.UnknownFlags(req.GetFlags(), 0); err != nil {
		return err
	}
	name := req.GetVolume().GetName()
	if _, err := p.lookAt(ctx, name); err != nil {
		return err
	}
	if err := p.remove(ctx, name); err != nil {
		return err
	}
	p.keys.drop(name)
	return nil
}

// Flags of virStorageVolResizeFlags, from libvirt's public header <libvirt/libvirt-storage.h>.
const (
	resizeAllocate = 1 << 0
	resizeShrink   = 1 << 2
)

// Resize makes a disk bigger.
func (p *Pool) Resize(ctx context.Context, req *pb.ResizeRequest) (*pb.Volume, error) {
	if err := storage.UnknownFlags(req.GetFlags(), resizeAllocate|resizeShrink); err != nil {
		return nil, err
	}
	name := req.GetVolume().GetName()
	f, err := p.lookAt(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := p.mayResize(f, req); err != nil {
		return nil, err
	}
	if now := p.volume(f).GetCapacity(); req.GetCapacity() > now {
		kib := int64((req.GetCapacity() + 1023) >> 10)
		if err := p.extend(ctx, name, kib, req.GetFlags()&resizeAllocate != 0); err != nil {
			return nil, err
		}
	}
	return p.Look(ctx, name)
}

// mayResize refuses what hosts cannot do.
func (p *Pool) mayResize(f found, req *pb.ResizeRequest) error {
	disk, _ := f.info.(*types.VmDiskFileInfo)
	now := p.volume(f).GetCapacity()
	switch {
	case !isDisk(f.name):
		return refuse(verr.NoSupport, "volume '%s' is no disk, and cannot be resized", p.path(f.name))
	case req.GetCapacity() < now:
		return refuse(verr.OperationUnsupported, "volume '%s' of %d bytes cannot be made smaller", p.path(f.name), now)
	case req.GetCapacity() > maxCapacity:
		return refuse(verr.Overflow, "capacity %d of volume '%s' is too big", req.GetCapacity(), p.path(f.name))
	case req.GetFlags()&resizeAllocate != 0 && disk != nil && disk.Thin != nil && *disk.Thin:
		return refuse(verr.OperationUnsupported, "volume '%s' is thin, and cannot be extended with its room allocated", p.path(f.name))
	}
	return nil
}

// Wipe overwrites a disk with zeros.
func (p *Pool) Wipe(ctx context.Context, req *pb.WipeRequest, progress storage.Progress) error {
	const zeros = 0
	name := req.GetVolume().GetName()
	if req.GetAlgorithm() != zeros {
		return refuse(verr.ArgumentUnsupported, "volumes of a datastore are wiped with zeros, not with algorithm %d", req.GetAlgorithm())
	}
	f, err := p.lookAt(ctx, name)
	if err != nil {
		return err
	}
	if !isDisk(f.name) {
		return refuse(verr.NoSupport, "volume '%s' is no disk, and cannot be wiped", p.path(name))
	}
	return p.zero(ctx, name, inBytes(progress, p.volume(f).GetCapacity()))
}
