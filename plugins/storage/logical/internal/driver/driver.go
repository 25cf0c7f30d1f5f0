// Package driver is the storage driver for pools that are volume groups of LVM, with logical volumes as volumes.
//
// The driver keeps nothing: groups and volumes are asked of LVM each time. A volume that is being made has a name that no client sees and
// that says which process makes it (making.go); it gets its name when it is complete, and the next Refresh removes what a process that
// is gone was making. All methods are safe concurrently; package lvm orders what they do with one group.
package driver

import (
	"context"
	"encoding/json"
	"sync/atomic"

	"github.com/lodgevirt/lodge/plugins/storage/logical/internal/define"
	"github.com/lodgevirt/lodge/plugins/storage/logical/internal/lvm"
	"github.com/lodgevirt/lodge/sdk/plugin"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
)

// Driver implements storage.Driver and all of its optional interfaces.
type Driver struct {
	core plugin.Core
	made atomic.Uint64 // numbers the volumes that this process makes
}

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
		Name: "logical", Version: version,
		ConfigKeys: []*basev1.ConfigKey{{
			Name: "program", Kind: basev1.ValueKind_VALUE_KIND_STRING, Help: "LVM's program, by name or path", DefaultValue: `"` + lvm.Program + `"`,
		}},
		Storage: func(core plugin.Core) (storage.Driver, error) { return &Driver{core: core}, nil },
	}
}

// Capabilities implements storage.Driver.
func (d *Driver) Capabilities(context.Context) ([]*pb.PoolType, error) {
	t := &pb.PoolType{
		Name: define.Type, Supported: d.lvm().Available(), SourceFormats: []string{"unknown", "lvm2"}, DefaultSourceFormat: define.Formats[0],
	}
	if !t.Supported {
		t.Reason = "LVM is not installed"
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

// lvm is LVM as the driver is configured.
func (d *Driver) lvm() lvm.LVM {
	s := d.core.Settings()
	config := struct {
		Program string `json:"program"`
	}{lvm.Program}
	if err := json.Unmarshal(s.Config, &config); len(s.Config) > 0 && err != nil {
		d.core.Logger().Warn("configuration cannot be read", "error", err) // the core has checked it
	}
	return lvm.LVM{Program: config.Program, Folder: s.RuntimeDir}
}

// pool is a pool with its group.
type pool struct {
	*define.Pool
	lvm.Group
	lvm lvm.LVM
}

// open reads a pool's definition.
func (d *Driver) open(ref *pb.Pool) (*pool, error) {
	p, err := define.ParsePool(ref.GetXml())
	if err != nil {
		return nil, err
	}
	installed := d.lvm()
	return &pool{p, installed.Group(p.Group()), installed}, nil
}
