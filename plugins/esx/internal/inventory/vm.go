package inventory

import (
	"strconv"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// VM is what the mirror knows of a virtual machine. VMs are compared with ==.
type VM struct {
	// Ref is how the endpoint names it; it is used again only by an endpoint that was set up anew.
	Ref types.ManagedObjectReference
	// UUID is config.uuid in lower case.
	UUID string
	// Name is as it is shown, with "%2f" and the like for what a name can't hold.
	Name string
	// Power is runtime.powerState.
	Power types.VirtualMachinePowerState
	// Connection is runtime.connectionState: other than "connected" means that the machine can't be managed now.
	Connection types.VirtualMachineConnectionState
	// ChangeVersion is config.changeVersion: it changes whenever the configuration does.
	ChangeVersion string
	// MemoryMiB and VCPUs are of config.hardware.
	MemoryMiB int32
	VCPUs     int32
	// Template says that the machine can only be cloned.
	Template bool
	// Host is the reference's value of the host that it is on.
	Host string
	// Boot is when it was powered on, in Unix nanoseconds, 0 while it is off or if it is not known.
	Boot int64
	// Autostart says that its host powers it on.
	Autostart bool
	// CPU and Memory are what it is guaranteed and allowed of its host's, in MHz and MiB.
	CPU, Memory Allocation
	// Question is what the machine waits for an answer to, or nil.
	Question *types.VirtualMachineQuestionInfo
	// Snapshots are its snapshots, nil if it has none or they are not known. The tree never changes.
	Snapshots *Tree
	// SnapshotsStale counts the changes of the snapshots that the endpoint told in part only, since the tree was told.
	SnapshotsStale int
}

// Allocation is a machine's share of a resource of its host's.
type Allocation struct {
	// Reservation is guaranteed. Limit is the most that it gets, -1 for no limit.
	Reservation, Limit int64
	// Shares and Level weigh it against others.
	Shares int32
	Level  types.SharesLevel
}

// newAllocation reads an allocation.
func newAllocation(from types.ResourceAllocationInfo) Allocation {
	a := Allocation{Limit: -1}
	if from.Reservation != nil {
		a.Reservation = *from.Reservation
	}
	if from.Limit != nil {
		a.Limit = *from.Limit
	}
	if from.Shares != nil {
		a.Shares, a.Level = from.Shares.Shares, from.Shares.Level
	}
	return a
}

// Active says whether libvirt calls the machine active: it runs or is suspended.
func (v VM) Active() bool {
	return v.Power == types.VirtualMachinePowerStatePoweredOn || v.Power == types.VirtualMachinePowerStateSuspended
}

// DomainID is the ID of an active machine, else -1. As in libvirt's own driver it is the number in the reference, "12" on an ESX
// host and "vm-12" on a vCenter server; a reference without a number gives -1.
func (v VM) DomainID() int32 {
	if !v.Active() {
		return -1
	}
	id, err := strconv.ParseInt(strings.TrimPrefix(v.Ref.Value, "vm-"), 10, 32)
	if err != nil || id <= 0 {
		return -1
	}
	return int32(id)
}

// states are libvirt's states of domains by power state.
var states = map[types.VirtualMachinePowerState]pb.State{
	types.VirtualMachinePowerStatePoweredOn:  pb.State_STATE_RUNNING,
	types.VirtualMachinePowerStatePoweredOff: pb.State_STATE_SHUTOFF,
	types.VirtualMachinePowerStateSuspended:  pb.State_STATE_PAUSED,
}

// State is libvirt's state of the domain.
func (v VM) State() pb.State { return states[v.Power] }
