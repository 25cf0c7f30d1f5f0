package driver

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/journal"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/lane"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Flags of virStorageVolDeleteFlags.
const (
	removeZeroed    = 1 << 0
	removeSnapshots = 1 << 1
)

// removeSpare is what is left of a caller's time when an image that has lost its name goes on being removed without it.
const removeSpare = 5 * time.Second

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
