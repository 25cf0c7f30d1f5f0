package manager

import (
	"context"
	"errors"

	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/client"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Prepare implements lock.Manager.
func (m *Manager) Prepare(ctx context.Context, req *pb.PrepareRequest) (*pb.PrepareResponse, error) {
	c, daemon, err := m.settings()
	if err != nil {
		return nil, err
	}
	wants, err := c.wants(req.GetResources())
	if err != nil {
		return nil, err
	}
	if c.requires() && unprotected(wants) {
		return nil, verr.New(verr.ConfigUnsupported, "Read/write, exclusive access, disks were present, but no leases specified")
	}
	if err := m.awaitSpace(ctx, wants); err != nil {
		return nil, err
	}
	if err := c.makeLeases(ctx, daemon, wants); err != nil {
		return nil, err
	}
	st, err := daemon.Lockspaces(ctx)
	if err != nil {
		return nil, failure(err)
	}
	for _, w := range distinct(wants) {
		if err := usable(ctx, daemon, st, w); err != nil {
			return nil, err
		}
	}
	return &pb.PrepareResponse{NeedsProcess: true, Registrations: []*pb.Registration{registration(daemon, req.GetOnFailure())}}, nil
}

// unprotected reports that there are disks, and neither they nor anything else has a lease.
func unprotected(wants []want) bool {
	disks := false
	for _, w := range wants {
		if w.lease != nil {
			return false
		}
		disks = disks || !w.resource.GetShared()
	}
	return disks
}

// usable makes sure that a lease can be asked for: its lockspace is joined, and it lies where it should.
func usable(ctx context.Context, daemon *client.Client, st *client.Status, w want) error {
	ls := st.Lockspace(w.lease.Lockspace)
	if ls == nil || ls.List != client.ListJoined || ls.Failed {
		return noLockspace(w)
	}
	if _, err := daemon.ReadResource(ctx, *w.lease); err != nil {
		return unusable(w, err)
	}
	return nil
}

func noLockspace(w want) error {
	if w.lease.Lockspace == diskSpace {
		return verr.New(verr.OperationFailed, "%s cannot be locked: %w", describe(w.resource), errGivenUp)
	}
	return verr.New(verr.OperationInvalid, "%s cannot be locked: this host is not in lockspace %q; have it join with \"sanlock client add_lockspace\"",
		describe(w.resource), w.lease.Lockspace)
}

// unusable says what is wrong with a lease that could not be read.
func unusable(w want, err error) error {
	var result client.Result
	remedy := ""
	switch {
	case !errors.As(err, &result):
		return failure(err)
	case (result == client.NoLease || result == client.Short) && w.resource.GetDisk() != "":
		remedy = "; a file that was never finished may be removed"
	case result == client.NoLease || result == client.Short:
		remedy = "; make the lease with \"sanlock client init\""
	}
	return verr.New(verr.OperationFailed, "%s cannot be locked by %s: %w%s", describe(w.resource), place(w.lease), err, remedy)
}

// killPath is the kill path of guests for which the core is to act: it does nothing.
const killPath = "/bin/true"

// registration is what a guest's process has to say to the daemon. A guest that is powered off when it loses a lease gets sanlock's own
// signals, in case that nobody else does it.
func registration(daemon *client.Client, onFailure pb.Action) *pb.Registration {
	path := killPath
	if onFailure == pb.Action_ACTION_POWEROFF {
		path = ""
	}
	r := &pb.Registration{Socket: daemon.Socket()}
	for _, e := range client.Registration(path) {
		r.Exchanges = append(r.Exchanges, &pb.Exchange{Send: e.Send, Receive: uint32(len(e.Want)), Want: e.Want, Mask: e.Mask})
	}
	return r
}
