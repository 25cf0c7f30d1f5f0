package core

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/host/internal/lockclient"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// diskLocks are the locks of disks, kept by the lock daemon.
type diskLocks struct {
	client *lockclient.Client
	// debts take releases that could not be made.
	debts *debts
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
		if verr.From(err).Domain != verr.FromLocking {
			// The daemon has not answered, and may still grant what nobody waits for any more.
			l.debts.add(life{o.UUID, o.Generation})
		}
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

// Release frees the locks of a life. When the lock daemon is away it is noted, and done when the daemon is back.
func (l diskLocks) Release(ctx context.Context, o domain.Owner) error {
	ctx, cancel := context.WithTimeout(ctx, releaseWait)
	defer cancel()
	_, err := l.client.Release(ctx, o.UUID, o.Generation)
	if err != nil {
		l.debts.add(life{o.UUID, o.Generation})
	}
	return err
}

// releaseWait is how long the end of a guest waits for the lock daemon.
const releaseWait = 5 * time.Second

// debts are the releases that the lock daemon has not heard of.
type debts struct {
	mu    sync.Mutex
	lives map[life]bool
}

func (d *debts) add(l life) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lives == nil {
		d.lives = map[life]bool{}
	}
	d.lives[l] = true
}

// pay releases what is owed; what fails again is owed still.
func (d *debts) pay(ctx context.Context, client *lockclient.Client) {
	d.mu.Lock()
	lives := d.lives
	d.lives = nil
	d.mu.Unlock()
	for l := range lives {
		if _, err := client.Release(ctx, l.uuid, l.generation); err != nil {
			d.add(l)
		}
	}
}

// payDebts pays until the context ends.
func (h *Host) payDebts(ctx context.Context) error {
	tick := time.NewTicker(payEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			h.debts.pay(ctx, h.locks)
		}
	}
}

// payEvery is the time between two attempts to release what is owed.
const payEvery = time.Second

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
func (h *Host) settleLocks(ctx context.Context, daemon lockclient.Status) error {
	leases, err := h.locks.List(ctx)
	if err != nil {
		return err
	}
	lives := map[life]bool{}
	for _, inv := range h.inventories {
		for _, l := range inv.Lives() {
			lives[life{l.UUID, l.Generation}] = true
		}
	}
	for _, l := range leases {
		if l.Classic || l.Owner.PID != 0 || lives[life{l.Owner.UUID, l.Owner.Generation}] {
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
	h.settled.Store(int64(daemon.PID))
	return nil
}

// life is one life of a guest.
type life struct {
	uuid       uuid.UUID
	generation uint64
}
