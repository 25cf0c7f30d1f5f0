package guests

import (
	"context"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/inventory"
	hv "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Limits of what a snapshot is given: the hypervisor's own for a name, the contract's for a description.
const (
	maxSnapshotName = 80
	maxDescription  = 64 << 10
)

// CreateSnapshot makes a snapshot below the current one.
func (g *Guests) CreateSnapshot(ctx context.Context, req *pb.CreateSnapshotRequest) (uint64, error) {
	vm, err := g.find(req.GetGuest())
	if err != nil {
		return 0, err
	}
	tree := g.tree(vm)
	switch _, taken := tree.Find(req.GetName()); {
	case req.GetName() == "" || len(req.GetName()) > maxSnapshotName:
		return 0, failed(verr.InvalidArg, "snapshot name of %d bytes: ESX takes 1 to %d", len(req.GetName()), maxSnapshotName)
	case len(req.GetDescription()) > maxDescription:
		return 0, failed(verr.InvalidArg, "description of %d bytes is longer than %d", len(req.GetDescription()), maxDescription)
	case taken:
		return 0, failed(verr.OperationInvalid, "Snapshot '%s' already exists", req.GetName())
	}
	memory := vm.State() == hv.State_STATE_RUNNING && !req.GetDiskOnly() && !req.GetQuiesce()
	what := "create snapshot '" + req.GetName() + "' of domain '" + vm.Name + "'"
	_, err = g.run(ctx, what, vm, func(ctx context.Context, client *vim25.Client) (types.ManagedObjectReference, error) {
		return began(object.NewVirtualMachine(client, vm.Ref).
			CreateSnapshot(ctx, req.GetName(), req.GetDescription(), memory, req.GetQuiesce()))
	})
	if err != nil {
		return 0, err
	}
	return g.shownTree(ctx, vm, func(t *inventory.Tree) bool {
		_, there := t.Find(req.GetName())
		return there
	}), nil
}

// tree is the tree of snapshots that is shown of a machine.
func (g *Guests) tree(vm inventory.VM) *inventory.Tree {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d := g.definitions[vm.Ref]; vm.SnapshotsStale > 0 && d.stale == vm.SnapshotsStale {
		return d.tree
	}
	return vm.Snapshots
}

// shownTree waits until the feed has a tree that something holds for, and reads the definition that goes with it.
func (g *Guests) shownTree(ctx context.Context, vm inventory.VM, holds func(*inventory.Tree) bool) uint64 {
	g.await(ctx, func(s *inventory.Snapshot) bool {
		now, ok := s.Ref(vm.Ref)
		return !ok || now.SnapshotsStale != vm.SnapshotsStale || holds(now.Snapshots)
	})
	if now, ok := g.mirror.Snapshot().Ref(vm.Ref); ok {
		if err := g.read(ctx, now); err != nil {
			g.log.Warn("the new definition cannot be read yet", "guest", vm.Name, "error", err)
		}
	}
	return g.feed.Seq()
}

// snapshot finds a snapshot of a guest.
func (g *Guests) snapshot(guest *hv.Guest, name string) (inventory.VM, inventory.Node, error) {
	vm, err := g.find(guest)
	if err != nil {
		return vm, inventory.Node{}, err
	}
	node, ok := g.tree(vm).Find(name)
	if !ok {
		return vm, node, failed(verr.NoDomainSnapshot, "Could not find snapshot with name '%s'", name)
	}
	return vm, node, nil
}

// RevertToSnapshot makes a guest what it was. It is off afterwards if the snapshot has no memory.
func (g *Guests) RevertToSnapshot(ctx context.Context, req *pb.RevertToSnapshotRequest) (uint64, error) {
	vm, node, err := g.snapshot(req.GetGuest(), req.GetName())
	if err != nil {
		return 0, err
	}
	what := "revert domain '" + vm.Name + "' to snapshot '" + req.GetName() + "'"
	_, err = g.run(ctx, what, vm, func(ctx context.Context, client *vim25.Client) (types.ManagedObjectReference, error) {
		res, err := methods.RevertToSnapshot_Task(ctx, client, &types.RevertToSnapshot_Task{This: node.Ref})
		if err != nil {
			return types.ManagedObjectReference{}, err
		}
		return res.Returnval, nil
	})
	if err != nil {
		return 0, err
	}
	seq := g.shownTree(ctx, vm, func(t *inventory.Tree) bool { return t != nil && t.Current == node.Name })
	return g.revive(ctx, req, seq)
}

// revive brings a guest that was reverted into the state that was asked for.
func (g *Guests) revive(ctx context.Context, req *pb.RevertToSnapshotRequest, seq uint64) (uint64, error) {
	vm, err := g.find(req.GetGuest())
	if err != nil {
		return seq, err
	}
	state := vm.State()
	if (req.GetRunning() || req.GetPaused()) && state == hv.State_STATE_SHUTOFF {
		if seq, err = g.Start(ctx, req.GetGuest()); err != nil {
			return seq, err
		}
		state = hv.State_STATE_RUNNING
	}
	switch {
	case req.GetRunning() && state == hv.State_STATE_PAUSED:
		return g.Resume(ctx, req.GetGuest())
	case req.GetPaused() && state == hv.State_STATE_RUNNING:
		return g.Suspend(ctx, req.GetGuest())
	}
	return seq, nil
}

// DeleteSnapshot removes a snapshot, with all below it if that is asked for; else its children become its parent's.
func (g *Guests) DeleteSnapshot(ctx context.Context, req *pb.DeleteSnapshotRequest) (uint64, error) {
	vm, node, err := g.snapshot(req.GetGuest(), req.GetName())
	if err != nil {
		return 0, err
	}
	what := "delete snapshot '" + req.GetName() + "' of domain '" + vm.Name + "'"
	_, err = g.run(ctx, what, vm, func(ctx context.Context, client *vim25.Client) (types.ManagedObjectReference, error) {
		res, err := methods.RemoveSnapshot_Task(ctx, client, &types.RemoveSnapshot_Task{This: node.Ref, RemoveChildren: req.GetChildren()})
		if err != nil {
			return types.ManagedObjectReference{}, err
		}
		return res.Returnval, nil
	})
	if err != nil {
		return 0, err
	}
	return g.shownTree(ctx, vm, func(t *inventory.Tree) bool {
		_, there := t.Find(req.GetName())
		return !there
	}), nil
}
