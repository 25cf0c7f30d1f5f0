package driver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/define"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/journal"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Flags of virStorageVolCreateFlags.
const (
	createReflink  = 1 << 1
	createValidate = 1 << 2
)

// Create implements storage.Volumes.
func (d *Driver) Create(ctx context.Context, req *pb.CreateRequest, progress storage.Progress) (*pb.Volume, error) {
	if err := storage.UnknownFlags(req.GetFlags(), createReflink|createValidate); err != nil {
		return nil, err
	}
	var size *uint64
	if req.GetFrom() != nil {
		size = &req.GetFrom().Capacity
	}
	def, err := define.ParseVolume(req.GetXml(), size)
	if err != nil {
		return nil, err
	}
	var source *use
	if from := req.GetFromPool(); req.GetFrom() != nil && from.GetUuid() != req.GetPool().GetUuid() {
		if req.GetFlags()&createReflink != 0 {
			return nil, verr.New(verr.OperationUnsupported, "an image of another pool cannot be copied by reference").In(verr.FromStorage)
		}
		if source, err = d.open(ctx, from); err != nil {
			return nil, err
		}
		// The call may go on for a while after the caller has gone; what it reads from must stay.
		defer source.Release()
	}
	return with(ctx, d, req.GetPool(), 1, func(ctx context.Context, u *use) (*pb.Volume, error) {
		if source != nil {
			if !source.Hold() {
				return nil, source.Lane.Ended(ctx)
			}
			defer source.Release()
		}
		return u.create(ctx, def, req.GetFrom().GetName(), source, progress)
	})
}

func exists(name string) error {
	return verr.New(verr.StorageVolExist, "storage volume '%s' exists already", name).In(verr.FromStorage)
}

// create makes an image under a hidden name and gives it its own last. From is the image to copy, of this pool or of the source's, or "".
func (u *use) create(ctx context.Context, def *poolxml.Volume, from string, source *use, progress storage.Progress) (*pb.Volume, error) {
	if _, err := u.find(def.Name); !verr.Is(err, verr.NoStorageVol) {
		if err == nil {
			err = exists(def.Name)
		}
		return nil, err
	}
	entry := journal.Entry{Kind: journal.Make, Name: def.Name}
	snapshot := ""
	if from != "" && source == nil {
		var err error
		if snapshot, err = u.snapshot(from); err != nil {
			return nil, err
		}
		if snapshot == "" {
			snapshot = newSnapshot()
			entry.Parent, entry.Snapshot = from, snapshot
		}
	}
	e, err := u.Journal.Begin(entry)
	if err != nil {
		return nil, u.failed(err, "cannot make image '%s'", def.Name)
	}
	if err := u.fill(ctx, e, def, from, snapshot, source, progress); err != nil {
		return nil, errors.Join(u.failed(err, "cannot make image '%s'", def.Name), u.undo(e))
	}
	err = u.Journal.Rename(e.Hidden, def.Name)
	if errors.Is(err, unix.EEXIST) {
		return nil, errors.Join(exists(def.Name), u.undo(e))
	}
	if err != nil {
		return nil, errors.Join(u.failed(err, "cannot name image '%s'", def.Name), u.undo(e))
	}
	if err := u.Journal.End(e); err != nil {
		u.d.core.Logger().Warn("journal of a Ceph pool", "error", err) // the next sweep finds that it is done
	}
	return u.find(def.Name)
}

// undo takes back what has failed. What cannot be taken back now is taken back by the next sweep.
func (u *use) undo(e *journal.Entry) error {
	if err := u.Journal.Undo(e); err != nil {
		u.d.core.Logger().Warn("half an image is left until the next refresh", "pool", u.Def.Name, "volume", e.Name, "error", err)
	}
	return nil
}

// fill makes the hidden image of an entry.
func (u *use) fill(ctx context.Context, e *journal.Entry, def *poolxml.Volume, from, snapshot string, source *use, progress storage.Progress) error {
	if err := u.ended(ctx); err != nil {
		return err
	}
	if snapshot == "" {
		if err := u.Pool.Create(e.Hidden, def.CapacityBytes); err != nil || from == "" {
			return err
		}
		return u.copy(ctx, source, from, e.Hidden, progress)
	}
	if e.Snapshot != "" {
		parent, err := u.Open(from, false)
		if err != nil {
			return u.missing(from, err)
		}
		if err := errors.Join(parent.Snapshot(snapshot), parent.Close()); err != nil {
			return fmt.Errorf("make snapshot of %q: %w", from, err)
		}
	}
	if err := u.ended(ctx); err != nil {
		return err
	}
	if err := u.Clone(from, snapshot, e.Hidden); err != nil {
		return fmt.Errorf("clone %q: %w", from, err)
	}
	image, err := u.Open(e.Hidden, false)
	if err != nil {
		return err
	}
	size, err := image.Size()
	if err == nil && size != def.CapacityBytes {
		err = image.Resize(def.CapacityBytes)
	}
	return errors.Join(err, image.Close())
}

// snapshotPrefix begins the names of snapshots that clones are made of; it is libvirt's.
const snapshotPrefix = "libvirt-"

// newSnapshot is a name for a snapshot.
func newSnapshot() string { return fmt.Sprintf("%s%d", snapshotPrefix, time.Now().UnixNano()) }

// snapshot finds a snapshot of an image from which a clone would be what the image is now: the newest that was made for one, if nothing was
// written since.
func (u *use) snapshot(name string) (string, error) {
	image, err := u.Open(name, true)
	if err != nil {
		return "", u.missing(name, err)
	}
	defer func() { _ = image.Close() }()
	all, err := image.Snapshots()
	if err != nil {
		return "", u.failed(err, "cannot list snapshots of image '%s'", name)
	}
	if len(all) == 0 || !strings.HasPrefix(all[len(all)-1], snapshotPrefix) {
		return "", nil
	}
	last := all[len(all)-1]
	if changed, err := image.Changed(last); err != nil || changed {
		return "", nil // another one is made
	}
	return last, nil
}
