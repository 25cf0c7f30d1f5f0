package inventory

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/vim25/types"
)

// properties are what is asked of machines, and where it is kept.
var properties = map[string]func(vm *VM, value any) bool{
	"name":                     into(func(vm *VM) *string { return &vm.Name }),
	"config.uuid":              setUUID,
	"config.changeVersion":     into(func(vm *VM) *string { return &vm.ChangeVersion }),
	"config.hardware.memoryMB": into(func(vm *VM) *int32 { return &vm.MemoryMiB }),
	"config.hardware.numCPU":   into(func(vm *VM) *int32 { return &vm.VCPUs }),
	"config.template":          into(func(vm *VM) *bool { return &vm.Template }),
	"runtime.powerState":       into(func(vm *VM) *types.VirtualMachinePowerState { return &vm.Power }),
	"runtime.connectionState":  into(func(vm *VM) *types.VirtualMachineConnectionState { return &vm.Connection }),
	"runtime.host":             setHost,
	"config.cpuAllocation":     setCPU,
	"config.memoryAllocation":  setMemory,
	"runtime.question":         setQuestion,
	snapshotTree:               setSnapshots,
	bootTime:                   setBoot,
}

// snapshotTree is the property that has a machine's snapshots.
const snapshotTree = "snapshot"

const bootTime = "summary.runtime.bootTime"

// absent are what it means that a property has no value any more; of others it means that it can't be told now, and the last one stays.
var absent = map[string]func(vm *VM){
	bootTime:           func(vm *VM) { vm.Boot = 0 },
	"runtime.question": func(vm *VM) { vm.Question = nil },
	snapshotTree:       func(vm *VM) { vm.Snapshots = nil },
}

// into keeps a value of the field's type.
func into[T any](field func(vm *VM) *T) func(vm *VM, value any) bool {
	return func(vm *VM, value any) bool {
		v, ok := value.(T)
		if ok {
			*field(vm) = v
		}
		return ok
	}
}

func setUUID(vm *VM, value any) bool {
	text, ok := value.(string)
	if id, err := uuid.Parse(text); err == nil {
		vm.UUID = id.String()
	}
	return ok
}

func setHost(vm *VM, value any) bool {
	ref, ok := value.(types.ManagedObjectReference)
	vm.Host = ref.Value
	return ok
}

func setBoot(vm *VM, value any) bool {
	boot, ok := value.(time.Time)
	if ok {
		vm.Boot = boot.UnixNano()
	}
	return ok
}

func setCPU(vm *VM, value any) bool {
	a, ok := value.(types.ResourceAllocationInfo)
	vm.CPU = newAllocation(a)
	return ok
}

func setMemory(vm *VM, value any) bool {
	a, ok := value.(types.ResourceAllocationInfo)
	vm.Memory = newAllocation(a)
	return ok
}

func setQuestion(vm *VM, value any) bool {
	q, ok := value.(types.VirtualMachineQuestionInfo)
	vm.Question = &q
	return ok
}

func setSnapshots(vm *VM, value any) bool {
	info, ok := value.(types.VirtualMachineSnapshotInfo)
	vm.Snapshots = NewTree(&info)
	return ok
}

// reading is what was read of the inventory: the state that updates are applied to.
type reading struct {
	// only, if not nil, is the host whose machines are shown; those of others are elsewhere.
	only     *types.ManagedObjectReference
	host     Host
	machines map[types.ManagedObjectReference]VM
	// autostart holds the machines that a host's manager powers on.
	autostart map[types.ManagedObjectReference]map[types.ManagedObjectReference]bool
}

func newReading(only *types.ManagedObjectReference) *reading {
	return &reading{
		only:      only,
		machines:  map[types.ManagedObjectReference]VM{},
		autostart: map[types.ManagedObjectReference]map[types.ManagedObjectReference]bool{},
	}
}

// one takes in an update. A value of a type that the property does not have is an error.
func (r *reading) one(update types.ObjectUpdate) error {
	switch {
	case update.Obj.Type == managerType:
		return r.manager(update)
	case update.Obj.Type == hostType:
		return r.host.apply(update)
	case update.Kind == types.ObjectUpdateKindLeave:
		delete(r.machines, update.Obj)
		return nil
	}
	vm := r.machines[update.Obj]
	vm.Ref = update.Obj
	for _, change := range update.ChangeSet {
		if err := vm.set(change); err != nil {
			return err
		}
	}
	r.machines[update.Obj] = vm
	return nil
}

// set takes in one change of a property.
func (v *VM) set(change types.PropertyChange) error {
	if strings.HasPrefix(change.Name, snapshotTree+".") {
		v.SnapshotsStale++ // only a part of the tree was told, so the whole has to be read
		return nil
	}
	if change.Val == nil {
		if gone := absent[change.Name]; gone != nil {
			gone(v)
		}
		return nil
	}
	if set := properties[change.Name]; set != nil && !set(v, change.Val) {
		return fmt.Errorf("%s is a %T", change.Name, change.Val)
	}
	return nil
}

// manager takes in the configuration of a host's automatic starts. As for libvirt's own driver a machine is started if starting is
// enabled on its host and its own action is to be powered on.
func (r *reading) manager(update types.ObjectUpdate) error {
	for _, change := range update.ChangeSet {
		if change.Val == nil {
			continue
		}
		config, ok := change.Val.(types.HostAutoStartManagerConfig)
		if !ok {
			return fmt.Errorf("%s is a %T", change.Name, change.Val)
		}
		started := map[types.ManagedObjectReference]bool{}
		if config.Defaults != nil && config.Defaults.Enabled != nil && *config.Defaults.Enabled {
			for _, info := range config.PowerInfo {
				started[info.Key] = info.StartAction == string(types.AutoStartActionPowerOn)
			}
		}
		r.autostart[update.Obj] = started
	}
	return nil
}

// snapshot makes what was read public.
func (r *reading) snapshot() *Snapshot {
	machines := maps.Clone(r.machines)
	elsewhere := map[types.ManagedObjectReference]bool{}
	for ref, vm := range machines {
		if r.only != nil && vm.Host != r.only.Value {
			elsewhere[ref] = true
			delete(machines, ref)
			continue
		}
		for _, started := range r.autostart {
			vm.Autostart = vm.Autostart || started[ref]
		}
		machines[ref] = vm
	}
	s := newSnapshot(machines)
	s.Host, s.elsewhere = r.host, elsewhere
	return s
}
