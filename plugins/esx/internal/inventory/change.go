package inventory

import (
	"github.com/vmware/govmomi/vim25/types"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// Kind is a kind of change.
type Kind string

// Kinds of changes.
const (
	// Added has New.
	Added Kind = "added"
	// Changed has Old and New.
	Changed Kind = "changed"
	// Removed has Old.
	Removed Kind = "removed"
	// HostChanged tells that the snapshot's Host is another than before.
	HostChanged Kind = "host changed"
	// Stale tells that the endpoint was lost, or could not be reached yet; the snapshot says since when and why.
	Stale Kind = "stale"
	// Resynchronised tells that everything was read anew and is followed. The first one is told without the machines, which the
	// snapshot has; the later ones after what has changed meanwhile.
	Resynchronised Kind = "resynchronised"
)

// Change is one thing that happened.
type Change struct {
	Kind Kind
	// Old and New are the machine before and after.
	Old, New VM
	// Events are what libvirt's clients are told of it, in order.
	Events []Event
	// Snapshot is the inventory after the change, and after those that were found together with it.
	Snapshot *Snapshot
}

// Event is a lifecycle event under the name that the machine had or got.
type Event struct {
	Name      string
	Lifecycle *pb.LifecycleEvent
}

// lifecycle is virDomainEventType and its detail, by the numbers of libvirt's public header <libvirt/libvirt-domain.h>.
type lifecycle struct{ event, detail int32 }

var (
	definedAdded     = lifecycle{0, 0}
	definedUpdated   = lifecycle{0, 1}
	definedRenamed   = lifecycle{0, 2}
	undefinedRemoved = lifecycle{1, 0}
	undefinedRenamed = lifecycle{1, 1}
	startedBooted    = lifecycle{2, 0}
	suspendedPaused  = lifecycle{3, 0}
	resumedUnpaused  = lifecycle{4, 0}
	stoppedShutdown  = lifecycle{5, 0}
	startedMigrated  = lifecycle{2, 1}
	stoppedMigrated  = lifecycle{5, 3}
)

// transition is a change of the power state.
type transition struct {
	from, to types.VirtualMachinePowerState
}

const (
	off       = types.VirtualMachinePowerStatePoweredOff
	on        = types.VirtualMachinePowerStatePoweredOn
	suspended = types.VirtualMachinePowerStateSuspended
)

// transitions are what clients are told of changes of the power state. The endpoint does not say whether a guest shut itself down, so
// a stop is told as a shutdown.
var transitions = map[transition][]lifecycle{
	{off, on}:        {startedBooted},
	{off, suspended}: {startedBooted, suspendedPaused},
	{on, off}:        {stoppedShutdown},
	{on, suspended}:  {suspendedPaused},
	{suspended, on}:  {resumedUnpaused},
	{suspended, off}: {stoppedShutdown},
}

func events(name string, all ...lifecycle) []Event {
	told := make([]Event, 0, len(all))
	for _, l := range all {
		told = append(told, Event{Name: name, Lifecycle: &pb.LifecycleEvent{Event: l.event, Detail: l.detail}})
	}
	return told
}

// added is the change that brings a machine.
func added(vm VM) Change {
	all := append([]lifecycle{definedAdded}, transitions[transition{off, vm.Power}]...)
	return Change{Kind: Added, New: vm, Events: events(vm.Name, all...)}
}

// arrived is the change that brings a machine from another host.
func arrived(vm VM) Change {
	all := []lifecycle{definedAdded}
	if vm.Active() {
		all = append(all, startedMigrated)
	}
	return Change{Kind: Added, New: vm, Events: events(vm.Name, all...)}
}

// removed is the change that takes a machine away, to another host if it was moved.
func removed(vm VM, moved bool) Change {
	var all []lifecycle
	switch {
	case vm.Active() && moved:
		all = append(all, stoppedMigrated)
	case vm.Active():
		all = append(all, stoppedShutdown)
	}
	return Change{Kind: Removed, Old: vm, Events: events(vm.Name, append(all, undefinedRemoved)...)}
}

// changed is the change of a machine that stays: a new name, then a new configuration, then power.
func changed(old, vm VM) Change {
	c := Change{Kind: Changed, Old: old, New: vm}
	switch {
	case old.Name != vm.Name:
		c.Events = append(events(old.Name, undefinedRenamed), events(vm.Name, definedRenamed)...)
	case old.ChangeVersion != vm.ChangeVersion, old.MemoryMiB != vm.MemoryMiB, old.VCPUs != vm.VCPUs:
		c.Events = events(vm.Name, definedUpdated)
	}
	power := transitions[transition{old.Power, vm.Power}]
	if old.Boot != vm.Boot && old.Boot != 0 && vm.Boot != 0 {
		power = append([]lifecycle{stoppedShutdown}, transitions[transition{off, vm.Power}]...)
	}
	c.Events = append(c.Events, events(vm.Name, power...)...)
	return c
}

// diff lists what leads from one snapshot to another: first what went, then what changed, then what came.
func diff(from, to *Snapshot) []Change {
	var gone, stayed, came []Change
	for _, old := range from.sorted {
		vm, still := to.byRef[old.Ref]
		switch {
		case !still || vm.UUID != old.UUID:
			gone = append(gone, removed(old, to.elsewhere[old.Ref]))
		case vm != old:
			stayed = append(stayed, changed(old, vm))
		}
	}
	for _, vm := range to.sorted {
		switch old, before := from.byRef[vm.Ref]; {
		case from.elsewhere[vm.Ref]:
			came = append(came, arrived(vm))
		case !before || old.UUID != vm.UUID:
			came = append(came, added(vm))
		}
	}
	all := append(append(gone, stayed...), came...)
	for i := range all {
		all[i].Snapshot = to
	}
	return all
}
