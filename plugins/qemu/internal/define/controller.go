package define

import (
	"slices"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/address"
)

// usbModels are the models of USB controller with the number of their root ports.
var usbModels = map[string]uint{
	"piix3-uhci": 2, "piix4-uhci": 2, "ehci": 6, "ich9-ehci1": 6, "ich9-uhci1": 2, "ich9-uhci2": 2, "ich9-uhci3": 2,
	"vt82c686b-uhci": 2, "pci-ohci": 3, "nec-xhci": 4, "qemu-xhci": 4, "none": 0,
}

// scsiModels are the models of SCSI controller that QEMU has on a PC.
var scsiModels = map[string]bool{
	"lsilogic": true, "virtio-scsi": true, "virtio-transitional": true, "virtio-non-transitional": true,
	"lsisas1068": true, "lsisas1078": true, "am53c974": true, "dc390": true, "buslogic": false, "vmpvscsi": true,
}

// pciModelNames are the QEMU devices that libvirt shows for a model of PCI controller.
var pciModelNames = map[string]string{
	"pci-bridge": "pci-bridge", "dmi-to-pci-bridge": "i82801b11-bridge", "pcie-to-pci-bridge": "pcie-pci-bridge",
	"pcie-root-port": "pcie-root-port", "pcie-switch-upstream-port": "x3130-upstream",
	"pcie-switch-downstream-port": "xio3130-downstream", "pci-expander-bus": "pxb", "pcie-expander-bus": "pxb-pcie",
}

func completeControllers(c *completion) error {
	if err := c.numberControllers(); err != nil {
		return err
	}
	if !c.hasController("usb", 0) && !c.hasController("usb", anyIndex) {
		c.addController("usb", 0, "")
	}
	if c.q35 {
		c.ensureController("sata", 0)
		c.ensureController("pci", 0)
	} else {
		c.ensureController("pci", 0)
	}
	c.addDiskControllers()
	c.addSerialControllers()
	for i := range c.dev.Controllers {
		if err := c.completeController(&c.dev.Controllers[i]); err != nil {
			return err
		}
	}
	return c.checkControllers()
}

// anyIndex asks for a controller of any index.
const anyIndex = ^uint(0)

// numberControllers gives an index to those that have none: the lowest free one of their type; the companions of a USB
// controller have the index of their master.
func (c *completion) numberControllers() error {
	used := map[string]bool{}
	key := func(kind string, index uint) string { return kind + ":" + utoa(index) }
	for _, ctl := range c.dev.Controllers {
		if ctl.Index != nil {
			used[key(ctl.Type, *ctl.Index)] = true
		}
	}
	for i := range c.dev.Controllers {
		ctl := &c.dev.Controllers[i]
		if ctl.Index != nil {
			continue
		}
		if ctl.Type == "usb" && ctl.USB != nil && ctl.USB.Master != nil {
			ctl.Index = new(c.lastMaster(i))
			continue
		}
		index := uint(0)
		if ctl.Type == "pci" && ctl.Model != "pci-root" && ctl.Model != "pcie-root" {
			index = 1
		}
		for used[key(ctl.Type, index)] {
			index++
		}
		used[key(ctl.Type, index)] = true
		ctl.Index = new(index)
	}
	return nil
}

func (c *completion) lastMaster(before int) uint {
	for i := before - 1; i >= 0; i-- {
		if ctl := c.dev.Controllers[i]; ctl.Type == "usb" && ctl.Index != nil && (ctl.USB == nil || ctl.USB.Master == nil) {
			return *ctl.Index
		}
	}
	return 0
}

func (c *completion) hasController(kind string, index uint) bool {
	return slices.ContainsFunc(c.dev.Controllers, func(ctl libvirtxml.DomainController) bool {
		return ctl.Type == kind && (index == anyIndex || deref(ctl.Index) == index)
	})
}

func (c *completion) ensureController(kind string, index uint) {
	if !c.hasController(kind, index) {
		c.addController(kind, index, "")
	}
}

// addController appends a controller.
func (c *completion) addController(kind string, index uint, model string) {
	c.dev.Controllers = append(c.dev.Controllers, libvirtxml.DomainController{
		Type: kind, Index: new(index), Model: model,
	})
}

// maxImplicit bounds the index up to which controllers are added because a disk or channel needs one.
const maxImplicit = 255

func (c *completion) addDiskControllers() {
	top := map[string]uint{}
	for _, k := range c.dev.Disks {
		bus := k.Target.Bus
		layout, ok := address.DriveBuses[bus]
		if !ok {
			continue
		}
		var index uint
		if k.Address != nil && k.Address.Drive != nil {
			index = deref(k.Address.Drive.Controller)
		} else {
			n, _ := address.TargetIndex(k.Target.Dev)
			index = layout.At(n).Controller
		}
		top[bus] = max(top[bus], min(index, maxImplicit))
	}
	for _, bus := range []string{"scsi", "fdc", "ide", "sata"} {
		last, ok := top[bus]
		for i := uint(0); ok && i <= last; i++ {
			c.ensureController(bus, i)
		}
	}
}

func (c *completion) addSerialControllers() {
	need, top := 0, uint(0)
	count := func(a *libvirtxml.DomainAddress) {
		need++
		if a != nil && a.VirtioSerial != nil {
			top = max(top, min(deref(a.VirtioSerial.Controller), maxImplicit))
		}
	}
	for _, ch := range c.dev.Channels {
		if ch.Target.VirtIO != nil {
			count(ch.Address)
		}
	}
	for _, k := range c.dev.Consoles {
		if k.Target.Type == "virtio" {
			count(k.Address)
		}
	}
	if need == 0 {
		return
	}
	top = max(top, uint(need-1)/(portsPerSerialController-1))
	for i := uint(0); i <= top; i++ {
		c.ensureController("virtio-serial", i)
	}
}

func (c *completion) completeController(ctl *libvirtxml.DomainController) error {
	switch ctl.Type {
	case "usb":
		return c.completeUSBController(ctl)
	case "pci":
		return c.completePCIController(ctl)
	case "scsi":
		if ctl.Model == "" || ctl.Model == "auto" {
			ctl.Model = c.defaultSCSI()
		}
		if !scsiModels[ctl.Model] {
			return unsupported("Unsupported controller model: %s", ctl.Model)
		}
	case "ide":
		if c.q35 {
			return unsupported("IDE controllers are unsupported for this QEMU binary or machine type")
		}
		if *ctl.Index != 0 {
			return unsupported("Only a single IDE controller is supported for this machine type")
		}
	case "fdc":
		if *ctl.Index != 0 {
			return unsupported("Only a single fdc controller is supported")
		}
	case "sata", "virtio-serial", "ccid":
	default:
		return unsupported("controller type '%s' is not supported", ctl.Type)
	}
	return nil
}

func (c *completion) completeUSBController(ctl *libvirtxml.DomainController) error {
	if ctl.Model == "" || ctl.Model == "default" {
		ctl.Model = "piix3-uhci"
		if c.q35 {
			ctl.Model = "qemu-xhci"
		}
	}
	if _, ok := usbModels[ctl.Model]; !ok {
		return unsupported("unsupported usb controller model '%s'", ctl.Model)
	}
	if ctl.USB != nil && deref(ctl.USB.Port) > 15 {
		return unsupported("'ports' of a USB controller must be <= 15")
	}
	return nil
}

func (c *completion) completePCIController(ctl *libvirtxml.DomainController) error {
	root := string(address.Root)
	if c.q35 {
		root = string(address.RootComplex)
	}
	if *ctl.Index == 0 {
		orDefault(&ctl.Model, root)
		if ctl.Model != root {
			return malformed("The PCI controller with index='0' must be model='%s' for this machine type, but "+
				"model='%s' was found instead", root, ctl.Model)
		}
		if ctl.Address != nil {
			return malformed("pci-root and pcie-root controllers should not have an address")
		}
		return nil
	}
	if ctl.Model == "" {
		return malformed("Invalid PCI controller model: a model is needed with index='%d'", *ctl.Index)
	}
	if ctl.Model == string(address.Root) || ctl.Model == string(address.RootComplex) {
		return malformed("Device type 'pci' of model '%s' must have index 0", ctl.Model)
	}
	name, ok := pciModelNames[ctl.Model]
	if !ok {
		return malformed("unknown PCI controller model '%s'", ctl.Model)
	}
	if !c.q35 && ctl.Model != "pci-bridge" && ctl.Model != "pci-expander-bus" {
		return unsupported("PCI controller model '%s' is not supported with machine type '%s'", ctl.Model,
			c.d.OS.Type.Machine)
	}
	if ctl.PCI == nil {
		ctl.PCI = &libvirtxml.DomainControllerPCI{}
	}
	if ctl.PCI.Model == nil {
		ctl.PCI.Model = &libvirtxml.DomainControllerPCIModel{}
	}
	orDefault(&ctl.PCI.Model.Name, name)
	c.completePCITarget(ctl)
	return nil
}

// completePCITarget fills in what follows from the index; the port of a root port follows from its address, see assignPCI.
func (c *completion) completePCITarget(ctl *libvirtxml.DomainController) {
	p := ctl.PCI
	if p.Target == nil {
		p.Target = &libvirtxml.DomainControllerPCITarget{}
	}
	switch ctl.Model {
	case "pci-bridge":
		if p.Target.ChassisNr == nil {
			p.Target.ChassisNr = new(*ctl.Index)
		}
	case "pcie-root-port", "pcie-switch-downstream-port":
		if p.Target.Chassis == nil {
			p.Target.Chassis = new(*ctl.Index)
		}
	}
	if *p.Target == (libvirtxml.DomainControllerPCITarget{}) {
		p.Target = nil
	}
}

func (c *completion) checkControllers() error {
	seen := map[string]bool{}
	for _, ctl := range c.dev.Controllers {
		if ctl.Type == "usb" && ctl.USB != nil && ctl.USB.Master != nil {
			continue
		}
		key := ctl.Type + utoa(*ctl.Index)
		if seen[key] {
			return malformed("Multiple '%s' controllers with index '%d'", ctl.Type, *ctl.Index)
		}
		seen[key] = true
		if ctl.Type == "usb" && ctl.Model == "none" {
			for _, other := range c.dev.Controllers {
				if other.Type == "usb" && other.Model != "none" {
					return malformed("Can't add another USB controller: USB is disabled for this domain")
				}
			}
		}
	}
	return nil
}
