package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/lodgevirt/lodge/plugins/storage/internal/blockdev"
	"github.com/lodgevirt/lodge/plugins/storage/internal/fileio"
	"github.com/lodgevirt/lodge/plugins/storage/logical/internal/define"
	"github.com/lodgevirt/lodge/plugins/storage/logical/internal/lvm"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// validate is the flag of virStorageVolCreateFlags that asks for what is done anyway.
const validate = 1 << 2

// Create implements storage.Volumes: an empty volume, a sparse one, a snapshot or a copy.
func (d *Driver) Create(ctx context.Context, req *pb.CreateRequest, progress storage.Progress) (*pb.Volume, error) {
	p, err := d.open(req.GetPool())
	if err != nil {
		return nil, err
	}
	if err := storage.UnknownFlags(req.GetFlags(), validate); err != nil {
		return nil, err
	}
	var size *uint64
	if req.GetFrom() != nil {
		size = &req.GetFrom().Capacity
	}
	def, err := p.ParseVolume(req.GetXml(), size)
	if err != nil {
		return nil, err
	}
	if making(def.Name) {
		return nil, verr.New(verr.XMLError, "names of volumes cannot begin with '%s'", makingPrefix).In(verr.FromStorage)
	}
	all, err := p.Volumes(ctx)
	if err != nil {
		return nil, p.failed("look at", err)
	}
	if err := fits(def, all); err != nil {
		return nil, err
	}
	here, err := thisMaker()
	if err != nil {
		return nil, verr.New(verr.Internal, "this process cannot be told from others: %w", err).In(verr.FromStorage)
	}
	if err := p.make(ctx, def, here.name(d.made.Add(1)), req.GetFrom(), progress); err != nil {
		return nil, err
	}
	return p.look(ctx, def.Name)
}

// fits refuses a name that is taken, and completes the size of a snapshot by its origin's.
func fits(def *define.Volume, all []*lvm.Volume) error {
	var origin *lvm.Volume
	for _, v := range all {
		if v.Name == def.Name {
			return exists(def.Name)
		}
		if v.Name == def.Origin && shown(v) {
			origin = v
		}
	}
	if def.Origin == "" {
		return nil
	}
	if origin == nil {
		return storage.NoVolume(def.Origin)
	}
	if def.CapacityBytes == 0 {
		def.CapacityBytes = origin.Capacity()
	}
	if def.Whole || def.AllocationBytes == 0 {
		def.AllocationBytes = def.CapacityBytes
	}
	return nil
}

func exists(name string) error {
	return verr.New(verr.StorageVolExist, "logical volume '%s' already exists", name).In(verr.FromStorage)
}

// arguments are lvcreate's for a volume.
func (p *pool) arguments(def *define.Volume, name string) []string {
	args := []string{"--yes", "--name", name, "--size"}
	bytes := func(n uint64) string { return fmt.Sprintf("%db", n) }
	switch {
	case def.Origin != "":
		return append(args, bytes(def.AllocationBytes), "--snapshot", p.Group.Volume(def.Origin))
	case def.Sparse:
		// LVM rounds up to an extent, which is where what is written goes.
		return append(args, bytes(max(def.AllocationBytes, 512)), "--type", "snapshot", "--virtualsize", bytes(def.CapacityBytes), p.Group.Name)
	}
	return append(args, bytes(def.CapacityBytes), "--zero", "y", "--wipesignatures", "y", p.Group.Name)
}

// make makes a volume under a name that nobody sees, and gives it its own at the end.
func (p *pool) make(ctx context.Context, def *define.Volume, name string, from *pb.Volume, progress storage.Progress) (err error) {
	defer func() {
		if err == nil {
			return
		}
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
		defer cancel()
		// Where it was not made there is nothing to remove; what stays is swept once this process is gone.
		_ = p.Change(undo, "lvremove", "--force", p.Group.Volume(name))
	}()
	if err := p.Change(ctx, "lvcreate", p.arguments(def, name)...); err != nil {
		return p.notMade(ctx, def, err)
	}
	path := p.Path(name)
	if from != nil {
		if err := fill(ctx, path, from, progress); err != nil {
			return err
		}
	}
	if def.Target.Permissions != nil {
		if err := blockdev.Wait(ctx, path, 0); err != nil {
			return err
		}
		if err := blockdev.Own(path, def.Target.Permissions); err != nil {
			return err
		}
	}
	err = p.Change(ctx, "lvrename", p.Group.Name, name, def.Name)
	if err == nil {
		return nil
	}
	var other error
	if _, _, other = p.find(context.WithoutCancel(ctx), def.Name); other == nil && strings.Contains(err.Error(), "already exists") {
		return exists(def.Name)
	}
	return p.notMade(ctx, def, err)
}

func (p *pool) notMade(ctx context.Context, def *define.Volume, err error) error {
	switch {
	case ctx.Err() != nil:
		return verr.New(verr.OperationAborted, "making volume '%s' was given up: %w", def.Name, err).In(verr.FromStorage)
	case errors.Is(err, lvm.ErrNoMapper):
		kind := "volumes"
		if def.Origin != "" {
			kind = "snapshots"
		} else if def.Sparse {
			kind = "sparse volumes (whose allocation is less than their capacity)"
		}
		return verr.New(verr.ConfigUnsupported, "%s cannot be made on this host: %w", kind, err).In(verr.FromStorage)
	}
	return storage.Failed("cannot make volume '%s': %w", def.Name, err)
}

// fill copies the content of another volume.
func fill(ctx context.Context, path string, from *pb.Volume, progress storage.Progress) error {
	in, err := blockdev.Open(from, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	end, err := fileio.Size(in)
	if err != nil {
		return storage.SystemError(err, "cannot find the size of '%s'", from.GetPath())
	}
	if err := blockdev.Wait(ctx, path, end); err != nil {
		return err
	}
	out, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return storage.SystemError(err, "cannot open '%s'", path)
	}
	return errors.Join(blockdev.Copy(ctx, in, out, 0, int64(end), progress), out.Close())
}
