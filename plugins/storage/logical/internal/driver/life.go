package driver

import (
	"context"
	"errors"
	"path/filepath"
	"slices"

	"github.com/lodgevirt/lodge/plugins/storage/logical/internal/lvm"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
)

// Check implements storage.Driver: a group is usable if it is there, and any of its volumes is active or it has none.
func (d *Driver) Check(ctx context.Context, ref *pb.Pool) (bool, error) {
	p, err := d.open(ref)
	if err != nil {
		return false, err
	}
	volumes, err := p.Volumes(ctx)
	if errors.Is(err, lvm.ErrNoGroup) {
		return false, nil
	}
	if err != nil {
		return false, p.failed("look at", err)
	}
	return usable(volumes), nil
}

func usable(volumes []*lvm.Volume) bool {
	none := true
	for _, v := range volumes {
		if v.Hidden || v.Pool() || v.Skipped() {
			continue
		}
		if !v.Inactive() {
			return true
		}
		none = false
	}
	return none
}

// Start implements storage.Driver: all volumes are activated on this host, as libvirt does it.
func (d *Driver) Start(ctx context.Context, ref *pb.Pool) error {
	p, err := d.open(ref)
	if err != nil {
		return err
	}
	before, err := p.Volumes(ctx)
	if err != nil {
		return p.failed("start", err)
	}
	if err := p.matches(ctx); err != nil {
		return err
	}
	if err := p.Change(ctx, "vgchange", "-aly", p.Group.Name); err != nil {
		if !usable(before) {
			err = errors.Join(err, p.Change(context.WithoutCancel(ctx), "vgchange", "-aln", p.Group.Name))
		}
		return p.failed("start", err)
	}
	return nil
}

// matches refuses a group that does not lie on the devices that the definition states, if it states some.
func (p *pool) matches(ctx context.Context) error {
	if len(p.Devices()) == 0 {
		return nil
	}
	has, err := p.has(ctx)
	if err != nil {
		return err
	}
	for _, path := range p.Devices() {
		if !slices.Contains(has, real(path)) {
			return storage.Failed("volume group '%s' has no device '%s', which its pool's definition states", p.Group.Name, path)
		}
	}
	return nil
}

// has lists the devices of the group, without links.
func (p *pool) has(ctx context.Context) ([]string, error) {
	all, err := p.lvm.Devices(ctx)
	if err != nil {
		return nil, p.failed("look at", err)
	}
	var paths []string
	for _, d := range all {
		if d.Group == p.Group.Name {
			paths = append(paths, real(d.Path))
		}
	}
	return paths, nil
}

// real is a path without links, as far as it leads anywhere.
func real(path string) string {
	if found, err := filepath.EvalSymlinks(path); err == nil {
		return found
	}
	return path
}

// Stop implements storage.Driver. A volume that is in use keeps the group active.
func (d *Driver) Stop(ctx context.Context, ref *pb.Pool) error {
	p, err := d.open(ref)
	if err != nil {
		return err
	}
	err = p.Change(ctx, "vgchange", "-aln", p.Group.Name)
	if err == nil || errors.Is(err, lvm.ErrNoGroup) {
		return nil
	}
	return p.failed("stop", err)
}

// failed tells what could not be done with the group.
func (p *pool) failed(what string, err error) error {
	return storage.Failed("cannot %s volume group '%s': %w", what, p.Group.Name, err)
}
