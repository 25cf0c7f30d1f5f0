package driver

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/lodgevirt/lodge/plugins/storage/disk/internal/define"
	"github.com/lodgevirt/lodge/plugins/storage/disk/internal/parted"
	"github.com/lodgevirt/lodge/plugins/storage/internal/blockdev"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Flags of virStoragePoolBuildFlags; without any nothing is overwritten.
const (
	buildNoOverwrite = 1 << 2
	buildOverwrite   = 1 << 3
)

// bare is what parted calls a disk without a table, but with a file system.
const bare = "loop"

// table reads the partition table, which must be of the pool's kind.
func (p *pool) table(ctx context.Context) (*parted.Table, error) {
	t, err := p.Table(ctx)
	if errors.Is(err, parted.ErrNoLabel) {
		return nil, verr.New(verr.StorageProbeFailed, "Device '%s' is unrecognized, requires build", p.Device()).In(verr.FromStorage)
	}
	if err != nil {
		return nil, storage.Failed("cannot read the partition table of '%s': %w", p.Device(), err)
	}
	if !p.Takes(t.Label) {
		return nil, p.otherFormat(t)
	}
	return t, nil
}

func (p *pool) otherFormat(t *parted.Table) error {
	return verr.New(verr.OperationInvalid, "Format '%s' of device '%s' does not match the expected format '%s'", t.Label, p.Device(), p.Format()).
		In(verr.FromStorage)
}

// Check implements storage.Driver: a disk is usable if its partition table is of the pool's kind.
func (d *Driver) Check(ctx context.Context, ref *pb.Pool) (bool, error) {
	p, err := d.open(ref)
	if verr.Is(err, verr.InvalidArg) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	t, err := p.Table(ctx)
	if err != nil && !errors.Is(err, parted.ErrNoLabel) {
		if ctx.Err() != nil {
			return false, storage.Failed("cannot read the partition table of '%s': %w", p.Device(), err)
		}
		d.core.Logger().Info("disk is not usable", "device", p.Device(), "error", err)
	}
	return err == nil && p.Takes(t.Label), nil
}

// Start implements storage.Driver. Where the kernel does not know the partitions, it is told of them.
func (d *Driver) Start(ctx context.Context, ref *pb.Pool) error {
	p, err := d.open(ref)
	if err != nil {
		return err
	}
	t, err := p.table(ctx)
	if err != nil {
		return err
	}
	for _, part := range t.Parts {
		if _, err := os.Stat(p.node(part)); !errors.Is(err, os.ErrNotExist) {
			continue
		}
		// Partitions without nodes are in trouble, which a Refresh tells; the others can be used.
		if err := p.Probe(ctx); err != nil {
			d.core.Logger().Warn("the kernel cannot be told of partitions", "device", p.Device(), "error", err)
		}
		break
	}
	return nil
}

// Stop implements storage.Driver: a disk is not put away.
func (d *Driver) Stop(_ context.Context, ref *pb.Pool) error {
	_, err := define.ParsePool(ref.GetXml())
	return err
}

// Build implements storage.Builder: an empty partition table.
func (d *Driver) Build(ctx context.Context, ref *pb.Pool, flags uint32, _ storage.Progress) error {
	p, err := d.open(ref)
	if err != nil {
		return err
	}
	if err := storage.UnknownFlags(flags, buildNoOverwrite|buildOverwrite); err != nil {
		return err
	}
	if p.Format() == define.LVM2 {
		return verr.New(verr.ConfigUnsupported, "a disk of format '%s' cannot be built", define.LVM2).In(verr.FromStorage)
	}
	if err := blockdev.Check(p.Path); err != nil {
		return err
	}
	release, err := d.take(ctx, p)
	if err != nil {
		return err
	}
	defer release()
	if flags&buildOverwrite == 0 {
		if err := p.mustBeEmpty(ctx); err != nil {
			return err
		}
	}
	if err := p.Change(ctx, "mklabel", p.Label()); err != nil {
		return storage.Failed("cannot make a partition table of kind '%s' on '%s': %w", p.Label(), p.Device(), err)
	}
	return nil
}

// mustBeEmpty refuses a disk that has a partition table or any other content.
func (p *pool) mustBeEmpty(ctx context.Context) error {
	t, err := p.Table(ctx)
	switch {
	case err != nil || t.Label == bare: // the next look finds out
	case p.Takes(t.Label):
		return verr.New(verr.StoragePoolBuilt, "Device '%s' already formatted using '%s'", p.Device(), t.Label).In(verr.FromStorage)
	default:
		return p.otherFormat(t)
	}
	found, err := blockdev.Signatures(ctx, p.Path)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return verr.New(verr.OperationInvalid, "existing %s found on device '%s', requires --overwrite", strings.Join(found, " and "), p.Device()).
			In(verr.FromStorage)
	}
	return nil
}

// Delete implements storage.Builder: as with libvirt, the partition table stays.
func (d *Driver) Delete(_ context.Context, ref *pb.Pool, flags uint32, _ storage.Progress) error {
	if err := storage.UnknownFlags(flags, 0); err != nil {
		return err
	}
	_, err := define.ParsePool(ref.GetXml())
	return err
}
