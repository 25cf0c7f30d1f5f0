package guests

import (
	"context"
	"net/url"
	"strings"

	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	"github.com/lodgevirt/lodge/plugins/esx/internal/inventory"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Flags of virDomainMigrateFlags that make sense here.
const (
	migrateLive          = 1 << 0
	migratePersistDest   = 1 << 3
	migrateUndefineSrc   = 1 << 4
	knownMigrateFlags    = migrateLive | migratePersistDest | migrateUndefineSrc
	migrateScheme        = "vpxmigr"
	migrateURIForm       = "vpxmigr://VCENTER/RESOURCE-POOL/HOST"
	errNoVCenterTemplate = "Migration not possible without a vCenter: open vpx://VCENTER/DATACENTER/HOST on both sides"
)

// PrepareMigration tells where this connection's host is, in the form of libvirt's own driver.
func (g *Guests) PrepareMigration(ctx context.Context, req *pb.PrepareMigrationRequest) (string, error) {
	if err := g.movable(req.GetFlags(), req.GetName()); err != nil {
		return "", err
	}
	if req.GetUri() != "" {
		_, _, err := g.destination(req.GetUri())
		return req.GetUri(), err
	}
	p, err := g.placed(ctx)
	if err != nil {
		return "", err
	}
	return (&url.URL{Scheme: migrateScheme, Host: g.options.Server, Path: "/" + p.pool.Value + "/" + p.host.Value}).String(), nil
}

// movable refuses what a migration here cannot do.
func (g *Guests) movable(flags uint64, name string) error {
	switch {
	case g.options.Product != endpoint.VPX:
		return failed(verr.OperationUnsupported, errNoVCenterTemplate)
	case flags&^knownMigrateFlags != 0:
		return failed(verr.InvalidArg, "unsupported flags (0x%x)", flags&^knownMigrateFlags)
	case name != "":
		return failed(verr.ArgumentUnsupported, "Renaming domains on migration not supported")
	}
	return nil
}

// destination reads where to.
func (g *Guests) destination(text string) (pool, host types.ManagedObjectReference, err error) {
	u, err := url.Parse(text)
	if err != nil {
		return pool, host, failed(verr.InvalidArg, "cannot parse migration URI: %w", err)
	}
	poolID, hostID, ok := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	switch {
	case u.Scheme != migrateScheme:
		return pool, host, failed(verr.InvalidArg, "Only vpxmigr:// migration URIs are supported: %s", migrateURIForm)
	case !strings.EqualFold(u.Host, g.options.Server):
		return pool, host, failed(verr.InvalidArg, "Migration source and destination have to refer to the same vCenter")
	case !ok || poolID == "" || hostID == "" || strings.Contains(hostID, "/"):
		return pool, host, failed(verr.InvalidArg, "Migration URI has to specify resource pool and host system: %s", migrateURIForm)
	}
	return types.ManagedObjectReference{Type: "ResourcePool", Value: poolID}, types.ManagedObjectReference{Type: hostType, Value: hostID}, nil
}

// PerformMigration has the vCenter server move a guest to another of its hosts, and waits until it is gone from here.
func (g *Guests) PerformMigration(ctx context.Context, req *pb.PerformMigrationRequest) (uint64, error) {
	if err := g.movable(req.GetFlags(), req.GetName()); err != nil {
		return 0, err
	}
	pool, host, err := g.destination(req.GetUri())
	if err != nil {
		return 0, err
	}
	vm, err := g.find(req.GetGuest())
	if err != nil {
		return 0, err
	}
	if vm.Host == host.Value {
		return 0, failed(verr.OperationInvalid, "domain '%s' is on host %s already", vm.Name, host.Value)
	}
	what := "migrate domain '" + req.GetGuest().GetName() + "'"
	_, err = g.run(ctx, what, vm, func(ctx context.Context, client *vim25.Client) (types.ManagedObjectReference, error) {
		res, err := methods.MigrateVM_Task(ctx, client, &types.MigrateVM_Task{
			This: vm.Ref, Pool: &pool, Host: &host, Priority: types.VirtualMachineMovePriorityDefaultPriority,
		})
		if err != nil {
			return types.ManagedObjectReference{}, err
		}
		return res.Returnval, nil
	})
	if err != nil {
		return 0, err
	}
	return g.await(ctx, func(s *inventory.Snapshot) bool {
		now, still := s.Ref(vm.Ref)
		return !still || now.Host == host.Value
	}), nil
}

// FinishMigration waits until a guest that was sent here is seen.
func (g *Guests) FinishMigration(ctx context.Context, req *pb.FinishMigrationRequest) (id string, seq uint64, err error) {
	ctx, cancel := budget(ctx)
	defer cancel()
	name := vmxName(req.GetName())
	seq = g.await(ctx, func(s *inventory.Snapshot) bool {
		_, ok := s.Name(name)
		return ok
	})
	vm, ok := g.mirror.Snapshot().Name(name)
	if !ok {
		return "", 0, failed(verr.NoDomain, "domain '%s' has not arrived", req.GetName())
	}
	return vm.UUID, seq, nil
}
