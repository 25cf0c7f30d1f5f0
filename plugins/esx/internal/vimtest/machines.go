package vimtest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// do runs steps of the test's own under a deadline and ends the test when one fails.
func (s *Server) do(what string, steps func(ctx context.Context) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	if err := steps(ctx); err != nil {
		s.t.Fatalf("%s: %v", what, err)
	}
}

// task is a long call: started, then waited for.
type task func(ctx context.Context) (*object.Task, error)

func (s *Server) wait(what string, start task) {
	s.t.Helper()
	s.do(what, func(ctx context.Context) error {
		running, err := start(ctx)
		if err != nil {
			return err
		}
		return running.Wait(ctx)
	})
}

// Machines lists the names of all virtual machines, sorted.
func (s *Server) Machines() []string {
	s.t.Helper()
	var names []string
	s.do("list machines", func(ctx context.Context) error {
		all, err := find.NewFinder(s.admin.Client).VirtualMachineList(ctx, "/...")
		for _, vm := range all {
			names = append(names, vm.InventoryPath[strings.LastIndex(vm.InventoryPath, "/")+1:])
		}
		return err
	})
	slices.Sort(names)
	return names
}

// vm finds a virtual machine by its name.
func (s *Server) vm(name string) *object.VirtualMachine {
	s.t.Helper()
	var found *object.VirtualMachine
	s.do(fmt.Sprintf("find machine %q", name), func(ctx context.Context) error {
		all, err := find.NewFinder(s.admin.Client).VirtualMachineList(ctx, "/...")
		for _, vm := range all {
			var props mo.VirtualMachine
			if err := vm.Properties(ctx, vm.Reference(), []string{"name"}, &props); err != nil {
				return err
			}
			if props.Name == name {
				found = vm
				return nil
			}
		}
		if err != nil {
			return err
		}
		return fmt.Errorf("no such machine among %d", len(all))
	})
	return found
}

// UUID is the BIOS UUID of a virtual machine.
func (s *Server) UUID(name string) string { return s.vm(name).UUID(context.Background()) }

// Ref is the managed object reference's value of a virtual machine.
func (s *Server) Ref(name string) string { return s.vm(name).Reference().Value }

// Create makes a virtual machine that is off.
func (s *Server) Create(name string) {
	s.t.Helper()
	s.wait("create "+name, func(ctx context.Context) (*object.Task, error) {
		finder := find.NewFinder(s.admin.Client)
		dc, err := finder.DefaultDatacenter(ctx)
		if err != nil {
			return nil, err
		}
		folders, err := dc.Folders(ctx)
		if err != nil {
			return nil, err
		}
		pools, err := finder.SetDatacenter(dc).ResourcePoolList(ctx, "*/Resources")
		if err != nil {
			return nil, err
		}
		return folders.VmFolder.CreateVM(ctx, types.VirtualMachineConfigSpec{
			Name: name, GuestId: string(types.VirtualMachineGuestOsIdentifierOtherGuest), NumCPUs: 1, MemoryMB: 64,
			Files: &types.VirtualMachineFileInfo{VmPathName: "[LocalDS_0]"},
		}, pools[0], nil)
	})
}

// Destroy deletes a virtual machine that is off.
func (s *Server) Destroy(name string) { s.wait("destroy "+name, s.vm(name).Destroy) }

// PowerOn starts a virtual machine, or lets a suspended one go on.
func (s *Server) PowerOn(name string) { s.wait("power on "+name, s.vm(name).PowerOn) }

// PowerOff switches a virtual machine off.
func (s *Server) PowerOff(name string) { s.wait("power off "+name, s.vm(name).PowerOff) }

// Suspend suspends a virtual machine.
func (s *Server) Suspend(name string) { s.wait("suspend "+name, s.vm(name).Suspend) }

// Rename gives a virtual machine another name.
func (s *Server) Rename(name, to string) {
	s.t.Helper()
	s.reconfigure(name, map[string]any{"name": to, "config.name": to, "summary.config.name": to})
}

// Resize changes memory and vCPUs of a virtual machine.
func (s *Server) Resize(name string, mib, vcpus int32) {
	s.t.Helper()
	s.reconfigure(name, map[string]any{
		"config.hardware.memoryMB": mib, "summary.config.memorySizeMB": mib,
		"config.hardware.numCPU": vcpus, "summary.config.numCpu": vcpus,
	})
}

// reconfigure changes properties together with the version of the configuration in one update, as hosts do. The simulator's own
// ReconfigVM_Task changes them in silence, and tells only of the version.
func (s *Server) reconfigure(name string, values map[string]any) {
	s.t.Helper()
	vm := s.vm(name).Reference()
	changes := []types.PropertyChange{{
		Name: "config.changeVersion", Op: types.PropertyChangeOpAssign, Val: strconv.FormatInt(time.Now().UnixNano(), 10),
	}}
	for property, value := range values {
		changes = append(changes, types.PropertyChange{Name: property, Op: types.PropertyChangeOpAssign, Val: value})
	}
	ctx := s.context()
	ctx.WithLock(vm, func() { ctx.Update(s.model.Map().Get(vm), changes) })
}

// context is one for changes beside all sessions.
func (s *Server) context() *simulator.Context { return s.model.Service.Context }

// Tools says whether VMware Tools run in a virtual machine.
func (s *Server) Tools(name string, run bool) {
	s.t.Helper()
	status := types.VirtualMachineToolsRunningStatusGuestToolsNotRunning
	if run {
		status = types.VirtualMachineToolsRunningStatusGuestToolsRunning
	}
	s.reconfigure(name, map[string]any{"guest.toolsRunningStatus": string(status)})
}

// Config reads a machine's configuration.
func (s *Server) Config(name string) *types.VirtualMachineConfigInfo {
	s.t.Helper()
	var props mo.VirtualMachine
	s.do("read configuration of "+name, func(ctx context.Context) error {
		vm := s.vm(name)
		return vm.Properties(ctx, vm.Reference(), []string{"config"}, &props)
	})
	return props.Config
}

// MakeDisk makes an image of a disk, with the folder that it is in.
func (s *Server) MakeDisk(file string) {
	s.t.Helper()
	s.wait("make "+file, func(ctx context.Context) (*object.Task, error) {
		dc, err := find.NewFinder(s.admin.Client).DefaultDatacenter(ctx)
		if err != nil {
			return nil, err
		}
		if folder := file[:max(0, strings.LastIndex(file, "/"))]; folder != "" {
			err := object.NewFileManager(s.admin.Client).MakeDirectory(ctx, folder, dc, true)
			if err != nil && !fault.Is(err, &types.FileAlreadyExists{}) {
				return nil, err
			}
		}
		return object.NewVirtualDiskManager(s.admin.Client).CreateVirtualDisk(ctx, file, dc, &types.FileBackedVirtualDiskSpec{
			VirtualDiskSpec: types.VirtualDiskSpec{
				AdapterType: string(types.VirtualDiskAdapterTypeLsiLogic), DiskType: string(types.VirtualDiskTypeThin),
			},
			CapacityKb: 1024,
		})
	})
}

// Summary tells of each machine, a line each and sorted: name, BIOS UUID, whether it is active, vCPUs, memory, and how many snapshots it has.
func (s *Server) Summary() string {
	s.t.Helper()
	var lines []string
	s.do("summarize", func(ctx context.Context) error {
		all, err := find.NewFinder(s.admin.Client).VirtualMachineList(ctx, "/...")
		if err != nil {
			return err
		}
		refs := make([]types.ManagedObjectReference, len(all))
		for i, vm := range all {
			refs[i] = vm.Reference()
		}
		var vms []mo.VirtualMachine
		paths := []string{"name", "config.uuid", "runtime.powerState", "config.hardware.numCPU", "config.hardware.memoryMB", "snapshot"}
		if err := s.admin.PropertyCollector().Retrieve(ctx, refs, paths, &vms); err != nil {
			return err
		}
		for _, vm := range vms {
			snapshots := 0
			if vm.Snapshot != nil {
				snapshots = count(vm.Snapshot.RootSnapshotList)
			}
			lines = append(lines, fmt.Sprintf("%s %s %v %d vCPUs %d KiB %d snapshots", vm.Name, vm.Config.Uuid,
				vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff, vm.Config.Hardware.NumCPU,
				int(vm.Config.Hardware.MemoryMB)<<10, snapshots))
		}
		return nil
	})
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// count counts the snapshots of a tree.
func count(nodes []types.VirtualMachineSnapshotTree) int {
	n := len(nodes)
	for _, node := range nodes {
		n += count(node.ChildSnapshotList)
	}
	return n
}
