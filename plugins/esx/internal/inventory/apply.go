package inventory

import (
	"fmt"
	"maps"
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
	bootTime:                   setBoot,
}

// bootTime is the one property whose absence says something.
const bootTime = "summary.runtime.bootTime"

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

// reading is what was read of the inventory: the state that updates are applied to.
type reading struct {
	machines map[types.ManagedObjectReference]VM
	// autostart holds the machines that a host's manager powers on.
	autostart map[types.ManagedObjectReference]map[types.ManagedObjectReference]bool
}

func newReading() *reading {
	return &reading{
		machines:  map[types.ManagedObjectReference]VM{},
		autostart: map[types.ManagedObjectReference]map[types.ManagedObjectReference]bool{},
	}
}

// one takes in an update. A value of a type that the property does not have is an error.
func (r *reading) one(update types.ObjectUpdate) error {
	switch {
	case update.Obj.Type == managerType:
		return r.manager(update)
	case update.Kind == types.ObjectUpdateKindLeave:
		delete(r.machines, update.Obj)
		return nil
	}
	vm := r.machines[update.Obj]
	vm.Ref = update.Obj
	for _, change := range update.ChangeSet {
		if change.Name == bootTime && change.Val == nil {
			vm.Boot = 0
		}
		set := properties[change.Name]
		if set == nil || change.Val == nil {
			continue // what is not told now stays as it was told last
		}
		if !set(&vm, change.Val) {
			return fmt.Errorf("%s is a %T", change.Name, change.Val)
		}
	}
	r.machines[update.Obj] = vm
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
	for ref, vm := range machines {
		for _, started := range r.autostart {
			vm.Autostart = vm.Autostart || started[ref]
		}
		machines[ref] = vm
	}
	return newSnapshot(machines)
}
