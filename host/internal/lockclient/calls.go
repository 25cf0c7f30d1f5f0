package lockclient

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/xdr"
)

// Acquire takes all resources for an owner, or none, and returns a lease with a descriptor for each, in their order. Repeating it
// returns the same leases. A lock that somebody else has is verr.ResourceBusy in the domain verr.FromLocking, with a sentence that names
// the disk and its holder. At most lockproto.MaxResources.
func (c *Client) Acquire(ctx context.Context, owner Owner, resources []lockspace.Resource) ([]Lease, error) {
	var out []Lease
	var files []*os.File
	args := lockproto.AcquireArgs{Owner: owner.wire(), Resources: wire(resources)}
	for {
		var ret leaseList
		got, err := c.call(ctx, lockproto.Acquire, &args, &ret, nil)
		if err != nil {
			closeAll(files)
			return nil, err
		}
		files, out = append(files, got...), leasesOf(ret)
		switch {
		case len(out) != len(resources) || len(files) > len(out) || (len(got) == 0 && len(files) < len(out)):
			closeAll(files)
			return nil, fmt.Errorf("acquire locks: the lock daemon sent %d descriptors for %d of %d leases",
				len(files), len(out), len(resources))
		case len(files) == len(out):
			for i := range out {
				out[i].File = files[i]
			}
			return out, nil
		}
		args.First = uint32(len(files))
	}
}

// SetProcess says which process the owner has become; its exit ends the owner's leases. A process that is gone is verr.SystemError
// with errno ESRCH, and changes nothing: the caller releases.
func (c *Client) SetProcess(ctx context.Context, owner Owner) error {
	_, err := c.call(ctx, lockproto.SetProcess, &lockproto.SetProcessArgs{Owner: owner.wire()}, nil, nil)
	return err
}

// Release ends a generation's leases of the resources, or all of them if none are named, and returns how many there were. None is no
// error.
func (c *Client) Release(ctx context.Context, id uuid.UUID, generation uint64, resources ...lockspace.Resource) (int, error) {
	args := lockproto.ReleaseArgs{UUID: id, Generation: generation, Resources: wire(resources)}
	var ret lockproto.ReleaseRet
	_, err := c.call(ctx, lockproto.Release, &args, &ret, nil)
	return int(ret.Released), err
}

// List returns all leases, those of other clients too, in the order in which they were taken.
func (c *Client) List(ctx context.Context) ([]Lease, error) {
	var all []Lease
	var args lockproto.ListArgs
	for {
		var ret leaseList
		if _, err := c.call(ctx, lockproto.List, &args, &ret, nil); err != nil {
			return nil, err
		}
		all = append(all, leasesOf(ret)...)
		if !ret.More || len(ret.Leases) == 0 {
			return all, nil
		}
		args.After = ret.Leases[len(ret.Leases)-1].Number
	}
}

// Adopt is Acquire for a guest that lives: a lock that is not free is had from the descriptor in files at the same place, which may be
// nil or missing, or else from the owner's process. The files stay the caller's. It returns leases without descriptors. When it
// fails, some resources may have been adopted and others not; no lock that the guest holds was dropped.
func (c *Client) Adopt(ctx context.Context, owner Owner, resources []lockspace.Resource, files []*os.File) ([]Lease, error) {
	var out []Lease
	for _, batch := range batches(resources, files) {
		args := lockproto.AcquireArgs{Owner: owner.wire(), Resources: wire(batch.resources)}
		var ret leaseList
		if _, err := c.call(ctx, lockproto.Adopt, &args, &ret, batch.files); err != nil {
			return nil, err
		}
		out = append(out, leasesOf(ret)...)
	}
	return out, nil
}

// batch is a part of an Adopt: all of its resources have a file, or none.
type batch struct {
	resources []lockspace.Resource
	files     []*os.File
}

func batches(resources []lockspace.Resource, files []*os.File) []batch {
	var out []batch
	for i, r := range resources {
		var f *os.File
		if i < len(files) {
			f = files[i]
		}
		if n := len(out) - 1; n < 0 || len(out[n].resources) == lockproto.MaxFiles || (len(out[n].files) > 0) != (f != nil) {
			out = append(out, batch{})
		}
		last := &out[len(out)-1]
		last.resources = append(last.resources, r)
		if f != nil {
			last.files = append(last.files, f)
		}
	}
	return out
}

// ForceRelease ends a lease by its number, whoever owns it, and returns it as it was. The lock is dropped for the guest too. A lease that is
// not there is verr.OperationInvalid; after an answer that was lost it may have been this call that has ended it.
func (c *Client) ForceRelease(ctx context.Context, number uint64) (Lease, error) {
	var ret leaseList
	if _, err := c.call(ctx, lockproto.ForceRelease, &lockproto.ForceReleaseArgs{Number: number}, &ret, nil); err != nil {
		return Lease{}, err
	}
	if len(ret.Leases) != 1 {
		return Lease{}, fmt.Errorf("release lease %d by force: the lock daemon told of %d leases", number, len(ret.Leases))
	}
	return leasesOf(ret)[0], nil
}

// Status is the daemon at a glance.
type Status struct {
	// PID is the daemon's process.
	PID int
	// Version is its version.
	Version string
	// Started is when it started.
	Started time.Time
	// Held, Unproven and Lost count leases by state.
	Held, Unproven, Lost int
	// Owners have leases; Clients are connected.
	Owners, Clients int
}

// Status asks the daemon how it is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var ret lockproto.StatusRet
	if _, err := c.call(ctx, lockproto.Status, nil, &ret, nil); err != nil {
		return Status{}, err
	}
	return statusOf(ret), nil
}

// ask is Status of a daemon that is there now: nothing is sent a second time.
func (c *Client) ask(ctx context.Context) (Status, error) {
	f, err := c.try(ctx, lockproto.Status, nil, nil)
	if err != nil {
		return Status{}, fmt.Errorf("find lock daemon: %w", err)
	}
	var ret lockproto.StatusRet
	if _, err := finish(f, &ret); err != nil {
		return Status{}, err
	}
	return statusOf(ret), nil
}

func statusOf(ret lockproto.StatusRet) Status {
	return Status{
		PID: int(ret.PID), Version: ret.Version, Started: time.UnixMilli(ret.StartedMS),
		Held: int(ret.Held), Unproven: int(ret.Unproven), Lost: int(ret.Lost), Owners: int(ret.Owners), Clients: int(ret.Clients),
	}
}

func wire(resources []lockspace.Resource) []lockproto.Resource {
	out := make([]lockproto.Resource, len(resources))
	for i, r := range resources {
		out[i] = lockproto.Resource{
			Lockspace: r.Lockspace, Name: r.Name, Disk: r.Disk, Shared: bool(r.Mode), Temporary: r.Temporary,
		}
	}
	return out
}

// leaseList is a LeaseList with what daemons of today let follow.
type leaseList struct {
	lockproto.LeaseList
	rest lockproto.LeaseRest
}

// decode implements decoder.
func (l *leaseList) decode(payload []byte) error {
	rest, err := xdr.Unmarshal(payload, &l.LeaseList)
	if err == nil && len(rest) > 0 {
		_, err = xdr.Unmarshal(rest, &l.rest)
	}
	return err
}

func leasesOf(list leaseList) []Lease {
	out := make([]Lease, len(list.Leases))
	for i, l := range list.Leases {
		var more lockproto.LeaseMore
		if i < len(list.rest.Leases) {
			more = list.rest.Leases[i]
		}
		out[i] = Lease{
			POSIX: more.POSIX, Unknown: more.Unknown,
			Number: l.Number, Classic: l.Classic, Path: l.Path, State: State(l.State), Detail: l.Detail,
			Since: time.UnixMilli(l.SinceMS),
			Owner: Owner{
				UUID: l.Owner.UUID, Name: l.Owner.Name, ID: l.Owner.ID, Generation: l.Owner.Generation,
				PID: l.Owner.PID, StartTime: l.Owner.StartTime,
			},
			Resource: lockspace.Resource{
				Lockspace: l.Resource.Lockspace, Name: l.Resource.Name, Disk: l.Resource.Disk,
				Mode: lockspace.Mode(l.Resource.Shared), Temporary: l.Resource.Temporary,
			},
		}
	}
	return out
}
