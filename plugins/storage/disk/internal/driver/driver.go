// Package driver is the storage driver for pools that are disks, with partitions as volumes.
//
// The driver keeps nothing: partitions are read from the disk each time. A partition is made in one write of the table, which is what makes
// it seen; one that is a copy gets its content before, while its place is free. A partition has its number for a name, and others get
// new numbers when a logical one goes, so a call about a volume is refused if the partition of that name no longer begins where it
// did. All methods are safe concurrently: changes of one disk run one after the other.
package driver

import (
	"context"
	"path/filepath"
	"strings"
	"sync"

	"github.com/lodgevirt/lodge/plugins/storage/disk/internal/define"
	"github.com/lodgevirt/lodge/plugins/storage/disk/internal/parted"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Driver implements storage.Driver and those of its optional interfaces that a disk can honour: partitions keep their size.
type Driver struct {
	core  plugin.Core
	disks sync.Map // of a disk's path to a channel that has a token while a change is under way
}

var (
	_ storage.Driver   = (*Driver)(nil)
	_ storage.Builder  = (*Driver)(nil)
	_ storage.Volumes  = (*Driver)(nil)
	_ storage.Wiper    = (*Driver)(nil)
	_ storage.Transfer = (*Driver)(nil)
)

// Plugin is the plugin that has the driver.
func Plugin(version string) plugin.Plugin {
	return plugin.Plugin{
		Name: "disk", Version: version,
		Storage: func(core plugin.Core) (storage.Driver, error) { return &Driver{core: core}, nil },
	}
}

// Capabilities implements storage.Driver.
func (d *Driver) Capabilities(context.Context) ([]*pb.PoolType, error) {
	t := &pb.PoolType{
		Name: define.Type, Supported: parted.Available(), SourceFormats: define.Formats, DefaultSourceFormat: define.Formats[0],
		VolumeFormats: define.VolumeFormats, DefaultVolumeFormat: define.VolumeFormats[0],
	}
	if !t.Supported {
		t.Reason = "parted is not installed"
	}
	return []*pb.PoolType{t}, nil
}

// Validate implements storage.Driver.
func (d *Driver) Validate(_ context.Context, req *pb.ValidateRequest) (*pb.ValidateResponse, error) {
	p, err := define.ParsePool(req.GetXml())
	if err != nil {
		return nil, err
	}
	return p.Validated(p.Exclusive(), "")
}

// pool is a pool with its disk.
type pool struct {
	*define.Pool
	parted.Disk
	// prefix is what stands before a partition's number in the path of its node.
	prefix string
}

// mapped is where device-mapper's nodes are by name.
const mapped = "/dev/mapper/"

// open reads a pool's definition, and finds out which disk its path leads to.
func (d *Driver) open(ref *pb.Pool) (*pool, error) {
	p, err := define.ParsePool(ref.GetXml())
	if err != nil {
		return nil, err
	}
	path := filepath.Clean(p.Device())
	isMapped := strings.HasPrefix(path, mapped)
	if !isMapped {
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return nil, verr.New(verr.InvalidArg, "device path '%s' doesn't exist", p.Device()).In(verr.FromStorage)
		}
	}
	out := &pool{Pool: p, Disk: parted.On(d.core.Settings().RuntimeDir, path), prefix: path}
	if digit := path[len(path)-1]; digit >= '0' && digit <= '9' || isMapped && p.Separated() {
		out.prefix += "p"
	}
	return out, nil
}

// take waits for the right to change a disk.
func (d *Driver) take(ctx context.Context, p *pool) (release func(), err error) {
	one, _ := d.disks.LoadOrStore(p.Path, make(chan struct{}, 1))
	slot := one.(chan struct{})
	select {
	case slot <- struct{}{}:
		return func() { <-slot }, nil
	case <-ctx.Done():
		return nil, verr.New(verr.OperationTimeout, "another change of '%s' is under way: %w", p.Path, ctx.Err()).In(verr.FromStorage)
	}
}
