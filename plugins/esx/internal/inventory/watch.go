package inventory

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	machineType = "VirtualMachine"
	hostType    = "HostSystem"
	managerType = "HostAutoStartManager"
)

// farewell bounds the removal of a watch's objects, which only spares the endpoint.
const farewell = time.Second

// watch is a collector of an endpoint that waits for changes of machines.
type watch struct {
	client    *vim25.Client
	views     []*view.ContainerView
	collector *property.Collector
	options   Options
	place     Place
	// version is of the last update that was taken in.
	version string
}

// open begins to watch all machines below the root, and the automatic starts of those hosts that tell of them.
func (w *watch) open(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, w.options.Setup)
	defer cancel()
	root := w.client.ServiceContent.RootFolder
	if w.options.Locate != nil {
		if w.place, err = w.options.Locate(ctx, w.client); err != nil {
			return err
		}
	}
	if w.place.Root != nil {
		root = *w.place.Root
	}
	if w.collector, err = property.DefaultCollector(w.client).Create(ctx); err != nil {
		return err
	}
	machines, err := w.view(ctx, root, machineType)
	if err != nil {
		return err
	}
	managers, err := w.managers(ctx, root)
	if err != nil {
		return err
	}
	specs := []types.PropertyFilterSpec{{
		ObjectSet: []types.ObjectSpec{{Obj: machines.Reference(), Skip: types.NewBool(true), SelectSet: []types.BaseSelectionSpec{
			&types.TraversalSpec{Type: "ContainerView", Path: "view"},
		}}},
		PropSet: []types.PropertySpec{{Type: machineType, PathSet: slices.Sorted(maps.Keys(properties))}},
	}}
	if w.place.Host != nil {
		specs = append(specs, types.PropertyFilterSpec{
			ObjectSet: []types.ObjectSpec{{Obj: *w.place.Host}},
			PropSet:   []types.PropertySpec{{Type: hostType, PathSet: slices.Sorted(maps.Keys(hostProperties))}},
		})
	}
	for _, manager := range managers {
		specs = append(specs, types.PropertyFilterSpec{
			ObjectSet: []types.ObjectSpec{{Obj: manager}},
			PropSet:   []types.PropertySpec{{Type: managerType, PathSet: []string{"config"}}},
		})
	}
	for _, spec := range specs {
		if _, err := w.collector.CreateFilter(ctx, types.CreateFilter{Spec: spec}); err != nil {
			return err
		}
	}
	return nil
}

// only is the host whose machines alone are shown, or nil.
func (w *watch) only() *types.ManagedObjectReference {
	if w.place.Only {
		return w.place.Host
	}
	return nil
}

func (w *watch) view(ctx context.Context, root types.ManagedObjectReference, kind string) (*view.ContainerView, error) {
	v, err := view.NewManager(w.client).CreateContainerView(ctx, root, []string{kind}, true)
	if err == nil {
		w.views = append(w.views, v)
	}
	return v, err
}

// managers finds the managers of automatic starts that can be read. Hosts that join later are found by the next watch.
func (w *watch) managers(ctx context.Context, root types.ManagedObjectReference) ([]types.ManagedObjectReference, error) {
	all, err := w.view(ctx, root, hostType)
	if err != nil {
		return nil, err
	}
	var hosts []mo.HostSystem
	if err := all.Retrieve(ctx, []string{hostType}, []string{"configManager.autoStartManager"}, &hosts); err != nil {
		return nil, err
	}
	found := map[types.ManagedObjectReference]bool{}
	for _, host := range hosts {
		ref := host.ConfigManager.AutoStartManager
		if ref == nil || found[*ref] {
			continue
		}
		var manager mo.HostAutoStartManager
		err := property.DefaultCollector(w.client).RetrieveOne(ctx, *ref, []string{"config"}, &manager)
		switch {
		case err == nil:
			found[*ref] = true
		case !soap.IsSoapFault(err) && !soap.IsVimFault(err):
			return nil, err
		}
	}
	return slices.Collect(maps.Keys(found)), nil
}

// next waits for the next update, nil if there was none within the time to wait.
func (w *watch) next(ctx context.Context) (*types.UpdateSet, error) {
	ctx, cancel := context.WithTimeout(ctx, w.options.MaxWait+w.options.Grace)
	defer cancel()
	seconds := int32(max(1, w.options.MaxWait/time.Second))
	res, err := methods.WaitForUpdatesEx(ctx, w.client, &types.WaitForUpdatesEx{
		This: w.collector.Reference(), Version: w.version, Options: &types.WaitOptions{
			MaxWaitSeconds: &seconds, MaxObjectUpdates: w.options.MaxObjects,
		},
	})
	if err != nil {
		return nil, err
	}
	if res.Returnval != nil {
		w.version = res.Returnval.Version
	}
	return res.Returnval, nil
}

// close removes what the watch has made at the endpoint. It may be called again after an error.
func (w *watch) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	var errs []error
	if w.collector != nil {
		errs = append(errs, w.collector.Destroy(ctx))
	}
	for _, v := range w.views {
		errs = append(errs, v.Destroy(ctx))
	}
	return errors.Join(errs...)
}
