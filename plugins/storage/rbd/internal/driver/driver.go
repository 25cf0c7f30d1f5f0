// Package driver is the storage driver for pools that lie on Ceph: a pool of type "rbd" is a Ceph pool, a volume an image in it.
//
// The driver keeps nothing that it cannot find again: connections are cached (package session), and what is half done stands in the Ceph pool
// itself (package journal), where the next Start or Refresh of any host finds it. Calls into Ceph's libraries cannot be cancelled; they run in
// lanes (package lane), so that a method returns when its context ends, and a Ceph that does not answer delays no other pool. All methods are safe
// concurrently.
package driver

import (
	"context"
	"errors"

	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/ceph"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/define"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/lane"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/session"
	"github.com/lodgevirt/lodge/sdk/plugin"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Driver implements storage.Driver and its optional interfaces but Builder and Finder: Ceph pools are made by Ceph's administrator.
type Driver struct {
	core     plugin.Core
	sessions *session.Store
	// missing says why no pool can be used here, or is nil.
	missing error
}

var (
	_ storage.Driver   = (*Driver)(nil)
	_ storage.Volumes  = (*Driver)(nil)
	_ storage.Resizer  = (*Driver)(nil)
	_ storage.Wiper    = (*Driver)(nil)
	_ storage.Transfer = (*Driver)(nil)
)

// Plugin is the plugin that has the driver, which connects by dial; missing says why that cannot be done here, or is nil.
func Plugin(version string, dial ceph.Dialer, missing error) plugin.Plugin {
	return plugin.Plugin{
		Name: "rbd", Version: version,
		Storage: func(core plugin.Core) (storage.Driver, error) {
			return &Driver{core: core, sessions: session.NewStore(dial, core.Logger()), missing: missing}, nil
		},
	}
}

// Capabilities implements storage.Driver.
func (d *Driver) Capabilities(context.Context) ([]*pb.PoolType, error) {
	t := &pb.PoolType{Name: define.Type, Supported: d.missing == nil, VolumeFormats: []string{poolxml.Raw}, DefaultVolumeFormat: poolxml.Raw}
	if d.missing != nil {
		t.Reason = d.missing.Error()
	}
	return []*pb.PoolType{t}, nil
}

// Validate implements storage.Driver.
func (d *Driver) Validate(_ context.Context, req *pb.ValidateRequest) (*pb.ValidateResponse, error) {
	p, err := define.ParsePool(req.GetXml())
	if err != nil {
		return nil, err
	}
	return p.Validated(p.Exclusive(), "ceph")
}

// Check implements storage.Driver.
func (d *Driver) Check(ctx context.Context, ref *pb.Pool) (bool, error) {
	_, err := with(ctx, d, ref, 1, func(_ context.Context, u *use) (struct{}, error) {
		_, _, _, err := u.Pool.Size()
		if err != nil {
			err = u.failed(err, "cannot look at the Ceph pool")
		}
		return struct{}{}, err
	})
	return err == nil, err
}

// Start implements storage.Driver.
func (d *Driver) Start(ctx context.Context, ref *pb.Pool) error {
	_, err := d.Check(ctx, ref)
	if err != nil {
		d.sessions.Drop(ref.GetUuid())
	}
	return err
}

// Stop implements storage.Driver.
func (d *Driver) Stop(_ context.Context, ref *pb.Pool) error {
	d.sessions.Drop(ref.GetUuid())
	return nil
}

// use is a pool's connection in the hands of one call.
type use struct {
	*session.Session
	*session.Link
	d *Driver
}

// open lends a pool's connection; it is to be given back with Release.
func (d *Driver) open(ctx context.Context, ref *pb.Pool) (*use, error) {
	if d.missing != nil {
		return nil, verr.New(verr.OperationUnsupported, "pools of type rbd cannot be used: %w", d.missing).In(verr.FromStorage)
	}
	s, err := d.sessions.Get(ref)
	if err != nil {
		return nil, err
	}
	link, err := s.Link(ctx)
	if err != nil {
		s.Release()
		return nil, err
	}
	return &use{s, link, d}, nil
}

// with runs a call on a pool's connection, in its lane.
func with[T any](ctx context.Context, d *Driver, ref *pb.Pool, threads int64, call func(context.Context, *use) (T, error)) (T, error) {
	u, err := d.open(ctx, ref)
	if err != nil {
		var none T
		return none, err
	}
	defer u.Release()
	value, err := lane.Do(ctx, u.Lane, threads, func(ctx context.Context) (T, error) { return call(ctx, u) }, nil)
	u.Broken(err)
	return value, err
}

// failed is an error of Ceph about something in the pool.
func (u *use) failed(err error, format string, args ...any) error {
	var told *verr.Error
	if errors.As(err, &told) {
		return err
	}
	return storage.SystemError(err, format+" of %s", append(args, u.Def.Place())...)
}

// ended is an error if the caller has gone.
func (u *use) ended(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return u.Lane.Ended(ctx)
}
