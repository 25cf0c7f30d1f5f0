package guests

import (
	"context"
	"time"

	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/hardware"
	"github.com/lodgevirt/lodge/plugins/esx/internal/inventory"
	hv "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// definition is what was read of a machine beside what the mirror has.
type definition struct {
	read bool
	// version is of the configuration that was read, asked what the mirror had when it was asked for.
	version, asked string
	// stale is the count of the mirror's partial changes of snapshots when tree was read.
	stale int
	tree  *inventory.Tree
	xml   string
	// err is why there is no xml.
	err error
}

// current says whether a machine need not be read.
func (d definition) current(vm inventory.VM) bool {
	return d.read && (d.version == vm.ChangeVersion || d.asked == vm.ChangeVersion) && d.stale == vm.SnapshotsStale
}

const (
	// readers is how many machines are read in one call.
	readers = 50
	// Bounds of the pause after a reading that failed.
	minPause = 500 * time.Millisecond
	maxPause = 30 * time.Second
)

// work reads definitions and answers questions until the end.
func (g *Guests) work(ctx context.Context) {
	defer close(g.stopped)
	pause := minPause
	for {
		select {
		case <-g.wake:
		case <-ctx.Done():
			return
		}
		g.answerAll(ctx)
		if err := g.readAll(ctx); err == nil {
			pause = minPause
			continue
		}
		select {
		case <-time.After(pause):
			g.poke()
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, maxPause)
	}
}

// readAll reads all machines whose definition is not current.
func (g *Guests) readAll(ctx context.Context) error {
	for {
		snapshot := g.mirror.Snapshot()
		if !snapshot.Synced || !snapshot.StaleSince.IsZero() {
			return nil // the next change wakes us
		}
		var next []inventory.VM
		g.mu.Lock()
		for _, vm := range snapshot.All() {
			if len(next) < readers && !g.definitions[vm.Ref].current(vm) {
				next = append(next, vm)
			}
		}
		g.mu.Unlock()
		if len(next) == 0 {
			return nil
		}
		if err := g.read(ctx, next...); err != nil {
			g.log.Debug("definitions could not be read", "error", err)
			return err
		}
	}
}

// read reads machines and puts them into the feed. One that is gone meanwhile is left out.
func (g *Guests) read(ctx context.Context, vms ...inventory.VM) error {
	refs := make([]types.ManagedObjectReference, len(vms))
	for i, vm := range vms {
		refs[i] = vm.Ref
	}
	var found []mo.VirtualMachine
	err := g.endpoint.Do(ctx, func(ctx context.Context, client *vim25.Client) error {
		found = nil
		return property.DefaultCollector(client).Retrieve(ctx, refs, append([]string{"snapshot"}, hardware.Properties...), &found)
	})
	switch {
	case err != nil && fault.Is(err, &types.ManagedObjectNotFound{}) && len(vms) > 1:
		for _, vm := range vms {
			if err := g.read(ctx, vm); err != nil {
				return err
			}
		}
		return nil
	case err != nil && fault.Is(err, &types.ManagedObjectNotFound{}):
		g.keep(vms[0], definition{version: vms[0].ChangeVersion, err: failed(verr.NoDomain, "domain '%s' is gone", vms[0].Name)})
		return nil
	case err != nil:
		return err
	}
	byRef := map[types.ManagedObjectReference]*mo.VirtualMachine{}
	for i := range found {
		byRef[found[i].Self] = &found[i]
	}
	for _, vm := range vms {
		g.keep(vm, g.define(vm, byRef[vm.Ref]))
	}
	g.show(vms)
	return nil
}

// define makes a definition of what was read.
func (g *Guests) define(vm inventory.VM, read *mo.VirtualMachine) definition {
	d := definition{}
	if read == nil || read.Config == nil {
		d.err = failed(verr.Internal, "the configuration of domain '%s' can't be read now: its files are out of reach", vm.Name)
		return d
	}
	d.version, d.tree = read.Config.ChangeVersion, inventory.NewTree(read.Snapshot)
	ctx := hardware.Context{}
	if p := g.place.Load(); p != nil {
		ctx.DatacenterPath = p.datacenterPath
	}
	d.xml, d.err = hardware.XML(read.Config, ctx)
	if d.err != nil {
		g.log.Warn("a definition has no XML", "guest", vm.Name, "error", d.err)
	}
	return d
}

// keep stores a definition.
func (g *Guests) keep(vm inventory.VM, d definition) {
	d.read, d.asked, d.stale = true, vm.ChangeVersion, vm.SnapshotsStale
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, still := g.mirror.Snapshot().Ref(vm.Ref); still { // one that went while it was read is not kept
		g.definitions[vm.Ref] = d
	}
}

// show puts machines into the feed as the mirror has them now.
func (g *Guests) show(vms []inventory.VM) {
	g.telling.Lock()
	defer g.telling.Unlock()
	g.mu.Lock()
	snapshot := g.shown
	g.mu.Unlock()
	var now []inventory.VM
	for _, old := range vms {
		if vm, ok := snapshot.Ref(old.Ref); ok {
			now = append(now, vm)
		}
	}
	g.put(snapshot, now)
}

// Describe reads a guest's definition from the endpoint.
func (g *Guests) Describe(ctx context.Context, guest *hv.Guest) (string, error) {
	vm, err := g.find(guest)
	if err != nil {
		return "", err
	}
	if err := g.read(ctx, vm); err != nil {
		return "", explain("read the definition of domain '"+guest.GetName()+"'", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.definitions[vm.Ref]
	if !d.read {
		return "", failed(verr.NoDomain, "domain '%s' is gone", guest.GetName())
	}
	return d.xml, d.err
}

// config reads a machine's present configuration.
func (g *Guests) config(ctx context.Context, vm inventory.VM) (*types.VirtualMachineConfigInfo, error) {
	var read mo.VirtualMachine
	err := g.do(ctx, "read domain '"+vm.Name+"'", func(ctx context.Context, client *vim25.Client) error {
		return property.DefaultCollector(client).RetrieveOne(ctx, vm.Ref, hardware.Properties, &read)
	})
	if err == nil && read.Config == nil {
		err = failed(verr.Internal, "the configuration of domain '%s' can't be read now: its files are out of reach", vm.Name)
	}
	return read.Config, err
}
