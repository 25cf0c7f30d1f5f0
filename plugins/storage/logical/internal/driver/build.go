package driver

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/lodgevirt/lodge/plugins/storage/internal/blockdev"
	"github.com/lodgevirt/lodge/plugins/storage/internal/command"
	"github.com/lodgevirt/lodge/plugins/storage/logical/internal/define"
	"github.com/lodgevirt/lodge/plugins/storage/logical/internal/lvm"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// Flags of virStoragePoolBuildFlags; without any nothing is overwritten.
	buildNoOverwrite = 1 << 2
	buildOverwrite   = 1 << 3
	// undoTime bounds taking back.
	undoTime = 30 * time.Second
)

// Build implements storage.Builder: the group, on the devices that the definition states. One command makes both, so that none is left
// half made.
func (d *Driver) Build(ctx context.Context, ref *pb.Pool, flags uint32, _ storage.Progress) error {
	p, err := d.open(ref)
	if err != nil {
		return err
	}
	if err := storage.UnknownFlags(flags, buildNoOverwrite|buildOverwrite); err != nil {
		return err
	}
	if len(p.Devices()) == 0 {
		return verr.New(verr.ConfigUnsupported, "pool '%s' states no device to build its volume group on", p.Pool.Name).In(verr.FromStorage)
	}
	_, err = p.Size(ctx)
	if err == nil {
		return verr.New(verr.OperationInvalid, "volume group '%s' is there already", p.Group.Name).In(verr.FromStorage)
	}
	if !errors.Is(err, lvm.ErrNoGroup) {
		return p.failed("build", err)
	}
	if err := p.prepare(ctx, flags&buildOverwrite != 0); err != nil {
		return err
	}
	if err := p.Change(ctx, "vgcreate", append([]string{"--yes", p.Group.Name}, p.Devices()...)...); err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
		defer cancel()
		if _, is := p.Size(undo); is == nil {
			err = errors.Join(err, p.Change(undo, "vgremove", "--force", p.Group.Name))
		}
		return p.failed("build", errors.Join(err, p.release(undo, p.Devices())))
	}
	return nil
}

// prepare sees to it that all devices are there and free, before any is touched.
func (p *pool) prepare(ctx context.Context, overwrite bool) error {
	all, err := p.lvm.Devices(ctx)
	if err != nil {
		return p.failed("build", err)
	}
	var old []string
	for _, path := range p.Devices() {
		if err := blockdev.Check(path); err != nil {
			return err
		}
		at := slices.IndexFunc(all, func(d lvm.Device) bool { return d.Group != "" && real(d.Path) == real(path) })
		if at >= 0 {
			return verr.New(verr.OperationInvalid, "device '%s' belongs to volume group '%s'", path, all[at].Group).In(verr.FromStorage)
		}
		found, err := blockdev.Signatures(ctx, path)
		if err != nil {
			return err
		}
		if len(found) > 0 && !overwrite {
			return verr.New(verr.OperationInvalid, "existing %s found on device '%s': overwriting it must be asked for",
				strings.Join(found, " and "), path).In(verr.FromStorage)
		}
		if len(found) > 0 {
			old = append(old, path)
		}
	}
	for _, path := range old {
		if err := command.Run(ctx, "wipefs", "--all", "--", path); err != nil {
			return storage.Failed("cannot overwrite what is on device '%s': %w", path, err)
		}
	}
	return nil
}

// release takes LVM's marks off those devices that no group has.
func (p *pool) release(ctx context.Context, paths []string) error {
	all, err := p.lvm.Devices(ctx)
	if err != nil {
		return err
	}
	var free []string
	for _, d := range all {
		if d.Group == "" && slices.ContainsFunc(paths, func(path string) bool { return real(path) == real(d.Path) }) {
			free = append(free, d.Path)
		}
	}
	if len(free) == 0 {
		return nil
	}
	return p.Change(ctx, "pvremove", append([]string{"--yes"}, free...)...)
}

// Delete implements storage.Builder: the group goes with all that is in it, and its devices are nobody's then.
func (d *Driver) Delete(ctx context.Context, ref *pb.Pool, flags uint32, _ storage.Progress) error {
	p, err := d.open(ref)
	if err != nil {
		return err
	}
	if err := storage.UnknownFlags(flags, 0); err != nil {
		return err
	}
	paths, err := p.has(ctx)
	if err != nil {
		return err
	}
	if len(paths) == 0 { // a deletion that was broken off may have left devices
		err = p.release(ctx, p.Devices())
	} else {
		err = p.Group.Delete(ctx, paths)
	}
	if err != nil {
		return p.failed("delete", err)
	}
	return nil
}

// FindSources implements storage.Finder: the groups of this host with their devices.
func (d *Driver) FindSources(ctx context.Context, req *pb.FindSourcesRequest) (string, error) {
	if _, err := poolxml.ParseSource(req.GetSourceXml()); err != nil {
		return "", err
	}
	devices, err := d.lvm().Devices(ctx)
	if err != nil {
		return "", storage.Failed("cannot look for volume groups: %w", err)
	}
	var all []poolxml.Source
	at := map[string]int{}
	for _, d := range devices {
		if d.Group == "" {
			continue
		}
		n, ok := at[d.Group]
		if !ok {
			n = len(all)
			at[d.Group] = n
			all = append(all, poolxml.Source{Name: d.Group, Format: &poolxml.Format{Type: define.Formats[0]}})
		}
		all[n].Devices = append(all[n].Devices, poolxml.Device{Path: d.Path})
	}
	return poolxml.Sources(all)
}
