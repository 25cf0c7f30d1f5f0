package core

import (
	"context"
	"path/filepath"
	"sync"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/host/internal/lockclient"
	"github.com/lodgevirt/lodge/host/internal/lockmanager"
	"github.com/lodgevirt/lodge/host/internal/lockspace/naming"
	"github.com/lodgevirt/lodge/host/internal/manifest"
)

// locks are the locks of the driver's guests. The disks of a pretended or remote hypervisor are no files here: the lock daemon's locks
// of them are named by hash in a folder of their own, and a lock manager that hosts share is not asked for any.
func (d *driver) locks() domain.Locks {
	if l := d.host.lockPlugin; l != nil {
		p := lockmanager.NewPlugin(l.plugin)
		p.Elsewhere = d.manifest.Disks == manifest.DisksElsewhere
		return p
	}
	s := d.host.cfg.Settings.Locks
	folders := naming.Folders{File: s.FileLockspace, LVM: s.LVMLockspace, SCSI: s.SCSILockspace}
	if d.manifest.Disks == manifest.DisksElsewhere {
		folders = naming.Folders{File: filepath.Join(d.host.cfg.Layout.State, "lockspace", d.manifest.Name)}
	}
	require := !s.Disks
	if s.Require != nil {
		require = *s.Require
	}
	return &lockmanager.Lockd{Client: d.host.locks, Debts: &d.host.debts, Namer: naming.New(folders), Disks: s.Disks, Require: require}
}

// settleLocks compares what a lock daemon that has just come up knows with what lives: it hears of the guests' processes, and leases
// of lives that never came about are freed. Leases of a process are left to the daemon, which sees the process end.
func (h *Host) settleLocks(ctx context.Context, daemon lockclient.Status) error {
	leases, err := h.locks.List(ctx)
	if err != nil {
		return err
	}
	lives := h.lives()
	for _, l := range leases {
		if l.Classic || l.Owner.PID != 0 || lives[life{l.Owner.UUID, l.Owner.Generation}] {
			continue
		}
		h.cfg.Log.Info("lock of a guest that never came to life is freed", "guest", l.Owner.Name, "path", l.Path)
		if _, err := h.locks.Release(ctx, l.Owner.UUID, l.Owner.Generation); err != nil {
			return err
		}
	}
	h.reaffirm(ctx)
	h.settled.Store(int64(daemon.PID))
	return nil
}

// watchLocks deals with leases that the lock daemon loses, until the context ends.
func (h *Host) watchLocks(ctx context.Context) error {
	var work sync.WaitGroup
	defer work.Wait()
	err := h.locks.Watch(ctx, func(c lockclient.Change) {
		// What was released by force is dealt with by whoever has asked for that.
		if c.Resync || c.State == lockclient.Lost && !c.Ended {
			work.Go(func() { h.loseLeases(ctx, c) })
		}
	})
	if ctx.Err() == nil {
		h.cfg.Log.Error("lock daemon does not tell of lost locks", "error", err)
	}
	return nil
}

// loseLeases finds the guests of leases that are lost: of the one that has changed, or of all.
func (h *Host) loseLeases(ctx context.Context, c lockclient.Change) {
	leases, err := h.locks.List(ctx)
	if err != nil {
		h.cfg.Log.Warn("lost locks could not be listed", "error", err)
		return
	}
	for _, l := range leases {
		if l.State == lockclient.Lost && !l.Classic && (c.Resync || l.Number == c.Number) {
			h.lost(ctx, l.Owner.UUID.String(), l.Owner.Generation, lockmanager.LostLease(l))
		}
	}
}

// life is one life of a guest.
type life struct {
	uuid       uuid.UUID
	generation uint64
}
