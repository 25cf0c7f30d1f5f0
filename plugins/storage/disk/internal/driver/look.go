package driver

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lodgevirt/lodge/plugins/storage/disk/internal/define"
	"github.com/lodgevirt/lodge/plugins/storage/disk/internal/parted"
	"github.com/lodgevirt/lodge/plugins/storage/internal/blockdev"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// firstFree is where room can begin: the first block is the table's, even where parted says that it is free.
const firstFree = 512

// node is the path of a partition's node.
func (p *pool) node(part parted.Part) string { return p.prefix + strconv.Itoa(part.Number) }

// name is a partition's name as a volume.
func (p *pool) name(part parted.Part) string { return filepath.Base(p.node(part)) }

// Refresh implements storage.Driver.
func (d *Driver) Refresh(ctx context.Context, ref *pb.Pool, found func(...*pb.Volume) error) (*pb.PoolSize, error) {
	p, err := d.open(ref)
	if err != nil {
		return nil, err
	}
	t, err := p.table(ctx)
	if err != nil {
		return nil, err
	}
	stable := p.stable()
	var volumes []*pb.Volume
	size := &pb.PoolSize{Entangled: true}
	for _, part := range t.Parts {
		volumes = append(volumes, p.describe(t, part, stable))
		size.Capacity = max(size.Capacity, part.End)
		if !part.Extended {
			size.Allocation += part.Size()
		}
	}
	for _, s := range t.Free {
		s.Start = max(s.Start, firstFree)
		size.Free = append(size.Free, &pb.Extent{Device: p.Device(), Start: s.Start, End: s.End})
		size.Capacity = max(size.Capacity, s.End)
		size.Available += s.Size()
	}
	return size, found(volumes...)
}

// describe tells a partition to the core.
func (p *pool) describe(t *parted.Table, part parted.Part, stable map[string]string) *pb.Volume {
	path := p.node(part)
	if link, ok := stable[path]; ok {
		path = link
	}
	v := &pb.Volume{
		Name: p.name(part), Key: path, Path: path, Type: pb.VolumeType_VOLUME_TYPE_BLOCK, Format: kind(part),
		Capacity: part.Size(), Allocation: part.Size(), Physical: part.Size(),
		Extents: []*pb.Extent{{Device: p.Device(), Start: part.Start, End: part.End}},
	}
	if part.Extended {
		v.Allocation = 0
		for _, inner := range t.Parts {
			if inner.Logical {
				v.Allocation += inner.Size()
			}
		}
	}
	blockdev.Describe(v)
	return v
}

// stable maps nodes to the links to them in the pool's target, where that is a folder of such links.
func (p *pool) stable() map[string]string {
	if filepath.Dir(p.node(parted.Part{})) == p.Target.Path {
		return nil
	}
	all, err := os.ReadDir(p.Target.Path)
	if err != nil {
		return nil // the nodes themselves will do
	}
	links := map[string]string{}
	for _, e := range all {
		path := filepath.Join(p.Target.Path, e.Name())
		if to, err := filepath.EvalSymlinks(path); err == nil && e.Type()&os.ModeSymlink != 0 && strings.HasPrefix(to, p.prefix) && links[to] == "" {
			links[to] = path
		}
	}
	return links
}

// Kinds of partitions by what parted and the table say, the first that fits.
var (
	kindByFlag = []struct{ flag, kind string }{
		{"lvm", define.LinuxLVM}, {"raid", define.LinuxRAID}, {"swap", define.Swap},
	}
	kindByCode = map[byte]string{
		0x04: define.FAT16, 0x06: define.FAT16, 0x0e: define.FAT16, 0x0b: define.FAT32, 0x0c: define.FAT32,
		0x82: define.Swap, 0x83: define.Linux, 0x8e: define.LinuxLVM, 0xfd: define.LinuxRAID,
	}
	linuxSystems = []string{"ext2", "ext3", "ext4", "xfs", "btrfs", "jfs", "reiserfs"}
)

// kind is libvirt's name for what a partition is.
func kind(part parted.Part) string {
	if part.Extended {
		return define.Extended
	}
	for _, k := range kindByFlag {
		if part.Has(k.flag) {
			return k.kind
		}
	}
	switch {
	case kindByCode[part.Code] != "":
		return kindByCode[part.Code]
	case part.System == define.FAT16 || part.System == define.FAT32:
		return part.System
	case strings.HasPrefix(part.System, "linux-swap"):
		return define.Swap
	case slices.Contains(linuxSystems, part.System):
		return define.Linux
	}
	return define.VolumeFormats[0]
}

// Look implements storage.Volumes.
func (d *Driver) Look(ctx context.Context, ref *pb.Pool, name string) (*pb.Volume, error) {
	p, err := d.open(ref)
	if err != nil {
		return nil, err
	}
	t, err := p.table(ctx)
	if err != nil {
		return nil, err
	}
	for _, part := range t.Parts {
		if p.name(part) == name {
			return p.describe(t, part, p.stable()), nil
		}
	}
	return nil, storage.NoVolume(name)
}

// find finds the partition of a volume that the core knows. One that begins elsewhere now is another one.
func (p *pool) find(ctx context.Context, known *pb.Volume) (*parted.Table, parted.Part, error) {
	t, err := p.table(ctx)
	if err != nil {
		return nil, parted.Part{}, err
	}
	for _, part := range t.Parts {
		if p.name(part) != known.GetName() {
			continue
		}
		if e := known.GetExtents(); len(e) > 0 && e[0].GetStart() != part.Start {
			return nil, parted.Part{}, verr.New(verr.OperationInvalid,
				"partition '%s' is another one than it was: the pool must be refreshed", known.GetName()).In(verr.FromStorage)
		}
		return t, part, nil
	}
	return nil, parted.Part{}, storage.NoVolume(known.GetName())
}
