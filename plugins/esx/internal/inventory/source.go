package inventory

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/follow"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	machineType = "VirtualMachine"
	hostType    = "HostSystem"
	managerType = "HostAutoStartManager"
)

// source is the machines of an endpoint for its follower.
type source struct {
	mirror  *Mirror
	locate  func(ctx context.Context, client *vim25.Client) (Place, error)
	log     hclog.Logger
	tell    func(Change)
	reading *reading
}

var _ follow.Source = (*source)(nil)

// Open watches all machines below the root, the host that is followed, and the automatic starts of those hosts that tell of them.
func (s *source) Open(ctx context.Context, w *follow.Watch) error {
	var place Place
	if s.locate != nil {
		var err error
		if place, err = s.locate(ctx, w.Client()); err != nil {
			return err
		}
	}
	s.reading = newReading(place.only())
	root := w.Client().ServiceContent.RootFolder
	if place.Root != nil {
		root = *place.Root
	}
	machines, err := w.View(ctx, root, machineType)
	if err != nil {
		return err
	}
	managers, err := managers(ctx, w, root, place.Host)
	if err != nil {
		return err
	}
	if err := w.Members(ctx, machines, machineType, slices.Sorted(maps.Keys(properties))...); err != nil {
		return err
	}
	if place.Host != nil {
		if err := w.Object(ctx, *place.Host, slices.Sorted(maps.Keys(hostProperties))...); err != nil {
			return err
		}
	}
	for _, manager := range managers {
		if err := w.Object(ctx, manager, "config"); err != nil {
			return err
		}
	}
	return nil
}

// only is the host whose machines alone are shown, or nil.
func (p Place) only() *types.ManagedObjectReference {
	if p.Only {
		return p.Host
	}
	return nil
}

// managers finds the managers of automatic starts that can be read, that of one host if there is one. Hosts that join later are found by
// the next watch.
func managers(ctx context.Context, w *follow.Watch, root types.ManagedObjectReference, only *types.ManagedObjectReference) (
	[]types.ManagedObjectReference, error,
) {
	const path = "configManager.autoStartManager"
	var hosts []mo.HostSystem
	if only != nil {
		hosts = make([]mo.HostSystem, 1)
		if err := property.DefaultCollector(w.Client()).RetrieveOne(ctx, *only, []string{path}, &hosts[0]); err != nil {
			return nil, err
		}
	} else {
		all, err := w.View(ctx, root, hostType)
		if err != nil {
			return nil, err
		}
		if err := all.Retrieve(ctx, []string{hostType}, []string{path}, &hosts); err != nil {
			return nil, err
		}
	}
	found := map[types.ManagedObjectReference]bool{}
	for _, host := range hosts {
		ref := host.ConfigManager.AutoStartManager
		if ref == nil || found[*ref] {
			continue
		}
		var manager mo.HostAutoStartManager
		err := property.DefaultCollector(w.Client()).RetrieveOne(ctx, *ref, []string{"config"}, &manager)
		switch {
		case err == nil:
			found[*ref] = true
		case !soap.IsSoapFault(err) && !soap.IsVimFault(err):
			return nil, err
		}
	}
	return slices.Collect(maps.Keys(found)), nil
}

// Apply takes a change into the reading.
func (s *source) Apply(update types.ObjectUpdate) error { return s.reading.one(update) }

// Publish makes the reading the present state and tells what it changes.
func (s *source) Publish(first bool) {
	now := s.reading.snapshot()
	if before := s.mirror.state.Swap(now); before.Synced {
		for _, change := range diff(before, now) {
			s.tell(change)
		}
		if before.Host != now.Host && !first {
			s.tell(Change{Kind: HostChanged, Snapshot: now})
		}
	}
	if first {
		s.log.Info("inventory read", "machines", len(now.sorted), "unidentified", now.Unidentified)
		s.tell(Change{Kind: Resynchronised, Snapshot: now})
	}
}

// Lost marks the state as stale and tells it, once for each kind of cause, but not after the end.
func (s *source) Lost(ctx context.Context, cause error) {
	before := s.mirror.Snapshot()
	since := before.StaleSince
	if since.IsZero() {
		since = time.Now()
	}
	now := before.stale(since, cause)
	s.mirror.state.Store(now)
	news := before.StaleSince.IsZero() || before.Cause == nil || codeOf(cause) != codeOf(before.Cause)
	if news && ctx.Err() == nil {
		s.log.Warn("inventory lost", "error", cause)
		s.tell(Change{Kind: Stale, Snapshot: now})
	}
}

// codeOf is the code of an error, OK for none.
func codeOf(err error) verr.Code {
	if e := verr.From(err); e != nil {
		return e.Code
	}
	return verr.OK
}
