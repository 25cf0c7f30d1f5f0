package storage

import (
	"context"
	"fmt"
	"path"
	"reflect"
	"slices"

	"github.com/hashicorp/go-hclog"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/follow"
	"github.com/lodgevirt/lodge/plugins/esx/internal/storage/internal/datastore"
	"github.com/lodgevirt/lodge/plugins/esx/internal/storage/internal/iscsi"
	"github.com/lodgevirt/lodge/sdk/inventory"
	inventoryv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	hostType       = "HostSystem"
	datastoreType  = "Datastore"
	datacenterType = "Datacenter"
)

// reading is what was read of a host. It belongs to the follower's goroutine.
type reading struct {
	store *Store
	find  Host
	feed  *inventory.Feed
	log   hclog.Logger
	place datastore.Place

	host types.ManagedObjectReference
	// members are the host's datastores, all what is known of any.
	members []types.ManagedObjectReference
	all     map[types.ManagedObjectReference]*facts
	devices types.HostStorageDeviceInfo
	// keys are by UUID of the pool, and outlive a reading.
	keys map[string]*datastore.Keys
}

// facts are what is told of a datastore: all of it, or not yet.
type facts struct {
	datastore.Facts
	mounts []types.DatastoreHostMount
}

var _ follow.Source = (*reading)(nil)

func newReading(s *Store, find Host, feed *inventory.Feed, log hclog.Logger, o Options) *reading {
	return &reading{
		store: s, find: find, feed: feed, log: log, keys: map[string]*datastore.Keys{},
		place: datastore.Place{Endpoint: s.endpoint, Tasks: o.tasks(s.endpoint), Stall: o.Stall, Log: log},
	}
}

// Open implements follow.Source.
func (r *reading) Open(ctx context.Context, w *follow.Watch) error {
	host, err := r.find(ctx)
	if err != nil {
		return err
	}
	r.host = host.Reference()
	r.members, r.all, r.devices = nil, map[types.ManagedObjectReference]*facts{}, types.HostStorageDeviceInfo{}
	if r.place.Datacenter, r.place.Path, err = datacenter(ctx, w.Client(), r.host); err != nil {
		return err
	}
	return w.Filter(ctx, types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: r.host, SelectSet: []types.BaseSelectionSpec{
			&types.TraversalSpec{Type: hostType, Path: "datastore"},
		}}},
		PropSet: []types.PropertySpec{
			{Type: hostType, PathSet: []string{"datastore", "config.storageDevice"}},
			{Type: datastoreType, PathSet: []string{"browser", "host", "info", "summary", "vm"}},
		},
	})
}

// datacenter finds the datacenter of a host, and its path in the inventory.
func datacenter(ctx context.Context, client *vim25.Client, host types.ManagedObjectReference) (types.ManagedObjectReference, string, error) {
	above, err := mo.Ancestors(ctx, client, client.ServiceContent.PropertyCollector, host)
	if err != nil {
		return types.ManagedObjectReference{}, "", err
	}
	where := ""
	for _, entity := range above {
		if entity.Parent == nil {
			continue // the root folder, which paths do not name
		}
		where = path.Join(where, entity.Name)
		if entity.Self.Type == datacenterType {
			return entity.Self, where, nil
		}
	}
	return types.ManagedObjectReference{}, "", verr.New(verr.Internal, "host %q is in no datacenter", host.Value).In(verr.FromStorage)
}

// Apply implements follow.Source.
func (r *reading) Apply(update types.ObjectUpdate) error {
	if update.Obj.Type == datastoreType && update.Kind == types.ObjectUpdateKindLeave {
		delete(r.all, update.Obj)
		return nil
	}
	for _, change := range update.ChangeSet {
		if !r.set(update.Obj, change) {
			return fmt.Errorf("%s is a %T", change.Name, change.Val)
		}
	}
	return nil
}

// set takes in a property, and says whether its value is of the right type.
func (r *reading) set(ref types.ManagedObjectReference, change types.PropertyChange) bool {
	if ref.Type != datastoreType {
		switch change.Name {
		case "datastore":
			return references(&r.members, change.Val)
		case "config.storageDevice":
			return into(&r.devices, change.Val)
		}
		return true
	}
	f := r.all[ref]
	if f == nil {
		f = &facts{}
		r.all[ref] = f
	}
	switch change.Name {
	case "browser":
		return into(&f.Browser, change.Val)
	case "summary":
		return into(&f.Summary, change.Val)
	case "vm":
		return references(&f.Machines, change.Val)
	case "host":
		var mounts types.ArrayOfDatastoreHostMount
		ok := into(&mounts, change.Val)
		f.mounts = mounts.DatastoreHostMount
		return ok
	case "info":
		return f.setInfo(change.Val)
	}
	return true
}

// into keeps a value of the field's type, or its zero value for one that is not set.
func into[T any](field *T, value any) bool {
	v, ok := value.(T)
	if ok || value == nil {
		*field = v
	}
	return ok || value == nil
}

func references(field *[]types.ManagedObjectReference, value any) bool {
	var all types.ArrayOfManagedObjectReference
	ok := into(&all, value)
	*field = all.ManagedObjectReference
	return ok
}

// setInfo keeps information of any kind of datastore.
func (f *facts) setInfo(value any) bool {
	f.Info = nil
	if value == nil {
		return true
	}
	copied := reflect.New(reflect.TypeOf(value))
	copied.Elem().Set(reflect.ValueOf(value))
	info, ok := copied.Interface().(types.BaseDatastoreInfo)
	if ok {
		f.Info = info
	}
	return ok
}

// Publish implements follow.Source.
func (r *reading) Publish(first bool) {
	now := map[string]backend{}
	for _, b := range r.backends() {
		now[b.Object().GetUuid()] = b
	}
	before := r.store.pools.Swap(&now)
	changed := &inventoryv1.Objects{}
	for _, b := range now {
		changed.Pools = append(changed.Pools, b.Object())
	}
	for id := range *before {
		if now[id] == nil {
			changed.GonePools = append(changed.GonePools, id)
			delete(r.keys, id)
		}
	}
	r.feed.Apply(changed)
	if first {
		r.log.Info("storage read", "pools", len(now))
	}
}

// backends are the pools of all kinds. What cannot be one is left out.
func (r *reading) backends() []backend {
	var all []backend
	for ref, f := range r.all {
		if !slices.Contains(r.members, ref) || f.Info == nil || f.Summary.Name == "" {
			continue // it is leaving or coming
		}
		if p := r.datastore(f); p != nil {
			all = append(all, p)
		}
	}
	targets, err := iscsi.Read(r.devices)
	if err != nil {
		r.log.Warn("iscsi targets left out", "error", err)
	}
	for _, t := range targets {
		all = append(all, t)
	}
	return all
}

// datastore is a datastore as a pool, or nil.
func (r *reading) datastore(f *facts) backend {
	f.Mount = types.HostMountInfo{}
	for _, mount := range f.mounts {
		if mount.Key == r.host {
			f.Mount = mount.MountInfo
		}
	}
	id := datastore.UUID(f.Facts)
	if r.keys[id] == nil {
		r.keys[id] = &datastore.Keys{}
	}
	p, err := datastore.New(r.place, f.Facts, r.keys[id])
	if err != nil {
		r.log.Debug("datastore left out", "datastore", f.Summary.Name, "error", err)
		return nil
	}
	return p
}

// Lost implements follow.Source. The feed's owner says that it is stale.
func (r *reading) Lost(_ context.Context, cause error) {
	r.log.Debug("storage not followed", "error", cause)
}
