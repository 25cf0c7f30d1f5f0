package cmdline

import (
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// controllerDevices are QEMU's devices by libvirt's type and model; those with an empty name are part of the machine.
var controllerDevices = map[string]string{
	"pci pci-root": "", "pci pcie-root": "", "pci pci-bridge": "pci-bridge", "pci dmi-to-pci-bridge": "i82801b11-bridge",
	"pci pcie-to-pci-bridge": "pcie-pci-bridge", "pci pcie-root-port": "pcie-root-port",
	"pci pcie-switch-upstream-port": "x3130-upstream", "pci pcie-switch-downstream-port": "xio3130-downstream",
	"usb piix3-uhci": "piix3-usb-uhci", "usb piix4-uhci": "piix4-usb-uhci", "usb ehci": "usb-ehci",
	"usb ich9-ehci1": "ich9-usb-ehci1", "usb ich9-uhci1": "ich9-usb-uhci1", "usb ich9-uhci2": "ich9-usb-uhci2",
	"usb ich9-uhci3": "ich9-usb-uhci3", "usb vt82c686b-uhci": "vt82c686b-usb-uhci", "usb pci-ohci": "pci-ohci",
	"usb nec-xhci": "nec-usb-xhci", "usb qemu-xhci": "qemu-xhci", "usb none": "",
	"scsi lsilogic": "lsi", "scsi lsisas1068": "mptsas1068", "scsi lsisas1078": "megasas", "scsi am53c974": "am53c974",
	"scsi dc390": "dc390", "scsi vmpvscsi": "pvscsi", "scsi virtio-scsi": "virtio-scsi-pci",
	"scsi virtio-transitional":              "virtio-scsi-pci-transitional",
	"scsi virtio-non-transitional":          "virtio-scsi-pci-non-transitional",
	"virtio-serial ":                        "virtio-serial-pci",
	"virtio-serial virtio":                  "virtio-serial-pci",
	"virtio-serial virtio-transitional":     "virtio-serial-pci-transitional",
	"virtio-serial virtio-non-transitional": "virtio-serial-pci-non-transitional",
	"sata ":                                 "ahci", "ide ": "", "fdc ": "", "ide piix3": "",
}

// controllerOrder lists PCI buses first, for all others are plugged into them.
var controllerOrder = []string{"pci", "usb", "scsi", "sata", "ide", "virtio-serial", "fdc"}

func (b *builder) controllers() error {
	for _, kind := range controllerOrder {
		for i := range b.dev.Controllers {
			c := &b.dev.Controllers[i]
			if c.Type != kind || c.Alias.Name == "ide" {
				continue
			}
			if err := b.controller(c); err != nil {
				return err
			}
		}
	}
	for _, c := range b.dev.Controllers {
		if !contains(controllerOrder, c.Type) {
			return unsupported("controller type '%s' is not supported", c.Type)
		}
	}
	return nil
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

func (b *builder) controller(c *libvirtxml.DomainController) error {
	driver, ok := controllerDevices[c.Type+" "+c.Model]
	if !ok {
		return unsupported("%s controller model '%s' is not supported", c.Type, c.Model)
	}
	if c.Type == "fdc" {
		return b.floppyController()
	}
	if driver == "" {
		b.rootHotplug(c)
		return nil
	}
	p := props{"driver": driver, "id": c.Alias.Name}
	if c.PCI != nil && c.PCI.Target != nil {
		pciTarget(p, c)
	}
	if v := c.VirtIOSerial; v != nil {
		p.set("max_ports", deref(v.Ports))
		if v.Vectors != nil {
			p["vectors"] = *v.Vectors
		}
	}
	if err := b.usbController(p, c); err != nil {
		return err
	}
	if err := b.controllerDriver(p, c.Driver); err != nil {
		return err
	}
	if err := b.place(p, c.Address); err != nil {
		return err
	}
	return b.device(p)
}

// rootHotplug says whether devices can be plugged into the root bus of an i440FX.
func (b *builder) rootHotplug(c *libvirtxml.DomainController) {
	if c.Model == "pci-root" && c.PCI != nil && c.PCI.Target != nil && c.PCI.Target.Hotplug != "" {
		b.arg("-global", "PIIX4_PM.acpi-root-pci-hotplug="+c.PCI.Target.Hotplug)
	}
}

// floppyController writes the controller where the machine has none of its own, and which of its two drives are booted from.
func (b *builder) floppyController() error {
	p := props{"driver": "isa-fdc"}
	for i := range b.dev.Disks {
		k := &b.dev.Disks[i]
		if k.Target.Bus != "fdc" || k.Address == nil || k.Address.Drive == nil {
			continue
		}
		boot := props{}
		b.setBoot(boot, k.Boot, "fd")
		if index, ok := boot["bootindex"]; ok {
			p["bootindex"+string(rune('A'+deref(k.Address.Drive.Unit)))] = index
		}
	}
	if b.q35 {
		return b.device(p)
	}
	for _, drive := range []string{"A", "B"} {
		if index, ok := p["bootindex"+drive]; ok {
			b.arg("-global", fmt.Sprintf("isa-fdc.bootindex%s=%v", drive, index))
		}
	}
	return nil
}

func pciTarget(p props, c *libvirtxml.DomainController) {
	t := c.PCI.Target
	if t.ChassisNr != nil {
		p["chassis_nr"] = *t.ChassisNr
	}
	if t.Chassis != nil {
		p["chassis"] = *t.Chassis
	}
	if t.Port != nil {
		p["port"] = *t.Port
	}
	if t.Hotplug == "off" {
		if c.Model == "pcie-root-port" {
			p["hotplug"] = false
		}
	}
}

func (b *builder) usbController(p props, c *libvirtxml.DomainController) error {
	if c.Type != "usb" || c.USB == nil {
		return nil
	}
	if n := deref(c.USB.Port); n != 0 {
		if !strings.HasSuffix(c.Model, "xhci") {
			return unsupported("'ports' is only supported with an xhci USB controller")
		}
		p["p2"], p["p3"] = n, n
	}
	if m := c.USB.Master; m != nil {
		for i := range b.dev.Controllers {
			master := &b.dev.Controllers[i]
			if master.Type == "usb" && deref(master.Index) == deref(c.Index) && (master.USB == nil || master.USB.Master == nil) {
				p["masterbus"] = master.Alias.Name + ".0"
				p["firstport"] = m.StartPort
				delete(p, "id")
				return nil
			}
		}
		return unsupported("USB companion controller %d has no master", deref(c.Index))
	}
	return nil
}

func (b *builder) controllerDriver(p props, d *libvirtxml.DomainControllerDriver) error {
	if d == nil {
		return nil
	}
	p.set("num_queues", deref(d.Queues))
	p.set("cmd_per_lun", deref(d.CmdPerLUN))
	p.set("max_sectors", deref(d.MaxSectors))
	if d.IOThread != 0 {
		p["iothread"] = threadName(d.IOThread)
	}
	if err := p.onOff("ioeventfd", d.IOEventFD); err != nil {
		return err
	}
	return virtio(p, d.IOMMU, d.ATS, d.Packed, d.PagePerVQ)
}

func (b *builder) hubs() error {
	for i := range b.dev.Hubs {
		h := &b.dev.Hubs[i]
		if h.Type != "usb" {
			return unsupported("hub type '%s' is not supported", h.Type)
		}
		p := props{"driver": "usb-hub", "id": h.Alias.Name}
		if err := b.placeUSB(p, h.Address); err != nil {
			return err
		}
		if err := b.device(p); err != nil {
			return err
		}
	}
	return nil
}
