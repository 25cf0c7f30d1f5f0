// Package driver is the storage driver for pools that are folders of this machine: "dir", "fs" (a file system on a device) and "netfs"
// (a network file system), with files and folders as volumes.
//
// The driver keeps nothing: what is mounted is asked of the kernel, and what volumes there are of the folder. A volume that is being
// made has a name that no client sees (workPrefix) and is locked by the process that makes it; it gets its name when it is complete,
// and what a crash left of one is removed by the next Refresh, which finds it unlocked. All methods are safe concurrently. Files were
// written by guests: only sizes and names are read from headers, and nothing that a header names is opened.
package driver

import (
	"context"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/storage/internal/qemuimg"
	"github.com/lodgevirt/lodge/plugins/storage/local/internal/define"
	"github.com/lodgevirt/lodge/sdk/plugin"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
)

// Driver implements storage.Driver and all of its optional interfaces.
type Driver struct{ core plugin.Core }

var (
	_ storage.Driver   = (*Driver)(nil)
	_ storage.Builder  = (*Driver)(nil)
	_ storage.Finder   = (*Driver)(nil)
	_ storage.Volumes  = (*Driver)(nil)
	_ storage.Resizer  = (*Driver)(nil)
	_ storage.Wiper    = (*Driver)(nil)
	_ storage.Transfer = (*Driver)(nil)
)

// Plugin is the plugin that has the driver.
func Plugin(version string) plugin.Plugin {
	return plugin.Plugin{
		Name: "local", Version: version,
		Storage: func(core plugin.Core) (storage.Driver, error) { return &Driver{core: core}, nil },
	}
}

// Capabilities implements storage.Driver.
func (d *Driver) Capabilities(context.Context) ([]*pb.PoolType, error) {
	formats := []string{poolxml.Raw}
	if qemuimg.Available() {
		formats = poolxml.VolumeFormats
	}
	types := []*pb.PoolType{
		{Name: define.Dir, Supported: true},
		{Name: define.FS, Supported: true, SourceFormats: define.FSFormats, DefaultSourceFormat: define.FSFormats[0]},
		{Name: define.NetFS, Supported: true, SourceFormats: define.NetFSFormats, DefaultSourceFormat: define.NetFSFormats[0]},
	}
	for _, t := range types {
		t.VolumeFormats, t.DefaultVolumeFormat = formats, poolxml.Raw
		if _, err := exec.LookPath("mount"); err != nil && t.Name != define.Dir {
			t.Supported, t.Reason = false, "mount is not installed"
		}
	}
	return types, nil
}

// Validate implements storage.Driver.
func (d *Driver) Validate(_ context.Context, req *pb.ValidateRequest) (*pb.ValidateResponse, error) {
	p, err := define.ParsePool(req.GetXml())
	if err != nil {
		return nil, err
	}
	return p.Validated(p.Exclusive(), "")
}

// Check implements storage.Driver.
func (d *Driver) Check(_ context.Context, ref *pb.Pool) (bool, error) {
	p, err := define.ParsePool(ref.GetXml())
	if err != nil {
		return false, err
	}
	if p.Type == define.Dir {
		info, err := os.Stat(p.Target.Path)
		return err == nil && info.IsDir(), nil
	}
	return mounted(p)
}

// Start implements storage.Driver.
func (d *Driver) Start(ctx context.Context, ref *pb.Pool) error {
	p, err := define.ParsePool(ref.GetXml())
	if err != nil {
		return err
	}
	info, err := os.Stat(p.Target.Path)
	if err == nil && !info.IsDir() {
		err = unix.ENOTDIR
	}
	if err != nil {
		return storage.SystemError(err, "cannot open directory '%s'", p.Target.Path)
	}
	if p.Type == define.Dir {
		return nil
	}
	is, err := mounted(p)
	if err != nil || is {
		return err
	}
	return mount(ctx, p)
}

// Stop implements storage.Driver.
func (d *Driver) Stop(ctx context.Context, ref *pb.Pool) error {
	p, err := define.ParsePool(ref.GetXml())
	if err != nil || p.Type == define.Dir {
		return err
	}
	is, err := mounted(p)
	if err != nil || !is {
		return err
	}
	return unmount(ctx, p)
}
