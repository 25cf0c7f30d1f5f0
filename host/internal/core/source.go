package core

import (
	"cmp"
	"context"
	"os"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lodgevirt/lodge/host/internal/admin"
	"github.com/lodgevirt/lodge/host/internal/connection"
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
	for _, i := range h.domains() {
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
	h.overviewLocks(ctx, st)
	return st
}

// Plugins lists the plugins by name.
func (h *Host) Plugins() []*adminv1.Plugin {
	plugins := make([]*adminv1.Plugin, len(h.drivers))
	for n, d := range h.drivers {
		plugins[n] = d.show()
		for _, c := range d.served {
			plugins[n].Uris = append(plugins[n].Uris, c.conn.URI)
		}
	}
	for _, r := range h.remotes {
		plugin := r.show()
		plugin.Uris, plugin.Detail = r.uris(), cmp.Or(plugin.Detail, r.trouble())
		plugins = append(plugins, plugin)
	}
	for _, s := range h.storage {
		plugins = append(plugins, s.show())
	}
	if l := h.lockPlugin; l != nil {
		plugins = append(plugins, l.show())
	}
	slices.SortFunc(plugins, func(a, b *adminv1.Plugin) int { return cmp.Compare(a.Name, b.Name) })
	return plugins
}

// show is a plugin as the host's API shows it.
func (p *part) show() *adminv1.Plugin {
	s := p.plugin.Status()
	return &adminv1.Plugin{
		Name: p.manifest.Name, Version: s.Version, State: s.State.String(), Pid: int32(s.PID), Generation: s.Generation,
		Crashes: uint32(s.Crashes), Detail: s.Detail, Services: s.Services, Path: p.manifest.Binary,
	}
}

// domains are the domains of all connections, of those of remote hypervisors as far as they are open.
func (h *Host) domains() []connection.Domains {
	var all []connection.Domains
	for _, i := range h.inventories {
		all = append(all, connection.Kept(i))
	}
	for _, r := range h.remotes {
		for _, f := range r.open() {
			all = append(all, f.mirror)
		}
	}
	return all
}

// parts are the plugins of all kinds.
func (h *Host) parts() []*part {
	var all []*part
	for _, d := range h.drivers {
		all = append(all, &d.part)
	}
	for _, r := range h.remotes {
		all = append(all, &r.part)
	}
	for _, s := range h.storage {
		all = append(all, &s.part)
	}
	if l := h.lockPlugin; l != nil {
		all = append(all, &l.part)
	}
	return all
}

// part finds the plugin of a name.
func (h *Host) part(name string) (*part, error) {
	for _, p := range h.parts() {
		if p.manifest.Name == name {
			return p, nil
		}
	}
	return nil, verr.New(verr.InvalidArg, "no plugin is named '%s'", name)
}

// ResetPlugin lets a failed plugin be started again.
func (h *Host) ResetPlugin(name string) error {
	p, err := h.part(name)
	if err == nil {
		p.plugin.Reset()
	}
	return err
}

// RestartPlugin starts a plugin's binary anew and waits until it is ready.
func (h *Host) RestartPlugin(ctx context.Context, name string) (*adminv1.Plugin, error) {
	p, err := h.part(name)
	if err != nil {
		return nil, err
	}
	if _, err := p.plugin.Restart(ctx); err != nil {
		return nil, verr.New(verr.OperationFailed, "%w", err)
	}
	return p.show(), nil
}

// Jobs lists long work on storage.
func (h *Host) Jobs() []*adminv1.Job {
	var jobs []*adminv1.Job
	for _, t := range h.tasks.List() {
		jobs = append(jobs, &adminv1.Job{
			Id: t.ID, Kind: t.Kind, Pool: t.Pool, Volume: t.Volume, Since: timestamppb.New(t.Since), Done: t.Done, Total: t.Total,
		})
	}
	return jobs
}

// CancelJob ends long work on storage.
func (h *Host) CancelJob(id uint64) error { return h.tasks.Cancel(id) }

// states are libvirt's states in words.
var states = map[domain.State]string{
	domain.NoState: "no state", domain.Running: "running", domain.Blocked: "blocked", domain.Paused: "paused",
	domain.ShuttingDown: "in shutdown", domain.ShutOff: "shut off", domain.Crashed: "crashed", domain.PMSuspended: "pmsuspended",
}

// Guests lists the guests of all connections.
func (h *Host) Guests() []*adminv1.GuestInfo {
	var guests []*adminv1.GuestInfo
	for _, i := range h.domains() {
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
