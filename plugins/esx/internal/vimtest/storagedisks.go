package vimtest

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vmdk"
)

// Keys of a descriptor's data base.
const (
	thinKey = "thinProvisioned"
	uuidKey = "uuid"
)

// disks is a VirtualDiskManager whose disks have extents with content, UUIDs of their own and room or none, and that fills them.
type disks struct {
	*simulator.VirtualDiskManager
	stuck atomic.Bool
}

// StuckDisks has tasks of the manager of disks never end by themselves, from now on.
func (s *Server) StuckDisks(yes bool) {
	for _, ref := range s.model.Map().AllReference("VirtualDiskManager") {
		ref.(*disks).stuck.Store(yes)
	}
}

// task runs work on a disk, and never ends it if the manager is stuck.
func (d *disks) task(ctx *simulator.Context, name string, work func() error) types.ManagedObjectReference {
	return simulator.CreateTask(d, name, func(task *simulator.Task) (types.AnyType, types.BaseMethodFault) {
		for d.stuck.Load() {
			var cancelled bool
			ctx.Map.WithLock(&simulator.Context{}, task, func() { cancelled = task.Info.Cancelled })
			if cancelled {
				return nil, &types.RequestCanceled{}
			}
			time.Sleep(5 * time.Millisecond)
		}
		return nil, faultOf(work())
	}).Run(ctx)
}

// pathError is an error about a datastore path.
type pathError struct{ fault types.BaseMethodFault }

func (e pathError) Error() string { return fmt.Sprintf("%T", e.fault) }

// faultOf is the fault for an error.
func faultOf(err error) types.BaseMethodFault {
	var known pathError
	var at *fs.PathError
	file := types.FileFault{}
	if errors.As(err, &at) {
		file.File = at.Path
	}
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return known.fault
	case errors.Is(err, fs.ErrNotExist):
		return &types.FileNotFound{FileFault: file}
	case errors.Is(err, fs.ErrExist):
		return &types.FileAlreadyExists{FileFault: file}
	}
	return &types.CannotAccessFile{FileFault: file}
}

// at finds the file of a disk.
func at(ctx *simulator.Context, name string) (string, error) {
	path, fault := file(ctx.Map, name)
	if fault != nil {
		return "", pathError{fault}
	}
	return path, nil
}

func flatOf(path string) string { return strings.TrimSuffix(path, ".vmdk") + "-flat.vmdk" }

// write makes the descriptor of a disk, which must not be there if it is new.
func write(path string, d *vmdk.Descriptor, flags int) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|flags, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(d.Write(f), f.Close())
}

// create makes a disk.
func create(path string, size int64, thin bool) error {
	d := vmdk.NewDescriptor(vmdk.Extent{Info: filepath.Base(flatOf(path)), Size: size / vmdk.SectorSize})
	d.DDB[uuidKey] = newDiskUUID()
	if thin {
		d.DDB[thinKey] = "1"
	}
	if err := write(path, d, os.O_EXCL); err != nil {
		return err
	}
	f, err := os.OpenFile(flatOf(path), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// newDiskUUID makes a UUID as hosts write it.
func newDiskUUID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	return fmt.Sprintf("% x-% x", id[:8], id[8:])
}

// CreateVirtualDiskTask makes a disk.
func (d *disks) CreateVirtualDiskTask(ctx *simulator.Context, req *types.CreateVirtualDisk_Task) soap.HasFault {
	ref := d.task(ctx, "createVirtualDisk", func() error {
		path, err := at(ctx, req.Name)
		if err != nil {
			return err
		}
		spec, ok := req.Spec.(types.BaseFileBackedVirtualDiskSpec)
		if !ok {
			return pathError{&types.InvalidArgument{InvalidProperty: "spec"}}
		}
		backed := spec.GetFileBackedVirtualDiskSpec()
		return create(path, backed.CapacityKb*1024, backed.DiskType == string(types.VirtualDiskTypeThin))
	})
	return &methods.CreateVirtualDisk_TaskBody{Res: &types.CreateVirtualDisk_TaskResponse{Returnval: ref}}
}

// CopyVirtualDiskTask copies a disk, which gets a UUID of its own.
func (d *disks) CopyVirtualDiskTask(ctx *simulator.Context, req *types.CopyVirtualDisk_Task) soap.HasFault {
	ref := d.task(ctx, "copyVirtualDisk", func() error {
		from, err := at(ctx, req.SourceName)
		if err != nil {
			return err
		}
		to, err := at(ctx, req.DestName)
		if err != nil {
			return err
		}
		old, err := descriptorOf(from)
		if err != nil {
			return err
		}
		thin := old.DDB[thinKey] == "1"
		if req.DestSpec != nil {
			thin = req.DestSpec.GetVirtualDiskSpec().DiskType == string(types.VirtualDiskTypeThin)
		}
		if err := create(to, old.Capacity(), thin); err != nil {
			return err
		}
		return copyFile(filepath.Join(filepath.Dir(from), old.Extent[0].Info), flatOf(to))
	})
	return &methods.CopyVirtualDisk_TaskBody{Res: &types.CopyVirtualDisk_TaskResponse{Returnval: ref}}
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// MoveVirtualDiskTask gives a disk another name, and its extent too.
func (d *disks) MoveVirtualDiskTask(ctx *simulator.Context, req *types.MoveVirtualDisk_Task) soap.HasFault {
	ref := d.task(ctx, "moveVirtualDisk", func() error {
		from, err := at(ctx, req.SourceName)
		if err != nil {
			return err
		}
		to, err := at(ctx, req.DestName)
		if err != nil {
			return err
		}
		old, err := descriptorOf(from)
		if err != nil {
			return err
		}
		flat := filepath.Join(filepath.Dir(from), old.Extent[0].Info)
		old.Extent[0].Info = filepath.Base(flatOf(to))
		if err := write(to, old, os.O_EXCL); err != nil {
			return err
		}
		return errors.Join(os.Rename(flat, flatOf(to)), os.Remove(from))
	})
	return &methods.MoveVirtualDisk_TaskBody{Res: &types.MoveVirtualDisk_TaskResponse{Returnval: ref}}
}

// change changes a disk.
func (d *disks) change(
	ctx *simulator.Context, name, disk string, work func(path, flat string, d *vmdk.Descriptor) error,
) types.ManagedObjectReference {
	return d.task(ctx, name, func() error {
		path, err := at(ctx, disk)
		if err != nil {
			return err
		}
		have, err := descriptorOf(path)
		if err != nil {
			return err
		}
		if len(have.Extent) != 1 {
			return pathError{&types.InvalidDiskFormat{}}
		}
		return work(path, filepath.Join(filepath.Dir(path), have.Extent[0].Info), have)
	})
}

// DeleteVirtualDiskTask deletes a disk and its extent.
func (d *disks) DeleteVirtualDiskTask(ctx *simulator.Context, req *types.DeleteVirtualDisk_Task) soap.HasFault {
	ref := d.change(ctx, "deleteVirtualDisk", req.Name, func(path, flat string, _ *vmdk.Descriptor) error {
		return errors.Join(os.Remove(path), os.Remove(flat))
	})
	return &methods.DeleteVirtualDisk_TaskBody{Res: &types.DeleteVirtualDisk_TaskResponse{Returnval: ref}}
}

// ExtendVirtualDiskTask makes a disk bigger.
func (d *disks) ExtendVirtualDiskTask(ctx *simulator.Context, req *types.ExtendVirtualDisk_Task) soap.HasFault {
	ref := d.change(ctx, "extendVirtualDisk", req.Name, func(path, flat string, have *vmdk.Descriptor) error {
		size := req.NewCapacityKb * 1024
		if size < have.Capacity() {
			return pathError{&types.InvalidArgument{InvalidProperty: "newCapacityKb"}}
		}
		have.Extent[0].Size = size / vmdk.SectorSize
		return errors.Join(write(path, have, os.O_TRUNC), os.Truncate(flat, size))
	})
	return &methods.ExtendVirtualDisk_TaskBody{Res: &types.ExtendVirtualDisk_TaskResponse{Returnval: ref}}
}

// ZeroFillVirtualDiskTask overwrites a disk with zeros.
func (d *disks) ZeroFillVirtualDiskTask(ctx *simulator.Context, req *types.ZeroFillVirtualDisk_Task) soap.HasFault {
	ref := d.change(ctx, "zeroFillVirtualDisk", req.Name, func(_, flat string, have *vmdk.Descriptor) error {
		return errors.Join(os.Truncate(flat, 0), os.Truncate(flat, have.Capacity()))
	})
	return &methods.ZeroFillVirtualDisk_TaskBody{Res: &types.ZeroFillVirtualDisk_TaskResponse{Returnval: ref}}
}

// InflateVirtualDiskTask gives a thin disk all its room.
func (d *disks) InflateVirtualDiskTask(ctx *simulator.Context, req *types.InflateVirtualDisk_Task) soap.HasFault {
	ref := d.change(ctx, "inflateVirtualDisk", req.Name, func(path, _ string, have *vmdk.Descriptor) error {
		delete(have.DDB, thinKey)
		return write(path, have, os.O_TRUNC)
	})
	return &methods.InflateVirtualDisk_TaskBody{Res: &types.InflateVirtualDisk_TaskResponse{Returnval: ref}}
}

// QueryVirtualDiskUuid tells the UUID that is in the descriptor, or lets the simulator make one of the name.
func (d *disks) QueryVirtualDiskUuid(ctx *simulator.Context, req *types.QueryVirtualDiskUuid) soap.HasFault {
	path, err := at(ctx, req.Name)
	if err == nil {
		if have, err := descriptorOf(path); err == nil && have.DDB[uuidKey] != "" {
			return &methods.QueryVirtualDiskUuidBody{Res: &types.QueryVirtualDiskUuidResponse{Returnval: have.DDB[uuidKey]}}
		}
	}
	return d.VirtualDiskManager.QueryVirtualDiskUuid(ctx, req)
}
