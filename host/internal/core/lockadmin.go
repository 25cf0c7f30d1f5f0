package core

import (
	"cmp"
	"context"
	"slices"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/config"
	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/host/internal/lockmanager"
	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
	adminv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/admin/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// releasedByForce is why a guest has lost a lock that an operator has released.
const releasedByForce = "released by force"

// keeper is the lock manager as an operator sees it.
func (h *Host) keeper() lockmanager.Keeper {
	if l := h.lockPlugin; l != nil {
		return lockmanager.PluginKeeper(l.plugin)
	}
	return lockmanager.DaemonKeeper(h.locks)
}

// overviewLocks adds the locks to the host at a glance.
func (h *Host) overviewLocks(ctx context.Context, st *adminv1.GetStatusResponse) {
	if l := h.lockPlugin; l != nil {
		status := l.plugin.Status()
		st.LockdPid, st.LockdReady = int32(status.PID), l.ready.Load()
		if locks, err := h.keeper().Locks(ctx); err == nil {
			st.Locks = uint32(len(locks))
		}
		return
	}
	if l, err := h.locks.Status(ctx); err == nil {
		st.LockdPid, st.Locks = int32(l.PID), uint32(l.Held+l.Unproven)
		st.LockdReady = h.settled.Load() == int64(l.PID)
	}
}

// Locks lists what the lock manager holds.
func (h *Host) Locks(ctx context.Context) ([]*adminv1.Lock, error) {
	locks, err := h.keeper().Locks(ctx)
	if err != nil {
		return nil, err
	}
	manager := config.BuiltInManager
	if l := h.lockPlugin; l != nil {
		manager = l.manifest.Name
	}
	lives := h.lives()
	for _, l := range locks {
		l.Manager, l.OwnerLives = manager, ownerLives(lives, l)
	}
	slices.SortFunc(locks, func(a, b *adminv1.Lock) int { return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Id, b.Id)) })
	return locks, nil
}

// lives are the lives of all guests that go on or may go on.
func (h *Host) lives() map[life]bool {
	lives := map[life]bool{}
	for _, inv := range h.inventories {
		for _, l := range inv.Lives() {
			lives[life{l.UUID, l.Generation}] = true
		}
	}
	return lives
}

// ownerLives reports whether the owner of a lock is a guest of ours, or a process, that lives.
func ownerLives(lives map[life]bool, l *adminv1.Lock) bool {
	id, err := uuid.Parse(l.OwnerUuid)
	if err == nil && lives[life{id, l.OwnerGeneration}] {
		return true
	}
	_, err = process.Find(l.OwnerPid)
	return err == nil
}

// ReleaseLock frees the lock with an id.
func (h *Host) ReleaseLock(ctx context.Context, id string, force bool) (*adminv1.Lock, error) {
	locks, err := h.Locks(ctx)
	if err != nil {
		return nil, err
	}
	n := slices.IndexFunc(locks, func(l *adminv1.Lock) bool { return l.Id == id })
	if n < 0 {
		return nil, verr.New(verr.InvalidArg, "no lock has the id '%s'", id)
	}
	l := locks[n]
	if l.OwnerLives && !force {
		return nil, verr.New(verr.OperationInvalid, "lock of '%s' belongs to '%s' (%s, process %d), which lives: "+
			"stop it, or use force and it loses the lock", l.Path, l.OwnerName, l.OwnerUuid, l.OwnerPid)
	}
	h.cfg.Log.Warn("lock is released for an operator", "path", l.Path, "guest", l.OwnerName, "gen", l.OwnerGeneration, "force", force)
	if err := h.keeper().Release(ctx, l); err != nil {
		return nil, err
	}
	if l.OwnerGeneration > 0 {
		path := cmp.Or(l.Disk, l.Path)
		h.lost(ctx, l.OwnerUuid, l.OwnerGeneration, domain.LostLock{Path: path, Detail: releasedByForce})
	}
	return l, nil
}
