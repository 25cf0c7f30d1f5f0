package follow

import (
	"context"
	"errors"
	"time"

	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// farewell bounds the removal of a watch's objects, which only spares the endpoint.
const farewell = time.Second

// Watch is a collector of an endpoint that waits for changes. A Source fills it in its Open and must not keep it.
type Watch struct {
	client    *vim25.Client
	views     []*view.ContainerView
	collector *property.Collector
	options   Options
	// version is of the last update that was taken in.
	version string
}

// Client is the session that is watched.
func (w *Watch) Client() *vim25.Client { return w.client }

// View makes a view of all objects of some types below a root, which is removed with the watch.
func (w *Watch) View(ctx context.Context, root types.ManagedObjectReference, kinds ...string) (*view.ContainerView, error) {
	v, err := view.NewManager(w.client).CreateContainerView(ctx, root, kinds, true)
	if err == nil {
		w.views = append(w.views, v)
	}
	return v, err
}

// Members watches properties of what is in a view, and what comes and goes there.
func (w *Watch) Members(ctx context.Context, v *view.ContainerView, kind string, properties ...string) error {
	return w.Filter(ctx, types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: v.Reference(), Skip: types.NewBool(true), SelectSet: []types.BaseSelectionSpec{
			&types.TraversalSpec{Type: "ContainerView", Path: "view"},
		}}},
		PropSet: []types.PropertySpec{{Type: kind, PathSet: properties}},
	})
}

// Object watches properties of one object.
func (w *Watch) Object(ctx context.Context, ref types.ManagedObjectReference, properties ...string) error {
	return w.Filter(ctx, types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: ref}},
		PropSet:   []types.PropertySpec{{Type: ref.Type, PathSet: properties}},
	})
}

// Filter watches whatever a filter selects.
func (w *Watch) Filter(ctx context.Context, spec types.PropertyFilterSpec) error {
	_, err := w.collector.CreateFilter(ctx, types.CreateFilter{Spec: spec})
	return err
}

// open makes the collector and lets the source fill it.
func (w *Watch) open(ctx context.Context, source Source) (err error) {
	ctx, cancel := context.WithTimeout(ctx, w.options.Setup)
	defer cancel()
	if w.collector, err = property.DefaultCollector(w.client).Create(ctx); err != nil {
		return err
	}
	return source.Open(ctx, w)
}

// next waits for the next update, nil if there was none within the time to wait.
func (w *Watch) next(ctx context.Context) (*types.UpdateSet, error) {
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
func (w *Watch) close(ctx context.Context) error {
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
