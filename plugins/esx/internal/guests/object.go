package guests

import (
	"fmt"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/inventory"
	"github.com/lodgevirt/lodge/plugins/esx/internal/vmx"
	hv "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
)

// object is what is told of a machine.
func (g *Guests) object(vm inventory.VM) *pb.GuestObject {
	g.mu.Lock()
	known := g.definitions[vm.Ref]
	g.mu.Unlock()
	size := uint64(max(0, vm.MemoryMiB)) << 10
	o := &pb.GuestObject{
		Uuid: vm.UUID, Name: vmx.UnescapeName(vm.Name), Id: vm.DomainID(), State: vm.State(), Autostart: vm.Autostart, OsType: "hvm",
		MaxMemoryKib: size, MemoryKib: size, MaxVcpus: uint32(max(0, vm.VCPUs)), Vcpus: uint32(max(0, vm.VCPUs)), Xml: known.xml,
		Scheduler: schedulerName, SchedulerParameters: scheduler(vm.CPU),
	}
	if limit := vm.Memory.Limit; limit >= 0 && uint64(limit)<<10 < size {
		o.MemoryKib = uint64(limit) << 10
	}
	tree := vm.Snapshots
	if vm.SnapshotsStale > 0 && known.stale == vm.SnapshotsStale {
		tree = known.tree
	}
	if tree == nil {
		return o
	}
	o.CurrentSnapshot = tree.Current
	for _, n := range tree.Nodes {
		o.Snapshots = append(o.Snapshots, &pb.SnapshotObject{
			Name: n.Name, Parent: n.Parent, Description: n.Description, Created: timestamppb.New(n.Created), State: n.State,
		})
	}
	return o
}

// schedulerName is libvirt's name of ESX's scheduler, and the parameters are libvirt's names of its parameters.
const (
	schedulerName = "allocation"
	reservation   = "reservation"
	limit         = "limit"
	shares        = "shares"
)

// levels are libvirt's numbers for levels of shares; other shares are numbers from 0 on.
var levels = map[types.SharesLevel]int32{types.SharesLevelLow: -1, types.SharesLevelNormal: -2, types.SharesLevelHigh: -3}

// scheduler are the parameters of a machine.
func scheduler(a inventory.Allocation) []*hv.Stat {
	number, ok := levels[a.Level]
	if !ok {
		number = a.Shares
	}
	return []*hv.Stat{
		{Name: reservation, Value: &hv.Stat_Llong{Llong: a.Reservation}},
		{Name: limit, Value: &hv.Stat_Llong{Llong: a.Limit}},
		{Name: shares, Value: &hv.Stat_Int{Int: number}},
	}
}

// number is a version as libvirt counts it: major * 1000000 + minor * 1000 + release.
func number(version string) uint64 {
	var major, minor, release uint64
	if n, err := fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &release); n < 2 && err != nil {
		return 0
	}
	return major*1000000 + minor*1000 + release
}
