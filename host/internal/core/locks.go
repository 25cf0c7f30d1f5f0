package core

import (
	"context"
	"os"

	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/host/internal/lockclient"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
)

// diskLocks are the locks of disks, kept by the lock daemon.
type diskLocks struct {
	client *lockclient.Client
	// folder has the lock files, or is empty to lock the images themselves.
	folder string
}

var (
	_ domain.Locks = diskLocks{}
	_ domain.Locks = noLocks{}
)

func owner(o domain.Owner, pid int32, start uint64) lockclient.Owner {
	return lockclient.Owner{
		UUID: o.UUID, Name: o.Name, ID: uint32(max(o.ID, 0)), Generation: o.Generation, PID: pid, StartTime: start,
	}
}

func (l diskLocks) Acquire(ctx context.Context, o domain.Owner, disks []domain.LockedDisk) ([]domain.HeldLock, error) {
	resources := make([]lockspace.Resource, len(disks))
	for n, d := range disks {
		resources[n] = lockspace.ForDisk(l.folder, d.Path, lockspace.Mode(d.Shared))
	}
	leases, err := l.client.Acquire(ctx, owner(o, 0, 0), resources)
	if err != nil {
		return nil, err
	}
	held := make([]domain.HeldLock, len(leases))
	for n, lease := range leases {
		r := lease.Resource
		held[n] = domain.HeldLock{Lockspace: r.Lockspace, Resource: r.Name, Shared: bool(r.Mode), File: lease.File, Disk: r.Disk}
	}
	return held, nil
}

func (l diskLocks) SetProcess(ctx context.Context, o domain.Owner, pid int32, start uint64) error {
	return l.client.SetProcess(ctx, owner(o, pid, start))
}

func (l diskLocks) Adopt(ctx context.Context, o domain.Owner, held []domain.HeldLock) error {
	resources := make([]lockspace.Resource, len(held))
	files := make([]*os.File, len(held))
	for n, h := range held {
		resources[n] = lockspace.ForDisk(h.Lockspace, h.Disk, lockspace.Mode(h.Shared))
		files[n] = h.File
	}
	_, err := l.client.Adopt(ctx, owner(o, 0, 0), resources, files)
	return err
}

func (l diskLocks) Release(ctx context.Context, o domain.Owner) error {
	_, err := l.client.Release(ctx, o.UUID, o.Generation)
	return err
}

// noLocks is what a host without auto_disk_leases has.
type noLocks struct{}

func (noLocks) Acquire(context.Context, domain.Owner, []domain.LockedDisk) ([]domain.HeldLock, error) {
	return nil, nil
}
func (noLocks) SetProcess(context.Context, domain.Owner, int32, uint64) error { return nil }
func (noLocks) Adopt(context.Context, domain.Owner, []domain.HeldLock) error  { return nil }
func (noLocks) Release(context.Context, domain.Owner) error                   { return nil }

// settleLocks compares what a lock daemon that has just come up knows with what lives: it hears of the guests' processes, and leases
// of lives that never came about are freed. Leases of a process are left to the daemon, which sees the process end.
func (h *Host) settleLocks(ctx context.Context, _ lockclient.Status) error {
	leases, err := h.locks.List(ctx)
	if err != nil {
		return err
	}
	lives := map[life]bool{}
	for _, inv := range h.inventories {
		for _, l := range inv.Lives() {
			lives[life{l.UUID.String(), l.Generation}] = true
		}
	}
	for _, l := range leases {
		if l.Classic || l.Owner.PID != 0 || lives[life{l.Owner.UUID.String(), l.Owner.Generation}] {
			continue
		}
		h.cfg.Log.Info("lock of a guest that never came to life is freed", "guest", l.Owner.Name, "path", l.Path)
		if _, err := h.locks.Release(ctx, l.Owner.UUID, l.Owner.Generation); err != nil {
			return err
		}
	}
	for _, inv := range h.inventories {
		inv.Reaffirm(ctx)
	}
	return nil
}

// life is one life of a guest.
type life struct {
	uuid       string
	generation uint64
}
