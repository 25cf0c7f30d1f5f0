package manager

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/client"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// watchdogTime is how long after the end of its lease a host is dead for sure, in seconds: its watchdog has fired by then.
const watchdogTime = 60

// busy are the results that say that somebody else has a lease.
var busy = map[client.Result]bool{
	client.Held: true, client.Busy: true, client.Again: true, client.Contended: true, client.HostLives: true, client.HeldElsewhere: true,
	client.HeldByOther: true, client.HostSilent: true,
}

// explain says why leases could not be taken, naming the one that is to blame and who has it.
func (a *attempt) explain(ctx context.Context, err error, lacking []want) error {
	var result client.Result
	if !errors.As(err, &result) {
		return failure(err)
	}
	a.refused = result
	switch {
	case busy[result]:
		return a.explainBusy(ctx, result, lacking)
	case result == client.OtherVersion:
		return a.explainVersion(ctx, lacking)
	case result == client.NotRegistered, result == client.Gone:
		return notRegistered(a.who)
	case result == client.NoLockspace:
		return a.explainSpace(ctx, lacking)
	case result == client.Orphan:
		return verr.New(verr.ResourceBusy, "%s: %w; give it up with \"sanlock client release\"", describeAll(lacking), err)
	}
	for _, w := range lacking {
		if _, rerr := a.daemon.ReadResource(ctx, *w.lease); rerr != nil {
			return unusable(w, rerr)
		}
	}
	return verr.New(verr.OperationFailed, "%s cannot be locked: %w", describeAll(lacking), err)
}

func describeAll(wants []want) string {
	var names []string
	for _, w := range wants {
		names = append(names, describe(w.resource))
	}
	return strings.Join(names, ", ")
}

func (a *attempt) explainBusy(ctx context.Context, result client.Result, lacking []want) error {
	st, err := a.daemon.Status(ctx)
	if err != nil {
		return verr.New(verr.ResourceBusy, "%s: %w", describeAll(lacking), result)
	}
	if err := a.holder(ctx, st, lacking); err != nil {
		return err
	}
	if p := st.Process(a.pid()); p != nil && p.Kills > 0 {
		return verr.New(verr.OperationInvalid, "guest %q gets no locks: its lockspace is being lost, and sanlock ends its process", a.who.GetName())
	}
	return verr.New(verr.ResourceBusy, "%s: %w", describeAll(lacking), result)
}

// holder says who has one of the leases, or is nil.
func (a *attempt) holder(ctx context.Context, st *client.Status, lacking []want) error {
	for _, w := range lacking {
		if holder := a.localHolder(st, w); holder != "" {
			return verr.New(verr.ResourceBusy, "%s is in use by %s", describe(w.resource), holder)
		}
	}
	for _, w := range lacking {
		if holder := a.remoteHolder(ctx, st, w); holder != "" {
			return verr.New(verr.ResourceBusy, "%s is in use by %s", describe(w.resource), holder)
		}
	}
	return nil
}

// localHolder names who on this host has a lease, or is empty.
func (a *attempt) localHolder(st *client.Status, w want) string {
	for _, l := range st.Leases {
		if l.Lockspace != w.lease.Lockspace || l.Name != w.lease.Name || l.PID == a.pid() {
			continue
		}
		name := a.guestOf(l.PID)
		if p := st.Process(l.PID); name == "" && p != nil {
			name = p.Name
		}
		return fmt.Sprintf("%q (process %d of this host)", name, l.PID)
	}
	return ""
}

// guestOf returns the name of the guest that a process is.
func (m *Manager) guestOf(pid int) (name string) {
	m.each(func(o *owner) {
		if int(o.who.GetPid()) == pid {
			name = o.who.GetName()
		}
	})
	return name
}

// remoteHolder names what other host has a lease, or is empty.
func (a *attempt) remoteHolder(ctx context.Context, st *client.Status, w want) string {
	owners, err := a.daemon.Owners(ctx, *w.lease)
	if err != nil {
		return ""
	}
	own := uint64(0)
	if ls := st.Lockspace(w.lease.Lockspace); ls != nil {
		own = ls.HostID
	}
	hosts, _ := a.daemon.Hosts(ctx, w.lease.Lockspace) // without them there is a number
	for _, o := range owners {
		if o.HostID != own {
			return describeHost(o.HostID, hosts, st.Now)
		}
	}
	return ""
}

// describeHost names a host and, if it is silent, says when it counts as dead.
func describeHost(number uint64, hosts []client.Host, now uint64) string {
	for _, h := range hosts {
		if h.ID != number {
			continue
		}
		text := fmt.Sprintf("host %d (%q)", number, h.Name)
		silent, dead := now-min(now, h.LastLive), failAfter*h.IOTimeout+watchdogTime
		if h.LastLive != 0 && silent >= failAfter*h.IOTimeout {
			text += fmt.Sprintf(", which was last heard of %d seconds ago and counts as dead after %d", silent, dead)
		}
		return text
	}
	return fmt.Sprintf("host %d", number)
}

func (a *attempt) explainVersion(ctx context.Context, lacking []want) error {
	if st, err := a.daemon.Status(ctx); err == nil {
		if err := a.holder(ctx, st, lacking); err != nil {
			return err
		}
	}
	for _, w := range lacking {
		now, err := a.daemon.ReadResource(ctx, *w.lease)
		if err == nil && w.lease.Version != 0 && now != w.lease.Version {
			return verr.New(verr.ResourceBusy, "%s was used by somebody else since the guest gave its lock up (its lease has version %d, not %d)",
				describe(w.resource), now, w.lease.Version)
		}
	}
	return verr.New(verr.ResourceBusy, "%s: %w", describeAll(lacking), client.OtherVersion)
}

func (a *attempt) explainSpace(ctx context.Context, lacking []want) error {
	st, err := a.daemon.Lockspaces(ctx)
	if err != nil {
		return failure(err)
	}
	for _, w := range lacking {
		if ls := st.Lockspace(w.lease.Lockspace); ls == nil || ls.List != client.ListJoined || ls.Failed {
			return noLockspace(w)
		}
	}
	return verr.New(verr.OperationFailed, "%s: %w", describeAll(lacking), client.NoLockspace)
}
