package core

import (
	"cmp"
	"context"
	"os"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lodgevirt/lodge/host/internal/admin"
	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/host/internal/version"
	adminv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/admin/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

var _ admin.Source = (*Host)(nil)

// lockStatusWait is how long the overview waits for the lock daemon.
const lockStatusWait = 500 * time.Millisecond

// Overview is the host at a glance.
func (h *Host) Overview(ctx context.Context) *adminv1.GetStatusResponse {
	st := &adminv1.GetStatusResponse{
		Version: version.String(), Pid: int32(os.Getpid()), Started: timestamppb.New(h.started),
		Plugins: h.Plugins(), Clients: uint32(h.door.Clients()), LastEvent: h.events.Last(),
	}
	for _, i := range h.inventories {
		for _, v := range i.List(0) {
			switch {
			case v.Unknown:
				st.GuestsUnknown++
			case v.Active():
				st.GuestsActive++
			default:
				st.GuestsInactive++
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, lockStatusWait)
	defer cancel()
	if l, err := h.locks.Status(ctx); err == nil {
		st.LockdPid, st.Locks = int32(l.PID), uint32(l.Held+l.Unproven)
		st.LockdReady = h.settled.Load() == int64(l.PID)
	}
	return st
}

// Plugins lists the plugins by name.
func (h *Host) Plugins() []*adminv1.Plugin {
	plugins := make([]*adminv1.Plugin, len(h.drivers))
	for n, d := range h.drivers {
		s := d.plugin.Status()
		p := &adminv1.Plugin{
			Name: d.manifest.Name, Version: s.Version, State: s.State.String(), Pid: int32(s.PID), Generation: s.Generation,
			Crashes: uint32(s.Crashes), Detail: s.Detail, Services: s.Services, Path: d.manifest.Binary,
		}
		for _, c := range d.served {
			p.Uris = append(p.Uris, c.conn.URI)
		}
		plugins[n] = p
	}
	slices.SortFunc(plugins, func(a, b *adminv1.Plugin) int { return cmp.Compare(a.Name, b.Name) })
	return plugins
}

// ResetPlugin lets a failed plugin be started again.
func (h *Host) ResetPlugin(name string) error {
	for _, d := range h.drivers {
		if d.manifest.Name == name {
			d.plugin.Reset()
			return nil
		}
	}
	return verr.New(verr.InvalidArg, "no plugin is named '%s'", name)
}

// states are libvirt's states in words.
var states = map[domain.State]string{
	domain.NoState: "no state", domain.Running: "running", domain.Blocked: "blocked", domain.Paused: "paused",
	domain.ShuttingDown: "in shutdown", domain.ShutOff: "shut off", domain.Crashed: "crashed", domain.PMSuspended: "pmsuspended",
}

// Guests lists the guests of all connections.
func (h *Host) Guests() []*adminv1.GuestInfo {
	var guests []*adminv1.GuestInfo
	for _, i := range h.inventories {
		for _, v := range i.List(0) {
			g := &adminv1.GuestInfo{
				Uri: i.URI(), Name: v.Name, Uuid: v.UUID.String(), Id: v.ID, State: states[v.State], Pid: v.PID, Generation: v.Generation,
			}
			if v.Unknown {
				g.State = "unknown"
			}
			guests = append(guests, g)
		}
	}
	slices.SortFunc(guests, func(a, b *adminv1.GuestInfo) int {
		return cmp.Or(cmp.Compare(a.Uri, b.Uri), cmp.Compare(a.Name, b.Name))
	})
	return guests
}

// Locks lists what the lock daemon holds.
func (h *Host) Locks(ctx context.Context) ([]*adminv1.Lock, error) {
	leases, err := h.locks.List(ctx)
	if err != nil {
		return nil, err
	}
	locks := make([]*adminv1.Lock, len(leases))
	for n, l := range leases {
		locks[n] = &adminv1.Lock{
			Lockspace: l.Resource.Lockspace, Resource: l.Resource.Name, Path: l.Path, Disk: l.Resource.Disk, Shared: bool(l.Resource.Mode),
			OwnerName: l.Owner.Name, OwnerUuid: l.Owner.UUID.String(), OwnerPid: l.Owner.PID, Since: timestamppb.New(l.Since),
		}
	}
	slices.SortFunc(locks, func(a, b *adminv1.Lock) int { return cmp.Compare(a.Path, b.Path) })
	return locks, nil
}
