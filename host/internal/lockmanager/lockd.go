// Package lockmanager gives the guests of a connection their locks: from the lock daemon (Lockd), from a plugin that is a lock manager
// (Plugin), or not at all (None). Each is a domain.Locks; which one is the operator's choice.
//
// Nothing here holds a lock: the daemon does, the plugin does, or the guest. A release that finds no daemon is kept as a debt and made
// later. All methods are safe concurrently, and every call is bounded by its context or by the contract. What a lock manager says is
// passed on: a lock that somebody else has is verr.ResourceBusy with a sentence that names the holder.
package lockmanager

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/host/internal/lockclient"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/naming"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// releaseWait is how long the end of a guest waits for the lock daemon.
const releaseWait = 5 * time.Second

// Lockd are locks that the lock daemon keeps.
type Lockd struct {
	// Client talks to the daemon.
	Client *lockclient.Client
	// Debts take releases that could not be made.
	Debts *Debts
	// Namer names the locks of disks.
	Namer *naming.Namer
	// Disks: writable disks are locked, not only leases that definitions name.
	Disks bool
	// Require refuses a guest with writable disks that are not locked and no lease.
	Require bool
}

var _ domain.Locks = (*Lockd)(nil)

// Prepare implements domain.Locks.
func (l *Lockd) Prepare(_ context.Context, _ domain.Owner, wants domain.Wants) (domain.Prepared, error) {
	if l.Require && !l.Disks && len(wants.Disks) > 0 && len(wants.Leases) == 0 {
		return domain.Prepared{}, verr.New(verr.ConfigUnsupported,
			"read/write, exclusive access, disks were present, but no leases specified: name a <lease>, or lock disks by auto_disk_leases")
	}
	for _, n := range wants.Leases {
		switch {
		case n.Offset != 0:
			return domain.Prepared{}, verr.New(verr.ConfigUnsupported,
				"lease '%s' of lockspace '%s' has an offset, which the lock daemon does not know", n.Key, n.Lockspace)
		case !filepath.IsAbs(n.Path):
			return domain.Prepared{}, verr.New(verr.ConfigUnsupported,
				"lease '%s' of lockspace '%s' needs a target with an absolute path", n.Key, n.Lockspace)
		}
	}
	return domain.Prepared{}, nil
}

// resources names the locks of what a guest wants, disks first.
func (l *Lockd) resources(ctx context.Context, wants domain.Wants) ([]lockspace.Resource, error) {
	var rs []lockspace.Resource
	if l.Disks {
		for _, d := range wants.Disks {
			r, err := l.Namer.Disk(ctx, d.Path, lockspace.Mode(d.Shared))
			if err != nil {
				return nil, verr.New(verr.Internal, "%w", err).In(verr.FromLocking)
			}
			rs = append(rs, r)
		}
	}
	for _, n := range wants.Leases {
		rs = append(rs, lockspace.Resource{Lockspace: filepath.Join(n.Path, n.Lockspace), Name: n.Key})
	}
	return rs, nil
}

func owner(o domain.Owner) lockclient.Owner {
	return lockclient.Owner{
		UUID: o.UUID, Name: o.Name, ID: uint32(max(o.ID, 0)), Generation: o.Generation, PID: o.PID, StartTime: o.StartTime,
	}
}

// Acquire implements domain.Locks.
func (l *Lockd) Acquire(ctx context.Context, o domain.Owner, wants domain.Wants) ([]domain.HeldLock, error) {
	rs, err := l.resources(ctx, wants)
	if err != nil || len(rs) == 0 {
		return nil, err
	}
	if err := l.Debts.forgive(ctx, debt{o.UUID, o.Generation}, rs); err != nil {
		return nil, err
	}
	leases, err := l.Client.Acquire(ctx, owner(o), rs)
	if err != nil {
		if verr.From(err).Domain != verr.FromLocking {
			// The daemon has not answered, and may still grant what nobody waits for any more. The guest may have other locks, and need them.
			l.Debts.add(debt{o.UUID, o.Generation}, rs...)
		}
		return nil, err
	}
	return held(leases), nil
}

func held(leases []lockclient.Lease) []domain.HeldLock {
	out := make([]domain.HeldLock, len(leases))
	for n, lease := range leases {
		r := lease.Resource
		out[n] = domain.HeldLock{Lockspace: r.Lockspace, Resource: r.Name, Shared: bool(r.Mode), File: lease.File, Disk: r.Disk}
	}
	return out
}

// Claim implements domain.Locks.
func (l *Lockd) Claim(ctx context.Context, o domain.Owner, wants domain.Wants) error {
	rs, err := l.resources(ctx, wants)
	if err != nil || len(rs) == 0 {
		return err
	}
	return l.Client.SetProcess(ctx, owner(o))
}

// Reaffirm implements domain.Locks. A lock that nobody can be shown to have is not told as lost.
func (l *Lockd) Reaffirm(
	ctx context.Context, o domain.Owner, wants domain.Wants, have []domain.HeldLock,
) (again []domain.HeldLock, lost []domain.LostLock, err error) {
	rs, err := l.resources(ctx, wants)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case o.PID != 0:
		if err := l.Client.SetProcess(ctx, owner(o)); err != nil {
			return nil, nil, err
		}
	case len(have) > 0:
		_, err = l.adopt(ctx, o, have)
		rs = nil
	}
	if len(rs) > 0 {
		var leases []lockclient.Lease
		leases, err = l.Client.Acquire(ctx, owner(o), rs)
		again = held(leases)
	}
	if verr.Is(err, verr.ResourceBusy) {
		lost, err = l.lost(ctx, o)
	}
	return again, lost, err
}

func (l *Lockd) adopt(ctx context.Context, o domain.Owner, have []domain.HeldLock) ([]lockclient.Lease, error) {
	rs := make([]lockspace.Resource, len(have))
	files := make([]*os.File, len(have))
	for n, h := range have {
		rs[n] = lockspace.Resource{
			Lockspace: h.Lockspace, Name: h.Resource, Mode: lockspace.Mode(h.Shared), Disk: h.Disk,
			// Files of a lockspace that stand for a disk are made for it; those of leases are somebody's own.
			Temporary: h.Lockspace != "" && h.Disk != "",
		}
		files[n] = h.File
	}
	return l.Client.Adopt(ctx, owner(o), rs, files)
}

// lost lists what the daemon says that somebody else has.
func (l *Lockd) lost(ctx context.Context, o domain.Owner) ([]domain.LostLock, error) {
	leases, err := l.Client.List(ctx)
	if err != nil {
		return nil, err
	}
	var lost []domain.LostLock
	for _, lease := range leases {
		if lease.State == lockclient.Lost && lease.Owner.UUID == o.UUID && lease.Owner.Generation == o.Generation {
			lost = append(lost, LostLease(lease))
		}
	}
	return lost, nil
}

// LostLease is a lease that the daemon has lost, as the core's guests know it.
func LostLease(lease lockclient.Lease) domain.LostLock {
	path := lease.Resource.Disk
	if path == "" {
		path = lease.Path
	}
	return domain.LostLock{Path: path, Detail: lease.Detail}
}

// Release implements domain.Locks. When the lock daemon is away it is noted, and done when the daemon is back.
func (l *Lockd) Release(ctx context.Context, o domain.Owner, what domain.Release) ([]byte, error) {
	var only []lockspace.Resource
	if what.Only != nil {
		var err error
		if only, err = l.resources(ctx, *what.Only); err != nil || len(only) == 0 {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, releaseWait)
	defer cancel()
	_, err := l.Client.Release(ctx, o.UUID, o.Generation, only...)
	if err != nil && what.Only == nil && !what.Suspend {
		l.Debts.add(debt{o.UUID, o.Generation})
	}
	return nil, err
}

// None locks nothing.
type None struct{}

var _ domain.Locks = None{}

// Prepare implements domain.Locks.
func (None) Prepare(context.Context, domain.Owner, domain.Wants) (domain.Prepared, error) {
	return domain.Prepared{}, nil
}

// Acquire implements domain.Locks.
func (None) Acquire(context.Context, domain.Owner, domain.Wants) ([]domain.HeldLock, error) {
	return nil, nil
}

// Claim implements domain.Locks.
func (None) Claim(context.Context, domain.Owner, domain.Wants) error { return nil }

// Reaffirm implements domain.Locks.
func (None) Reaffirm(
	context.Context, domain.Owner, domain.Wants, []domain.HeldLock,
) ([]domain.HeldLock, []domain.LostLock, error) {
	return nil, nil, nil
}

// Release implements domain.Locks.
func (None) Release(context.Context, domain.Owner, domain.Release) ([]byte, error) { return nil, nil }
