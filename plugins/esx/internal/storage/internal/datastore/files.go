package datastore

import (
	"context"
	"fmt"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// hands are what works on the files of a datacenter.
type hands struct {
	disks *object.VirtualDiskManager
	files *object.FileManager
	dc    *object.Datacenter
}

// hands are those of a session.
func (p *Pool) hands(client *vim25.Client) (*hands, error) {
	if client.ServiceContent.VirtualDiskManager == nil || client.ServiceContent.FileManager == nil {
		return nil, refuse(verr.NoSupport, "the endpoint has no managers of disks and files")
	}
	return &hands{
		disks: object.NewVirtualDiskManager(client), files: object.NewFileManager(client), dc: object.NewDatacenter(client, p.place.Datacenter),
	}, nil
}

// start starts a task.
type start func(ctx context.Context, h *hands) (*object.Task, error)

// run runs a task.
func (p *Pool) run(ctx context.Context, what string, progress storage.Progress, start start) error {
	return p.place.Tasks.Run(ctx, what, progress, func(ctx context.Context, client *vim25.Client) (*object.Task, error) {
		h, err := p.hands(client)
		if err != nil {
			return nil, err
		}
		return start(ctx, h)
	})
}

// inBytes is a progress in bytes of a whole, for work that counts in parts of another one.
func inBytes(progress storage.Progress, whole uint64) storage.Progress {
	return func(done, total uint64) {
		if total > 0 {
			progress(uint64(float64(whole)*float64(done)/float64(total)), whole)
		}
	}
}

// createDisk makes an empty disk.
func (p *Pool) createDisk(ctx context.Context, name string, kib int64, kind types.VirtualDiskType, progress storage.Progress) error {
	spec := &types.FileBackedVirtualDiskSpec{VirtualDiskSpec: diskSpec(kind), CapacityKb: kib}
	return p.run(ctx, fmt.Sprintf("create disk '%s'", p.path(name)), progress, func(ctx context.Context, h *hands) (*object.Task, error) {
		return h.disks.CreateVirtualDisk(ctx, p.path(name), h.dc, spec)
	})
}

// diskSpec is how a disk is stored. The adapter is only noted with the disk, and may be another one in a machine.
func diskSpec(kind types.VirtualDiskType) types.VirtualDiskSpec {
	return types.VirtualDiskSpec{DiskType: string(kind), AdapterType: string(types.VirtualDiskAdapterTypeLsiLogic)}
}

// copy copies a file, or a disk with its extents, to a name that must not be taken. from is a path with its datastore.
func (p *Pool) copy(ctx context.Context, from, name string, kind types.VirtualDiskType, progress storage.Progress) error {
	spec := diskSpec(kind)
	return p.run(ctx, fmt.Sprintf("copy '%s' to '%s'", from, p.path(name)), progress, func(ctx context.Context, h *hands) (*object.Task, error) {
		if isDisk(name) {
			return h.disks.CopyVirtualDisk(ctx, from, h.dc, p.path(name), h.dc, &spec, false)
		}
		return h.files.CopyDatastoreFile(ctx, from, h.dc, p.path(name), h.dc, false)
	})
}

// move gives a disk with its extents, or a file, a name that must not be taken.
func (p *Pool) move(ctx context.Context, from, to string) error {
	if !isDisk(from) {
		return p.moveFile(ctx, from, to, false)
	}
	return p.run(ctx, fmt.Sprintf("name disk '%s'", p.path(to)), nil, func(ctx context.Context, h *hands) (*object.Task, error) {
		return h.disks.MoveVirtualDisk(ctx, p.path(from), h.dc, p.path(to), h.dc, false)
	})
}

// moveFile gives one file another name; force replaces what has it.
func (p *Pool) moveFile(ctx context.Context, from, to string, force bool) error {
	return p.run(ctx, fmt.Sprintf("name file '%s'", p.path(to)), nil, func(ctx context.Context, h *hands) (*object.Task, error) {
		return h.files.MoveDatastoreFile(ctx, p.path(from), h.dc, p.path(to), h.dc, force)
	})
}

// remove deletes a disk with its extents, or a file.
func (p *Pool) remove(ctx context.Context, name string) error {
	if !isDisk(name) {
		return p.removeFile(ctx, name)
	}
	return p.run(ctx, fmt.Sprintf("delete disk '%s'", p.path(name)), nil, func(ctx context.Context, h *hands) (*object.Task, error) {
		return h.disks.DeleteVirtualDisk(ctx, p.path(name), h.dc)
	})
}

// removeFile deletes one file.
func (p *Pool) removeFile(ctx context.Context, name string) error {
	return p.run(ctx, fmt.Sprintf("delete file '%s'", p.path(name)), nil, func(ctx context.Context, h *hands) (*object.Task, error) {
		return h.files.DeleteDatastoreFile(ctx, p.path(name), h.dc)
	})
}

// extend makes a disk bigger; zero has the room overwritten.
func (p *Pool) extend(ctx context.Context, name string, kib int64, zero bool) error {
	return p.run(ctx, fmt.Sprintf("extend disk '%s'", p.path(name)), nil, func(ctx context.Context, h *hands) (*object.Task, error) {
		return h.disks.ExtendVirtualDisk(ctx, p.path(name), h.dc, kib, types.NewBool(zero))
	})
}

// zero overwrites a disk with zeros.
func (p *Pool) zero(ctx context.Context, name string, progress storage.Progress) error {
	return p.run(ctx, fmt.Sprintf("wipe disk '%s'", p.path(name)), progress, func(ctx context.Context, h *hands) (*object.Task, error) {
		req := types.ZeroFillVirtualDisk_Task{This: h.disks.Reference(), Name: p.path(name), Datacenter: &p.place.Datacenter}
		res, err := methods.ZeroFillVirtualDisk_Task(ctx, h.disks.Client(), &req)
		if err != nil {
			return nil, err
		}
		return object.NewTask(h.disks.Client(), res.Returnval), nil
	})
}
