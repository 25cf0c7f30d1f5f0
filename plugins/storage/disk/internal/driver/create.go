package driver

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/lodgevirt/lodge/plugins/storage/disk/internal/define"
	"github.com/lodgevirt/lodge/plugins/storage/disk/internal/parted"
	"github.com/lodgevirt/lodge/plugins/storage/internal/blockdev"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// validate is the flag of virStorageVolCreateFlags that asks for what is done anyway.
	validate = 1 << 2
	// undoTime bounds taking back.
	undoTime = 30 * time.Second
)

// Create implements storage.Volumes: the next partition, whose name must be stated. libvirt makes it and complains about the name then.
func (d *Driver) Create(ctx context.Context, req *pb.CreateRequest, progress storage.Progress) (*pb.Volume, error) {
	if err := storage.UnknownFlags(req.GetFlags(), validate); err != nil {
		return nil, err
	}
	from := req.GetFrom()
	var size *uint64
	if from != nil {
		size = &from.Capacity
	}
	def, err := define.ParseVolume(req.GetXml(), size)
	if err != nil {
		return nil, err
	}
	p, err := d.open(req.GetPool())
	if err != nil {
		return nil, err
	}
	release, err := d.take(ctx, p)
	if err != nil {
		return nil, err
	}
	defer release()
	t, err := p.table(ctx)
	if err != nil {
		return nil, err
	}
	made, err := p.plan(t, def)
	if err != nil {
		return nil, err
	}
	if from != nil {
		if from.GetFormat() == define.Extended {
			return nil, verr.New(verr.ConfigUnsupported, "extended partition '%s' cannot be copied", from.GetName()).In(verr.FromStorage)
		}
		if err := p.fill(ctx, made, from, progress); err != nil {
			return nil, err
		}
	}
	if err := p.make(ctx, t.Label, made, def); err != nil {
		return nil, err
	}
	return d.Look(ctx, req.GetPool(), def.Name)
}

// plan places a partition, and refuses a name that will not be its own.
func (p *pool) plan(t *parted.Table, def *poolxml.Volume) (plan, error) {
	for _, part := range t.Parts {
		if p.name(part) == def.Name {
			return plan{}, verr.New(verr.StorageVolExist, "partition '%s' already exists", def.Name).In(verr.FromStorage)
		}
	}
	if flag := flags[def.Target.Format.Type]; flag != "" && !flagged[t.Label] {
		return plan{}, verr.New(verr.ConfigUnsupported, "a partition table of kind '%s' has no partitions of kind '%s'", t.Label, def.Target.Format.Type).
			In(verr.FromStorage)
	}
	made, err := place(t, def)
	if err != nil {
		return plan{}, err
	}
	if want := p.name(parted.Part{Number: made.Number}); def.Name != want {
		return plan{}, verr.New(verr.InvalidArg, "invalid partition name '%s', expected '%s'", def.Name, want).In(verr.FromStorage)
	}
	return made, nil
}

// What parted is told of kinds of partitions.
var (
	systems = map[string]string{
		define.Linux: "ext2", define.FAT16: "fat16", define.FAT32: "fat32", define.Swap: "linux-swap", define.LinuxLVM: "ext2", define.LinuxRAID: "ext2",
	}
	flags = map[string]string{define.LinuxLVM: "lvm", define.LinuxRAID: "raid"}
	// flagged are the labels that have these flags.
	flagged = map[string]bool{msdos: true, "gpt": true, "mac": true}
	// unnamed are the labels whose partitions have neither names nor kinds, but must have a file system.
	unnamed = map[string]bool{"bsd": true, "sun": true}
)

// arguments are parted's for a partition.
func arguments(label string, made plan, format string) []string {
	args := []string{"unit", "B", "mkpart"}
	system := systems[format]
	switch {
	case made.Extended:
		args = append(args, "extended")
	case made.Logical:
		args = append(args, "logical")
	case !unnamed[label]:
		args = append(args, "primary") // where partitions have names, this is one
	case system == "":
		system = systems[define.Linux]
	}
	if system != "" {
		args = append(args, system)
	}
	args = append(args, fmt.Sprintf("%dB", made.Start), fmt.Sprintf("%dB", made.End-1))
	if flag := flags[format]; flag != "" {
		args = append(args, "set", strconv.Itoa(made.Number), flag, "on")
	}
	return args
}

// make has parted make the partition, waits for its node, and takes it back if anything is not as it should be.
func (p *pool) make(ctx context.Context, label string, made plan, def *poolxml.Volume) error {
	err := p.Change(ctx, arguments(label, made, def.Target.Format.Type)...)
	if err == nil {
		err = p.settle(ctx, made, def)
	}
	if err == nil {
		return nil
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	left, errTable := p.table(undo)
	if errTable == nil {
		for _, part := range left.Parts {
			// What begins where nothing was before is ours, whatever its number.
			if part.Start == made.Start && part.Logical == made.Logical {
				_ = p.Change(undo, "rm", strconv.Itoa(part.Number)) // the next Refresh tells what is there
			}
		}
	}
	if ctx.Err() != nil {
		return verr.New(verr.OperationAborted, "making partition '%s' was given up: %w", def.Name, err).In(verr.FromStorage)
	}
	return storage.Failed("cannot make partition '%s': %w", def.Name, err)
}

// settle waits for the node of a new partition, and gives it its permissions.
func (p *pool) settle(ctx context.Context, made plan, def *poolxml.Volume) error {
	path := p.node(parted.Part{Number: made.Number})
	size := made.Size()
	if made.Extended { // the kernel shows the first blocks only
		size = 0
	}
	if err := blockdev.Wait(ctx, path, size); err != nil {
		return err
	}
	return blockdev.Own(path, def.Target.Permissions)
}

// fill copies a partition's content to where the new one will be.
func (p *pool) fill(ctx context.Context, made plan, from *pb.Volume, progress storage.Progress) error {
	in, err := blockdev.Open(from, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(p.Path, os.O_RDWR, 0)
	if err != nil {
		return storage.SystemError(err, "cannot open disk '%s'", p.Path)
	}
	defer func() { _ = out.Close() }()
	return blockdev.Copy(ctx, in, out, int64(made.Start), int64(made.Size()), progress)
}
