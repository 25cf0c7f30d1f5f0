package guests

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/esx/internal/hardware"
	"github.com/lodgevirt/lodge/plugins/esx/internal/inventory"
	"github.com/lodgevirt/lodge/plugins/esx/internal/vmx"
	hv "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Define makes a machine of a definition, or changes the one with its UUID. Images of disks must exist: they are attached, and stay when
// something fails.
func (g *Guests) Define(ctx context.Context, doc string) (id string, seq uint64, err error) {
	d, err := hardware.Parse(doc)
	if err != nil {
		return "", 0, err
	}
	p, err := g.placed(ctx)
	if err != nil {
		return "", 0, err
	}
	s := g.mirror.Snapshot()
	if most := uint(max(0, s.Host.MaxVCPUs)); most > 0 && d.VCPU.Value > most {
		return "", 0, failed(verr.ConfigUnsupported, "element <vcpu>: %d vCPUs are more than the %d that the host allows", d.VCPU.Value, most)
	}
	if err := g.networks(ctx, p, d); err != nil {
		return "", 0, err
	}
	if vm, exists := s.UUID(d.UUID); exists {
		seq, err = g.edit(ctx, vm, d)
		return d.UUID, seq, err
	}
	if other, taken := s.Name(vmx.EscapeName(d.Name)); taken {
		return "", 0, failed(verr.OperationFailed, "domain '%s' already exists with uuid %s", d.Name, other.UUID)
	}
	seq, err = g.create(ctx, p, d)
	return d.UUID, seq, err
}

// edit changes a machine into what a definition says.
func (g *Guests) edit(ctx context.Context, vm inventory.VM, d *libvirtxml.Domain) (uint64, error) {
	if name := vmx.UnescapeName(vm.Name); name != d.Name {
		return 0, failed(verr.OperationFailed, "domain '%s' is already defined with uuid %s", name, vm.UUID)
	}
	config, err := g.config(ctx, vm)
	if err != nil {
		return 0, err
	}
	spec, err := hardware.Change(config, d)
	if err != nil {
		return 0, err
	}
	if spec == nil {
		return g.feed.Seq(), nil
	}
	return g.reconfigure(ctx, "define domain '"+d.Name+"'", vm, *spec)
}

// create makes a machine.
func (g *Guests) create(ctx context.Context, p *place, d *libvirtxml.Domain) (uint64, error) {
	spec, err := hardware.Create(d)
	if err != nil {
		return 0, err
	}
	file, err := g.home(ctx, p, d)
	if err != nil {
		return 0, err
	}
	if err := g.images(ctx, p, d); err != nil {
		return 0, err
	}
	if err := g.make(ctx, p, d.Name, spec, file); err != nil {
		return 0, g.undo(ctx, d.UUID, err)
	}
	g.await(ctx, func(s *inventory.Snapshot) bool {
		_, ok := s.UUID(d.UUID)
		return ok
	})
	vm, ok := g.mirror.Snapshot().UUID(d.UUID)
	if !ok {
		return g.feed.Seq(), nil
	}
	if err := g.finish(ctx, vm, d); err != nil {
		return 0, g.undo(ctx, d.UUID, err)
	}
	return g.settled(ctx, vm), nil
}

// namesTried is how many names of files are tried for a new machine where others have left theirs.
const namesTried = 16

// make has the host make a machine. A file that a machine which is gone has left is not touched: the new one gets another name.
func (g *Guests) make(ctx context.Context, p *place, name string, spec *types.VirtualMachineConfigSpec, file string) (err error) {
	base, isFile := strings.CutSuffix(file, ".vmx")
	for n := range namesTried {
		if n > 0 {
			file = fmt.Sprintf("%s_%d.vmx", base, n)
		}
		spec.Files = &types.VirtualMachineFileInfo{VmPathName: file}
		what := "define domain '" + name + "'"
		_, err = g.run(ctx, what, inventory.VM{}, func(ctx context.Context, client *vim25.Client) (types.ManagedObjectReference, error) {
			return began(object.NewFolder(client, p.folder).
				CreateVM(ctx, *spec, object.NewResourcePool(client, p.pool), object.NewHostSystem(client, p.host)))
		})
		if !isFile || !fault.Is(err, &types.FileAlreadyExists{}) {
			return err
		}
	}
	return err
}

// images refuses a definition whose images of disks are not there, before anything is made.
func (g *Guests) images(ctx context.Context, p *place, d *libvirtxml.Domain) error {
	for _, disk := range d.Devices.Disks {
		if disk.Source == nil || disk.Source.File == nil || disk.Device != "" && disk.Device != "disk" {
			continue
		}
		file := disk.Source.File.File
		err := g.do(ctx, "look for '"+file+"'", func(ctx context.Context, client *vim25.Client) error {
			_, err := object.NewVirtualDiskManager(client).QueryVirtualDiskUuid(ctx, file, object.NewDatacenter(client, p.datacenter))
			return err
		})
		// Of other faults, such as that of an image that is in use, the host tells when it makes the machine.
		if fault.Is(err, &types.FileNotFound{}) || fault.Is(err, &types.InvalidDatastore{}) || fault.Is(err, &types.InvalidDatastorePath{}) {
			return failed(verr.OperationFailed, "element <disk>: there is no image '%s': make the volume first", file)
		}
	}
	return nil
}

// finish changes what a new machine has by itself: the memory of its video card.
func (g *Guests) finish(ctx context.Context, vm inventory.VM, d *libvirtxml.Domain) error {
	config, err := g.config(ctx, vm)
	if err != nil {
		return err
	}
	spec := hardware.Video(config, d)
	if spec == nil {
		return nil
	}
	_, err = g.reconfigure(ctx, "set the video memory of domain '"+d.Name+"'", vm, *spec)
	return err
}

// undo takes a machine that is half made out of the inventory, and adds to the error what is left. Files stay: disks are not ours.
func (g *Guests) undo(ctx context.Context, id string, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
	defer cancel()
	var name string
	err := g.endpoint.Do(ctx, func(ctx context.Context, client *vim25.Client) error {
		found, err := object.NewSearchIndex(client).FindByUuid(ctx, nil, id, true, nil)
		if err != nil || found == nil {
			return err
		}
		vm := object.NewVirtualMachine(client, found.Reference())
		var read mo.VirtualMachine
		if err := vm.Properties(ctx, vm.Reference(), []string{"config.files.vmPathName"}, &read); err == nil && read.Config != nil {
			name = read.Config.Files.VmPathName
		}
		return vm.Unregister(ctx)
	})
	if err == nil {
		g.await(ctx, func(s *inventory.Snapshot) bool {
			_, still := s.UUID(id)
			return !still
		})
	}
	e := verr.From(cause)
	switch {
	case err != nil:
		return failed(e.Code, "%w; what was made of it could not be undone: %v", cause, err)
	case name != "":
		return failed(e.Code, "%w; the machine was taken out again, its file '%s' is left", cause, name)
	}
	return cause
}

// home is where the files of a new machine go: beside its first disk as by libvirt's own driver, else on the datastore with the most room.
func (g *Guests) home(ctx context.Context, p *place, d *libvirtxml.Domain) (string, error) {
	for _, disk := range d.Devices.Disks {
		if disk.Source == nil || disk.Source.File == nil || disk.Device != "" && disk.Device != "disk" {
			continue
		}
		store, file, _ := strings.Cut(disk.Source.File.File, "]")
		folder := path.Dir(strings.TrimLeft(file, " "))
		return store + "] " + path.Join(folder, fileName(d.Name)+".vmx"), nil
	}
	var best mo.Datastore
	err := g.do(ctx, "find a datastore for domain '"+d.Name+"'", func(ctx context.Context, client *vim25.Client) error {
		collector := property.DefaultCollector(client)
		var host mo.HostSystem
		if err := collector.RetrieveOne(ctx, p.host, []string{"datastore"}, &host); err != nil {
			return err
		}
		if len(host.Datastore) == 0 {
			return nil
		}
		var stores []mo.Datastore
		if err := collector.Retrieve(ctx, host.Datastore, []string{"summary"}, &stores); err != nil {
			return err
		}
		for _, store := range stores {
			if store.Summary.Accessible && store.Summary.FreeSpace >= best.Summary.FreeSpace {
				best = store
			}
		}
		return nil
	})
	if err == nil && best.Summary.Name == "" {
		err = failed(verr.OperationFailed, "define domain '%s': the host has no datastore that its files could be put on", d.Name)
	}
	return "[" + best.Summary.Name + "]", err
}

// fileName is a name of a file for a machine's name.
func fileName(name string) string {
	return strings.NewReplacer("*", "%2a", ":", "%3a", "?", "%3f", `"`, "%22", "<", "%3c", ">", "%3e", "|", "%7c").Replace(vmx.EscapeName(name))
}

// networks refuses port groups that the host does not have.
func (g *Guests) networks(ctx context.Context, p *place, d *libvirtxml.Domain) error {
	var wanted []string
	for _, nic := range d.Devices.Interfaces {
		if nic.Source != nil && nic.Source.Bridge != nil && nic.VirtualPort == nil {
			wanted = append(wanted, nic.Source.Bridge.Bridge)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	known := map[string]bool{}
	err := g.do(ctx, "list networks", func(ctx context.Context, client *vim25.Client) error {
		collector := property.DefaultCollector(client)
		var host mo.HostSystem
		if err := collector.RetrieveOne(ctx, p.host, []string{"network"}, &host); err != nil {
			return err
		}
		if len(host.Network) == 0 {
			return nil
		}
		var all []mo.Network
		if err := collector.Retrieve(ctx, host.Network, []string{"name"}, &all); err != nil {
			return err
		}
		for _, n := range all {
			known[vmx.UnescapeName(n.Name)] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range wanted {
		if !known[name] {
			return failed(verr.NoNetwork, "element <interface>: the host has no port group '%s'", name)
		}
	}
	return nil
}

// Undefine takes a machine out of the inventory; its files stay.
func (g *Guests) Undefine(ctx context.Context, guest *hv.Guest, snapshots bool) (uint64, error) {
	vm, err := g.find(guest)
	if err != nil {
		return 0, err
	}
	if err := inState(vm, []hv.State{hv.State_STATE_SHUTOFF, hv.State_STATE_PAUSED}, "Domain is not suspended or powered off"); err != nil {
		return 0, err
	}
	if t := g.tree(vm); t != nil && !snapshots {
		return 0, failed(verr.OperationInvalid, "cannot delete inactive domain with %d snapshots", len(t.Nodes))
	}
	if err := g.unasked(vm); err != nil {
		return 0, err
	}
	err = g.do(ctx, "undefine domain '"+guest.GetName()+"'", func(ctx context.Context, client *vim25.Client) error {
		return object.NewVirtualMachine(client, vm.Ref).Unregister(ctx)
	})
	if err != nil {
		return 0, err
	}
	return g.await(ctx, func(s *inventory.Snapshot) bool {
		_, still := s.Ref(vm.Ref)
		return !still
	}), nil
}

// errOthers is why a host's automatic starts are not switched on.
var errOthers = errors.New("cannot enable general autostart option without affecting other domains")

// SetAutostart says whether the host starts a machine. As by libvirt's own driver the host's automatic starts are switched on for it, unless
// that would have others started, too.
func (g *Guests) SetAutostart(ctx context.Context, guest *hv.Guest, on bool) (uint64, error) {
	vm, err := g.find(guest)
	if err != nil {
		return 0, err
	}
	what := "set autostart of domain '" + guest.GetName() + "'"
	err = g.do(ctx, what, func(ctx context.Context, client *vim25.Client) error {
		return setAutostart(ctx, client, vm, on)
	})
	switch {
	case errors.Is(err, errOthers):
		return 0, failed(verr.OperationInvalid, "%s: %w", what, errOthers)
	case err != nil:
		return 0, err
	}
	return g.await(ctx, func(s *inventory.Snapshot) bool {
		now, ok := s.Ref(vm.Ref)
		return !ok || now.Autostart == on
	}), nil
}

func setAutostart(ctx context.Context, client *vim25.Client, vm inventory.VM, on bool) error {
	collector := property.DefaultCollector(client)
	var host mo.HostSystem
	ref := types.ManagedObjectReference{Type: hostType, Value: vm.Host}
	if err := collector.RetrieveOne(ctx, ref, []string{"configManager.autoStartManager"}, &host); err != nil {
		return err
	}
	if host.ConfigManager.AutoStartManager == nil {
		return failed(verr.OperationUnsupported, "the host starts no machines")
	}
	var manager mo.HostAutoStartManager
	if err := collector.RetrieveOne(ctx, *host.ConfigManager.AutoStartManager, []string{"config"}, &manager); err != nil {
		return err
	}
	spec := types.HostAutoStartManagerConfig{}
	defaults := manager.Config.Defaults
	if on && (defaults == nil || defaults.Enabled == nil || !*defaults.Enabled) {
		for _, other := range manager.Config.PowerInfo {
			if other.Key != vm.Ref && other.StartAction == string(types.AutoStartActionPowerOn) {
				return errOthers
			}
		}
		spec.Defaults = &types.AutoStartDefaults{Enabled: types.NewBool(true)}
	}
	action := types.AutoStartActionNone
	if on {
		action = types.AutoStartActionPowerOn
	}
	spec.PowerInfo = []types.AutoStartPowerInfo{{
		Key: vm.Ref, StartOrder: -1, StartDelay: -1, WaitForHeartbeat: types.AutoStartWaitHeartbeatSettingSystemDefault,
		StartAction: string(action), StopDelay: -1, StopAction: string(types.AutoStartActionNone),
	}}
	_, err := methods.ReconfigureAutostart(ctx, client, &types.ReconfigureAutostart{This: *host.ConfigManager.AutoStartManager, Spec: spec})
	return err
}
