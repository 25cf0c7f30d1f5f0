// Package driver is the storage driver for pools in sheepdog clusters, with images as volumes.
//
// The driver keeps nothing: everything is asked of one of the cluster's nodes by dog (package dog). An image is made, cloned, resized and
// deleted by one change of the cluster's each, so that nobody sees one half made. A clone needs a snapshot of what it is made from, whose
// tag begins with workTag; it is deleted at once, and what a crash leaves of one by a later Refresh. All methods are safe concurrently.
package driver

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/lodgevirt/lodge/plugins/storage/sheepdog/internal/define"
	"github.com/lodgevirt/lodge/plugins/storage/sheepdog/internal/dog"
	"github.com/lodgevirt/lodge/sdk/plugin"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Driver implements storage.Driver and the optional interfaces but for Builder and Finder.
type Driver struct{ core plugin.Core }

var (
	_ storage.Driver    = (*Driver)(nil)
	_ storage.Volumes   = (*Driver)(nil)
	_ storage.Resizer   = (*Driver)(nil)
	_ storage.Wiper     = (*Driver)(nil)
	_ storage.Transfer  = (*Driver)(nil)
	_ plugin.Configurer = (*Driver)(nil)
)

// Plugin is the plugin that has the driver.
func Plugin(version string) plugin.Plugin {
	return plugin.Plugin{
		Name: "sheepdog", Version: version,
		ConfigKeys: []*basev1.ConfigKey{
			{Name: "dog", Kind: basev1.ValueKind_VALUE_KIND_STRING, Help: "path of dog; dog or collie is looked for if empty"},
			{Name: "timeout_seconds", Kind: basev1.ValueKind_VALUE_KIND_INTEGER, Help: "how long one run of dog may take, from 1 to 600; 30 if not set"},
		},
		Storage: func(core plugin.Core) (storage.Driver, error) { return &Driver{core: core}, nil },
	}
}

// defaultTimeout bounds a run of dog where nothing else is set.
const defaultTimeout = 30

// Config is the plugin's own table.
type Config struct {
	// Program is dog's path, or empty to look for it.
	Program string `json:"dog"`
	// TimeoutSeconds bounds a run; 0 is defaultTimeout.
	TimeoutSeconds int64 `json:"timeout_seconds"`
}

func parseConfig(text []byte) (Config, error) {
	c := Config{}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &c); err != nil {
			return c, verr.New(verr.ConfigUnsupported, "read settings of the sheepdog driver: %w", err)
		}
	}
	if c.TimeoutSeconds == 0 {
		c.TimeoutSeconds = defaultTimeout
	}
	if c.TimeoutSeconds < 1 || c.TimeoutSeconds > 600 {
		return c, verr.New(verr.ConfigUnsupported, "timeout_seconds is %d, and may be from 1 to 600", c.TimeoutSeconds)
	}
	return c, nil
}

// Configure implements plugin.Configurer.
func (d *Driver) Configure(_ context.Context, settings plugin.Settings) error {
	_, err := parseConfig(settings.Config)
	return err
}

func (d *Driver) config() Config {
	c, err := parseConfig(d.core.Settings().Config)
	if err != nil { // Configure has refused such a table
		return Config{TimeoutSeconds: defaultTimeout}
	}
	return c
}

// Capabilities implements storage.Driver.
func (d *Driver) Capabilities(context.Context) ([]*pb.PoolType, error) {
	t := &pb.PoolType{Name: define.Type, Supported: true}
	if err := dog.Available(d.config().Program); err != nil {
		t.Supported, t.Reason = false, err.Error()
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

// pool is a pool with its cluster.
type pool struct {
	*define.Pool
	cluster dog.Cluster
}

func (d *Driver) pool(ref *pb.Pool) (*pool, error) {
	p, err := define.ParsePool(ref.GetXml())
	if err != nil {
		return nil, err
	}
	c := d.config()
	return &pool{p, dog.Cluster{
		Program: c.Program, Host: p.Host(), Port: p.Port(), Timeout: time.Duration(c.TimeoutSeconds) * time.Second,
	}}, nil
}

// failed says what could not be done in a pool.
func (p *pool) failed(what string, err error) error {
	code := verr.OperationFailed
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		code = verr.OperationTimeout
	case errors.Is(err, context.Canceled):
		code = verr.OperationAborted
	}
	return verr.New(code, "cannot %s in the sheepdog cluster at %s:%d: %w", what, p.Host(), p.Port(), err).In(verr.FromStorage)
}

// Check implements storage.Driver.
func (d *Driver) Check(ctx context.Context, ref *pb.Pool) (bool, error) {
	err := d.Start(ctx, ref)
	return err == nil, err
}

// Start implements storage.Driver: it proves that the cluster can be used.
func (d *Driver) Start(ctx context.Context, ref *pb.Pool) error {
	p, err := d.pool(ref)
	if err != nil {
		return err
	}
	if _, err := p.cluster.Room(ctx); err != nil {
		return p.failed("work", err)
	}
	return nil
}

// Stop implements storage.Driver: there is nothing to end.
func (d *Driver) Stop(context.Context, *pb.Pool) error { return nil }

// volume describes an image.
func (p *pool) volume(i dog.Image) *pb.Volume {
	return &pb.Volume{
		Name: i.Name, Key: p.Key(i.Name), Path: i.Name, Type: pb.VolumeType_VOLUME_TYPE_NETWORK, Format: poolxml.Raw,
		Capacity: i.Size, Allocation: i.Used, Network: p.Network(i.Name),
	}
}

// Refresh implements storage.Driver. Snapshots are no volumes.
func (d *Driver) Refresh(ctx context.Context, ref *pb.Pool, found func(...*pb.Volume) error) (*pb.PoolSize, error) {
	p, err := d.pool(ref)
	if err != nil {
		return nil, err
	}
	// Of a cluster that is not formatted dog lists no images and says nothing: only its room tells.
	room, err := p.cluster.Room(ctx)
	if err != nil {
		return nil, p.failed("work", err)
	}
	all, odd, err := p.cluster.All(ctx)
	if err != nil {
		return nil, p.failed("list images", err)
	}
	if len(odd) > 0 {
		d.core.Logger().Warn("dog prints lines that tell of no image", "pool", p.Name, "lines", len(odd), "first", odd[0])
	}
	for _, i := range all {
		switch {
		case i.Snapshot != "":
			d.sweep(ctx, p, i)
		case !showable(i.Name):
			d.core.Logger().Warn("an image has a name that cannot be shown", "pool", p.Name, "image", i.Name)
		default:
			if err := found(p.volume(i)); err != nil {
				return nil, err
			}
		}
	}
	return &pb.PoolSize{Capacity: room.Capacity, Allocation: room.Allocation, Available: room.Available}, nil
}
