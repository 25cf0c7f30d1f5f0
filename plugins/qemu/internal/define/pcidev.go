package define

import (
	"fmt"
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/address"
)

// pciDevice is one device with a PCI address.
type pciDevice struct {
	name string
	addr **libvirtxml.DomainAddress
	plug address.Plug
	// at is the place that the device has by tradition, and takes if it is empty.
	at []address.PCI
	// fixed is the only place that the machine has for it.
	fixed address.PCI
	// function is the one it has in a slot, and group the devices that share that slot.
	function uint
	group    string
	share    bool
}

// pciDevices lists what needs a PCI address, in the order in which libvirt hands them out.
func (c *completion) pciDevices() []pciDevice {
	return slices.Concat(c.pciBridges(), c.pciFilesystems(), c.pciInterfaces(), c.pciSounds(), c.pciControllers(),
		c.pciDisks(), c.pciHostdevs(), c.pciPrimaryVideo(), c.pciSingles(), c.pciOthers())
}

// pcie returns the connector of a device that is PCI Express where the machine is.
func (c *completion) pcie(model string) address.Plug {
	if c.q35 && !strings.HasSuffix(model, "virtio-transitional") {
		return address.PlugPCIe
	}
	return address.PlugPCI
}

// bridgePlugs are the connectors of PCI controllers.
var bridgePlugs = map[address.BusKind]address.Plug{
	address.RootPort: address.PlugRootPort, address.PCIeExpander: address.PlugRootPort,
	address.PCIeBridge: address.PlugPCIeBridge, address.DMIBridge: address.PlugRootPort, address.Bridge: address.PlugPCI,
	address.Upstream: address.PlugPCIe, address.Downstream: address.PlugDownstream, address.Expander: address.PlugPCI,
}

func (c *completion) pciBridges() []pciDevice {
	var list []pciDevice
	for i := range c.dev.Controllers {
		ctl := &c.dev.Controllers[i]
		if ctl.Type != "pci" || *ctl.Index == 0 {
			continue
		}
		kind := address.BusKind(ctl.Model)
		list = append(list, pciDevice{
			name: fmt.Sprintf("PCI controller %d", *ctl.Index), addr: &ctl.Address, plug: bridgePlugs[kind],
			share: kind == address.RootPort || kind == address.Downstream,
		})
	}
	return list
}

func (c *completion) pciFilesystems() []pciDevice {
	var list []pciDevice
	for i := range c.dev.Filesystems {
		f := &c.dev.Filesystems[i]
		list = append(list, pciDevice{name: fmt.Sprintf("filesystem %d", i), addr: &f.Address, plug: c.pcie(f.Model)})
	}
	return list
}

// expressNets are the network cards that are PCI Express, besides the virtio ones.
var expressNets = []string{"e1000e", "vmxnet3", "igb"}

func (c *completion) pciInterfaces() []pciDevice {
	var list []pciDevice
	for i := range c.dev.Interfaces {
		n := &c.dev.Interfaces[i]
		if n.Model != nil && n.Model.Type == "usb-net" {
			continue
		}
		plug := address.PlugPCI
		if n.Model == nil || strings.HasPrefix(n.Model.Type, "virtio") || slices.Contains(expressNets, n.Model.Type) {
			plug = c.pcie(modelOf(n))
		}
		list = append(list, pciDevice{name: "network interface " + n.MAC.Address, addr: &n.Address, plug: plug})
	}
	return list
}

func modelOf(n *libvirtxml.DomainInterface) string {
	if n.Model == nil {
		return ""
	}
	return n.Model.Type
}

func (c *completion) pciSounds() []pciDevice {
	var list []pciDevice
	for i := range c.dev.Sounds {
		s := &c.dev.Sounds[i]
		if s.Model == "sb16" || s.Model == "pcspk" || s.Model == "usb" {
			continue
		}
		d := pciDevice{name: fmt.Sprintf("sound card %d", i), addr: &s.Address, plug: address.PlugPCI}
		if s.Model == "ich9" && c.q35 {
			d.at = []address.PCI{{Slot: 0x1b}}
		}
		list = append(list, d)
	}
	return list
}

// usbFunctions are the functions of an ICH9 USB controller and its companions in their slot.
var usbFunctions = map[string]uint{"ich9-ehci1": 7, "ich9-uhci1": 0, "ich9-uhci2": 1, "ich9-uhci3": 2}

func (c *completion) pciControllers() []pciDevice {
	var list []pciDevice
	for i := range c.dev.Controllers {
		ctl := &c.dev.Controllers[i]
		d := pciDevice{
			name: fmt.Sprintf("%s controller %d", ctl.Type, *ctl.Index), addr: &ctl.Address, plug: address.PlugPCI,
		}
		switch {
		case ctl.Type == "usb" && ctl.Model != "none":
			c.placeUSBController(ctl, &d)
		case ctl.Type == "ide":
			d.fixed = address.PCI{Slot: 1, Function: 1}
		case ctl.Type == "sata" && *ctl.Index == 0 && c.q35:
			d.fixed = address.PCI{Slot: 0x1f, Function: 2}
		case ctl.Type == "sata":
		case ctl.Type == "scsi" && (strings.HasPrefix(ctl.Model, "virtio") || strings.HasPrefix(ctl.Model, "lsisas")),
			ctl.Type == "virtio-serial":
			d.plug = c.pcie(ctl.Model)
		case ctl.Type == "scsi":
		default:
			continue
		}
		list = append(list, d)
	}
	return list
}

func (c *completion) placeUSBController(ctl *libvirtxml.DomainController, d *pciDevice) {
	function, ich9 := usbFunctions[ctl.Model]
	switch {
	case ich9:
		d.function, d.group = function, "usb"+utoa(*ctl.Index)
		if c.q35 {
			d.at = []address.PCI{{Slot: 0x1d, Function: function}, {Slot: 0x1a, Function: function}}
		}
	case strings.HasSuffix(ctl.Model, "xhci"):
		d.plug = c.pcie(ctl.Model)
	case ctl.Model == "piix3-uhci" && *ctl.Index == 0 && !c.q35:
		d.fixed = address.PCI{Slot: 1, Function: 2}
		if ctl.Address != nil {
			d.fixed = address.PCI{}
		}
	}
}

func (c *completion) pciDisks() []pciDevice {
	var list []pciDevice
	for i := range c.dev.Disks {
		if k := &c.dev.Disks[i]; k.Target.Bus == "virtio" {
			list = append(list, pciDevice{name: diskName(k), addr: &k.Address, plug: c.pcie(k.Model)})
		}
	}
	return list
}

func (c *completion) pciHostdevs() []pciDevice {
	var list []pciDevice
	for i := range c.dev.Hostdevs {
		h := &c.dev.Hostdevs[i]
		if h.SubsysPCI != nil || h.SubsysMDev != nil || h.SubsysSCSIHost != nil {
			list = append(list, pciDevice{name: fmt.Sprintf("host device %d", i), addr: &h.Address, plug: c.pcie("")})
		}
	}
	return list
}

func (c *completion) pciPrimaryVideo() []pciDevice {
	if len(c.dev.Videos) == 0 {
		return nil
	}
	v := &c.dev.Videos[0]
	if v.Model.Type == "none" || v.Model.Type == "ramfb" {
		return nil
	}
	at := address.PCI{Slot: 2}
	if c.q35 {
		at.Slot = 1
	}
	return []pciDevice{{name: "primary video", addr: &v.Address, plug: address.PlugPCI, at: []address.PCI{at}}}
}

// pciSingles are the memory balloon, random number generators, watchdogs and secondary screens.
func (c *completion) pciSingles() []pciDevice {
	var list []pciDevice
	if b := c.dev.MemBalloon; b != nil && b.Model != "none" {
		list = append(list, pciDevice{name: "memory balloon", addr: &b.Address, plug: c.pcie(b.Model)})
	}
	for i := range c.dev.RNGs {
		r := &c.dev.RNGs[i]
		list = append(list, pciDevice{
			name: fmt.Sprintf("random number generator %d", i), addr: &r.Address, plug: c.pcie(r.Model),
		})
	}
	for i := range c.dev.Watchdogs {
		if w := &c.dev.Watchdogs[i]; w.Model == "i6300esb" {
			list = append(list, pciDevice{
				name: fmt.Sprintf("watchdog %d", i), addr: &w.Address, plug: address.PlugPCI,
			})
		}
	}
	for i := range c.dev.Videos {
		v := &c.dev.Videos[i]
		if i == 0 || v.Model.Type == "ramfb" {
			continue
		}
		plug := address.PlugPCI
		if v.Model.Type == "virtio" || v.Model.Type == "bochs" {
			plug = c.pcie("")
		}
		list = append(list, pciDevice{name: fmt.Sprintf("video %d", i), addr: &v.Address, plug: plug})
	}
	return list
}

// pciOthers are shared memory, virtio input, PCI serial ports, panic devices and vsock.
func (c *completion) pciOthers() []pciDevice {
	var list []pciDevice
	for i := range c.dev.Shmems {
		list = append(list, pciDevice{
			name: fmt.Sprintf("shared memory %d", i), addr: &c.dev.Shmems[i].Address, plug: address.PlugPCI,
		})
	}
	for i := range c.dev.Inputs {
		if in := &c.dev.Inputs[i]; in.Bus == "virtio" {
			list = append(list, pciDevice{
				name: fmt.Sprintf("virtio %s %d", in.Type, i), addr: &in.Address, plug: c.pcie(in.Model),
			})
		}
	}
	for i := range c.dev.Serials {
		if s := &c.dev.Serials[i]; s.Target.Type == "pci-serial" {
			list = append(list, pciDevice{
				name: fmt.Sprintf("serial port %d", i), addr: &s.Address, plug: address.PlugPCI,
			})
		}
	}
	for i := range c.dev.Panics {
		if p := &c.dev.Panics[i]; p.Model == "pvpanic" {
			list = append(list, pciDevice{name: "panic device", addr: &p.Address, plug: c.pcie("")})
		}
	}
	if v := c.dev.VSock; v != nil {
		list = append(list, pciDevice{name: "vsock", addr: &v.Address, plug: c.pcie(v.Model)})
	}
	for i := range c.dev.Crypto {
		list = append(list, pciDevice{
			name: fmt.Sprintf("crypto device %d", i), addr: &c.dev.Crypto[i].Address, plug: c.pcie(""),
		})
	}
	return list
}
