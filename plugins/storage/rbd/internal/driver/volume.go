package driver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/storage/internal/wipe"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/ceph"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/define"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/journal"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/lane"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Flags of virStorageVolCreateFlags, virStorageVolDeleteFlags and virStorageVolResizeFlags.
const (
	createReflink   = 1 << 1
	createValidate  = 1 << 2
	removeZeroed    = 1 << 0
	removeSnapshots = 1 << 1
	resizeShrink    = 1 << 2
)

// removeSpare is what is left of a caller's time when an image that has lost its name goes on being removed without it.
const removeSpare = 5 * time.Second

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
			source.Hold()
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

// Remove implements storage.Volumes. The image loses its name first, so that it is there as a whole or not at all, and what it has is then freed;
// that may take minutes, and goes on when the caller's time is up.
func (d *Driver) Remove(ctx context.Context, req *pb.RemoveRequest) error {
	if err := storage.UnknownFlags(req.GetFlags(), removeZeroed|removeSnapshots); err != nil {
		return err
	}
	name := req.GetVolume().GetName()
	u, err := d.open(ctx, req.GetPool())
	if err != nil {
		return err
	}
	defer u.Release()
	e, err := lane.Do(ctx, u.Lane, 1, func(context.Context) (*journal.Entry, error) { return u.unname(name, req.GetFlags()) }, u.Journal.Leave)
	u.Broken(err)
	if err != nil {
		return err
	}
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, end.Add(-removeSpare))
		defer cancel()
	}
	var begun atomic.Bool
	_, err = lane.Do(ctx, u.Slow, 1, func(context.Context) (struct{}, error) {
		begun.Store(true)
		return struct{}{}, u.destroy(e)
	}, nil)
	if !begun.Load() {
		u.Journal.Leave(e)
	}
	if verr.Is(err, verr.OperationTimeout) || verr.Is(err, verr.OperationAborted) {
		d.core.Logger().Info("room of a removed image is still being freed", "pool", u.Def.Name, "volume", name)
		return nil
	}
	return err
}

// unname takes an image's name away, unless somebody uses it.
func (u *use) unname(name string, flags uint32) (*journal.Entry, error) {
	if err := u.Journal.Claim(); err != nil { // fences a predecessor that has the image open
		return nil, u.failed(err, "cannot remove image '%s'", name)
	}
	if err := u.removable(name, flags&removeSnapshots != 0); err != nil {
		return nil, err
	}
	e, err := u.Journal.Begin(journal.Entry{Kind: journal.Remove, Name: name, Zero: flags&removeZeroed != 0})
	if err != nil {
		return nil, u.failed(err, "cannot remove image '%s'", name)
	}
	if err := u.Journal.Rename(name, e.Hidden); err != nil {
		return nil, errors.Join(u.failed(err, "cannot remove image '%s'", name), u.undo(e))
	}
	return e, nil
}

// destroy frees what an image has that has lost its name. If that is refused because somebody has come to use it, it gets its name back.
func (u *use) destroy(e *journal.Entry) error {
	err := journal.Destroy(u.Pool, e)
	if err == nil {
		err = u.Journal.End(e)
	}
	if err == nil {
		return nil
	}
	err = u.failed(err, "cannot remove image '%s'", e.Name)
	if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
		u.Journal.Leave(e)
		return err
	}
	if back := u.Journal.Rename(e.Hidden, e.Name); back != nil {
		u.Journal.Leave(e)
		return err
	}
	return errors.Join(err, u.Journal.End(e))
}

// removable refuses to remove an image that somebody uses: who has it open, a clone, or who wants a snapshot of it.
func (u *use) removable(name string, snapshots bool) error {
	image, err := u.Open(name, true)
	if err != nil {
		return u.missing(name, err)
	}
	defer func() { _ = image.Close() }()
	watchers, err := image.Watchers()
	if err != nil {
		return u.failed(err, "cannot find who uses image '%s'", name)
	}
	if len(watchers) > 0 {
		return verr.New(verr.OperationInvalid, "volume '%s' is in use by %s", name, strings.Join(watchers, ", ")).In(verr.FromStorage)
	}
	all, err := image.Snapshots()
	if err != nil {
		return u.failed(err, "cannot list snapshots of image '%s'", name)
	}
	if len(all) == 0 {
		return nil
	}
	children, err := image.Children()
	if err != nil {
		return u.failed(err, "cannot list clones of image '%s'", name)
	}
	if len(children) > 0 {
		return verr.New(verr.OperationInvalid, "volume '%s' has clones, which need it: %s", name, strings.Join(children, ", ")).In(verr.FromStorage)
	}
	for _, s := range all {
		if !snapshots && !strings.HasPrefix(s, snapshotPrefix) {
			return verr.New(verr.OperationInvalid, "volume '%s' has a snapshot, '%s', and is removed with its snapshots only if that is asked for", name, s).
				In(verr.FromStorage)
		}
	}
	return nil
}

// Resize implements storage.Resizer.
func (d *Driver) Resize(ctx context.Context, req *pb.ResizeRequest) (*pb.Volume, error) {
	if err := storage.UnknownFlags(req.GetFlags(), resizeShrink); err != nil {
		return nil, err
	}
	return with(ctx, d, req.GetPool(), 1, func(_ context.Context, u *use) (*pb.Volume, error) {
		name := req.GetVolume().GetName()
		if err := u.Journal.Claim(); err != nil {
			return nil, u.failed(err, "cannot resize image '%s'", name)
		}
		image, err := u.Open(name, false)
		if err != nil {
			return nil, u.missing(name, err)
		}
		err = u.resize(image, name, req.GetCapacity(), req.GetFlags()&resizeShrink != 0)
		if err = errors.Join(err, image.Close()); err != nil {
			return nil, u.failed(err, "cannot resize image '%s'", name)
		}
		return u.find(name)
	})
}

func (u *use) resize(image ceph.Image, name string, want uint64, mayShrink bool) error {
	size, err := image.Size()
	if err != nil || size == want {
		return err
	}
	if want > size {
		return image.Resize(want)
	}
	if !mayShrink {
		return verr.New(verr.InvalidArg, "volume '%s' has %d bytes by now, and is made shorter only if that is asked for", name, size).In(verr.FromStorage)
	}
	id, err := u.id(name)
	if err != nil {
		return err
	}
	e, err := u.Journal.Begin(journal.Entry{Kind: journal.Shrink, Name: name, ID: id, Size: want})
	if err != nil {
		return err
	}
	if err := image.Resize(want); err != nil {
		u.Journal.Leave(e)
		return err
	}
	return u.Journal.End(e)
}

// Wipe implements storage.Wiper.
func (d *Driver) Wipe(ctx context.Context, req *pb.WipeRequest, progress storage.Progress) error {
	_, err := with(ctx, d, req.GetPool(), 1, func(ctx context.Context, u *use) (struct{}, error) {
		name := req.GetVolume().GetName()
		if err := u.Journal.Claim(); err != nil {
			return struct{}{}, u.failed(err, "cannot wipe image '%s'", name)
		}
		image, err := u.Open(name, false)
		if err != nil {
			return struct{}{}, u.missing(name, err)
		}
		err = u.wipe(ctx, image, req.GetAlgorithm(), progress)
		if err = errors.Join(err, image.Close()); err != nil {
			err = u.failed(err, "cannot wipe image '%s'", name)
		}
		return struct{}{}, err
	})
	return err
}

// wipe overwrites an image. Zeros are written only where there may be data: what was never written has nothing to overwrite, and would take
// room.
func (u *use) wipe(ctx context.Context, image ceph.Image, algorithm uint32, progress storage.Progress) error {
	size, err := image.Size()
	if err != nil {
		return err
	}
	switch algorithm {
	case wipe.Zero:
		return journal.Zero(image, func(done, total uint64) error {
			progress(done, total)
			return u.ended(ctx)
		})
	case wipe.Trim:
		return u.discard(ctx, image, 0, size, func(done uint64) { progress(done, size) })
	}
	return wipe.Passes(ctx, image, size, algorithm, progress)
}

// discardPiece is how much is discarded at once.
const discardPiece = 256 << 20

// discard makes a part of an image read as zeros, and frees its room.
func (u *use) discard(ctx context.Context, image ceph.Image, at, length uint64, told func(done uint64)) error {
	for done := uint64(0); done < length; {
		if err := u.ended(ctx); err != nil {
			return err
		}
		n := min(discardPiece, length-done)
		if err := image.Discard(at+done, n); err != nil {
			return err
		}
		done += n
		told(done)
	}
	return image.Sync()
}
