package hardware

import (
	"github.com/vmware/govmomi/vim25/types"
	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// readBoot reads the order in which devices are booted, and whether the firmware's menu is shown.
func readBoot(d *libvirtxml.Domain, config *types.VirtualMachineConfigInfo) {
	o := config.BootOptions
	if o == nil || d.OS == nil {
		return
	}
	seen := map[string]bool{}
	for _, device := range o.BootOrder {
		name := ""
		switch device.(type) {
		case *types.VirtualMachineBootOptionsBootableDiskDevice:
			name = "hd"
		case *types.VirtualMachineBootOptionsBootableCdromDevice:
			name = "cdrom"
		case *types.VirtualMachineBootOptionsBootableEthernetDevice:
			name = "network"
		case *types.VirtualMachineBootOptionsBootableFloppyDevice:
			name = "fd"
		}
		if name != "" && !seen[name] {
			seen[name] = true
			d.OS.BootDevices = append(d.OS.BootDevices, libvirtxml.DomainBootDevice{Dev: name})
		}
	}
	if o.EnterBIOSSetup != nil && *o.EnterBIOSSetup {
		d.OS.BootMenu = &libvirtxml.DomainBootMenu{Enable: "yes"}
	}
}

// bootOptions makes the options of a domain, nil for one that says nothing. Devices are those that the machine will have.
func bootOptions(d *libvirtxml.Domain, devices []types.BaseVirtualDevice) (*types.VirtualMachineBootOptions, error) {
	o := &types.VirtualMachineBootOptions{}
	for _, boot := range d.OS.BootDevices {
		switch boot.Dev {
		case "hd":
			for _, v := range devices {
				if disk, ok := v.(*types.VirtualDisk); ok {
					o.BootOrder = append(o.BootOrder, &types.VirtualMachineBootOptionsBootableDiskDevice{DeviceKey: disk.Key})
				}
			}
		case "cdrom":
			o.BootOrder = append(o.BootOrder, &types.VirtualMachineBootOptionsBootableCdromDevice{})
		case "network":
			for _, v := range devices {
				if nic, ok := v.(types.BaseVirtualEthernetCard); ok {
					key := nic.GetVirtualEthernetCard().Key
					o.BootOrder = append(o.BootOrder, &types.VirtualMachineBootOptionsBootableEthernetDevice{DeviceKey: key})
				}
			}
		case "fd":
			o.BootOrder = append(o.BootOrder, &types.VirtualMachineBootOptionsBootableFloppyDevice{})
		default:
			return nil, verr.New(verr.ConfigUnsupported, "element <boot>: ESX cannot boot from '%s'", boot.Dev)
		}
	}
	if menu := d.OS.BootMenu; menu != nil {
		o.EnterBIOSSetup = types.NewBool(menu.Enable == "yes")
	}
	if len(o.BootOrder) == 0 && o.EnterBIOSSetup == nil {
		return nil, nil
	}
	return o, nil
}

// sameBoot says whether options ask for what there is already.
func sameBoot(now, want *types.VirtualMachineBootOptions) bool {
	flag := func(b *bool) bool { return b != nil && *b }
	if now == nil {
		now = &types.VirtualMachineBootOptions{}
	}
	if want.EnterBIOSSetup != nil && flag(now.EnterBIOSSetup) != *want.EnterBIOSSetup {
		return false
	}
	if len(want.BootOrder) == 0 {
		return true
	}
	a, b := &libvirtxml.Domain{OS: &libvirtxml.DomainOS{}}, &libvirtxml.Domain{OS: &libvirtxml.DomainOS{}}
	readBoot(a, &types.VirtualMachineConfigInfo{BootOptions: now})
	readBoot(b, &types.VirtualMachineConfigInfo{BootOptions: want})
	if len(a.OS.BootDevices) != len(b.OS.BootDevices) {
		return false
	}
	for i := range a.OS.BootDevices {
		if a.OS.BootDevices[i] != b.OS.BootDevices[i] {
			return false
		}
	}
	return true
}
