package guests

import (
	"context"
	"math"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/inventory"
	hv "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// reconfigure changes a machine and waits until the feed has the new configuration, with its definition.
func (g *Guests) reconfigure(ctx context.Context, what string, vm inventory.VM, spec types.VirtualMachineConfigSpec) (uint64, error) {
	_, err := g.run(ctx, what, vm, func(ctx context.Context, client *vim25.Client) (types.ManagedObjectReference, error) {
		return began(object.NewVirtualMachine(client, vm.Ref).Reconfigure(ctx, spec))
	})
	if err != nil {
		return 0, err
	}
	return g.settled(ctx, vm), nil
}

// settled waits until the feed has a machine's configuration as it is at the host now.
func (g *Guests) settled(ctx context.Context, vm inventory.VM) uint64 {
	config, err := g.config(ctx, vm)
	if err != nil {
		g.log.Warn("the new configuration cannot be read yet", "guest", vm.Name, "error", err)
		return g.feed.Seq()
	}
	seen := vm
	g.await(ctx, func(s *inventory.Snapshot) bool {
		now, ok := s.Ref(vm.Ref)
		seen = now
		return !ok || now.ChangeVersion == config.ChangeVersion || now.ChangeVersion != vm.ChangeVersion
	})
	if seen.UUID == "" {
		return g.feed.Seq()
	}
	if err := g.read(ctx, seen); err != nil {
		g.log.Warn("the new definition cannot be read yet", "guest", vm.Name, "error", err)
	}
	return g.feed.Seq()
}

// SetVCPUs changes the number of vCPUs.
func (g *Guests) SetVCPUs(ctx context.Context, guest *hv.Guest, n uint32) (uint64, error) {
	vm, err := g.find(guest)
	if err != nil {
		return 0, err
	}
	most := uint32(max(0, g.mirror.Snapshot().Host.MaxVCPUs))
	switch {
	case n < 1:
		return 0, failed(verr.InvalidArg, "Requested number of virtual CPUs must at least be 1")
	case most > 0 && n > most:
		return 0, failed(verr.InvalidArg, "Requested number of virtual CPUs is greater than max allowable number of virtual CPUs for the "+
			"domain: %d > %d", n, most)
	case n > math.MaxInt16:
		return 0, failed(verr.InvalidArg, "%d vCPUs are too many", n)
	}
	return g.reconfigure(ctx, "set vCPUs of domain '"+guest.GetName()+"'", vm, types.VirtualMachineConfigSpec{NumCPUs: int32(n)})
}

// SetMemory changes the size of the memory, which a guest must be off for, or limits how much of it the host gives.
func (g *Guests) SetMemory(ctx context.Context, guest *hv.Guest, kib uint64, maximum bool) (uint64, error) {
	vm, err := g.find(guest)
	if err != nil {
		return 0, err
	}
	if kib == 0 || kib > math.MaxInt32<<10 {
		return 0, failed(verr.InvalidArg, "%d KiB is no size of a memory", kib)
	}
	spec := types.VirtualMachineConfigSpec{}
	if maximum {
		if err := inState(vm, []hv.State{hv.State_STATE_SHUTOFF}, "Domain is not powered off"); err != nil {
			return 0, err
		}
		spec.MemoryMB = int64((kib + 4095) / 4096 * 4) // ESX wants a multiple of 4 MiB
	} else {
		limit := int64((kib + 1023) / 1024)
		spec.MemoryAllocation = &types.ResourceAllocationInfo{Limit: &limit}
	}
	return g.reconfigure(ctx, "set memory of domain '"+guest.GetName()+"'", vm, spec)
}

// SetScheduler changes parameters of the scheduler.
func (g *Guests) SetScheduler(ctx context.Context, guest *hv.Guest, parameters []*hv.Stat) (uint64, error) {
	vm, err := g.find(guest)
	if err != nil {
		return 0, err
	}
	a := &types.ResourceAllocationInfo{}
	for _, p := range parameters {
		if err := setParameter(a, p); err != nil {
			return 0, err
		}
	}
	if len(parameters) == 0 {
		return g.feed.Seq(), nil
	}
	return g.reconfigure(ctx, "set scheduler of domain '"+guest.GetName()+"'", vm, types.VirtualMachineConfigSpec{CpuAllocation: a})
}

// setParameter takes over one parameter of the scheduler.
func setParameter(a *types.ResourceAllocationInfo, p *hv.Stat) error {
	value := p.GetLlong()
	switch v := p.GetValue().(type) {
	case *hv.Stat_Int:
		value = int64(v.Int)
	case *hv.Stat_Llong:
	default:
		return failed(verr.InvalidArg, "parameter '%s' has a value of a type that it cannot have", p.GetName())
	}
	switch p.GetName() {
	case reservation:
		if value < 0 {
			return failed(verr.InvalidArg, "Could not set reservation to %d MHz, expecting positive value", value)
		}
		a.Reservation = &value
	case limit:
		if value < -1 {
			return failed(verr.InvalidArg, "Could not set limit to %d MHz, expecting positive value or -1 (unlimited)", value)
		}
		a.Limit = &value
	case shares:
		return setShares(a, value)
	default:
		return failed(verr.InvalidArg, "parameter '%s' is not known, expecting 'reservation', 'limit' or 'shares'", p.GetName())
	}
	return nil
}

func setShares(a *types.ResourceAllocationInfo, value int64) error {
	for level, n := range levels {
		if int64(n) == value {
			a.Shares = &types.SharesInfo{Level: level}
			return nil
		}
	}
	if value < 0 || value > math.MaxInt32 {
		return failed(verr.InvalidArg, "Could not set shares to %d, expecting positive value or -1 (low), -2 (normal) or -3 (high)", value)
	}
	a.Shares = &types.SharesInfo{Level: types.SharesLevelCustom, Shares: int32(value)}
	return nil
}
