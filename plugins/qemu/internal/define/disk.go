package define

import (
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/address"
)

// busOfPrefix is the bus that a target name stands for when the definition names none.
var busOfPrefix = []struct{ prefix, bus string }{
	{"hd", "ide"}, {"sd", "scsi"}, {"vd", "virtio"}, {"xvd", "xen"}, {"ubd", "uml"}, {"fd", "fdc"},
}

// diskBuses are the buses that QEMU has on a PC.
var diskBuses = map[string]bool{"ide": true, "fdc": true, "scsi": true, "virtio": true, "usb": true, "sata": true}

func completeDisks(c *completion) error {
	for i := range c.dev.Disks {
		if err := c.completeDisk(&c.dev.Disks[i]); err != nil {
			return err
		}
	}
	return c.sortDisks()
}

func (c *completion) completeDisk(k *libvirtxml.DomainDisk) error {
	if k.Target == nil || k.Target.Dev == "" {
		return malformed("missing target information for device")
	}
	orDefault(&k.Device, "disk")
	name := k.Target.Dev
	if k.Target.Bus == "" {
		for _, p := range busOfPrefix {
			if strings.HasPrefix(name, p.prefix) {
				k.Target.Bus = p.bus
			}
		}
		if k.Device == "floppy" {
			k.Target.Bus = "fdc"
		}
	}
	if !diskBuses[k.Target.Bus] {
		return unsupported("disk bus '%s' of '%s' is not supported", k.Target.Bus, name)
	}
	if (k.Device == "floppy") != (k.Target.Bus == "fdc") {
		return malformed("Invalid bus type '%s' for %s disk", k.Target.Bus, k.Device)
	}
	if k.Device == "cdrom" && k.Target.Bus == "virtio" {
		return unsupported("disk type 'virtio' of '%s' does not support ejectable media", name)
	}
	if k.Device == "cdrom" {
		k.ReadOnly = &libvirtxml.DomainDiskReadOnly{}
	}
	if _, err := address.TargetIndex(name); err != nil {
		return malformed("%w", err)
	}
	if strings.TrimRight(name, "0123456789") != name {
		return unsupported("invalid device name '%s', attaching a partition is not supported", name)
	}
	return c.completeDriver(k)
}

// formats are the image formats that this driver takes.
var formats = map[string]bool{
	"raw": true, "qcow2": true, "qcow": true, "qed": true, "vmdk": true, "vdi": true, "vpc": true, "vhdx": true,
	"luks": true, "bochs": true, "cloop": true, "dmg": true, "parallels": true,
}

func (c *completion) completeDriver(k *libvirtxml.DomainDisk) error {
	if k.Source != nil && (k.Source.VHostUser != nil || k.Source.VHostVDPA != nil) {
		return nil
	}
	if k.Driver == nil {
		k.Driver = &libvirtxml.DomainDiskDriver{}
	}
	orDefault(&k.Driver.Name, "qemu")
	orDefault(&k.Driver.Type, "raw")
	if k.Driver.Name != "qemu" {
		return unsupported("unsupported driver name '%s' for disk '%s'", k.Driver.Name, k.Target.Dev)
	}
	if k.Driver.Type == "iso" {
		return unsupported("storage format 'iso' is not directly supported by QEMU, use 'raw' instead")
	}
	if !formats[k.Driver.Type] {
		return unsupported("unknown disk format '%s' for %s", k.Driver.Type, k.Target.Dev)
	}
	return c.checkSources(k)
}

// sortDisks orders the disks of each bus by target name, each after the others of its bus, as libvirt shows them.
func (c *completion) sortDisks() error {
	var sorted []libvirtxml.DomainDisk
	seen := map[string]bool{}
	for _, k := range c.dev.Disks {
		if seen[k.Target.Dev] {
			return malformed("target '%s' duplicated for disk sources '%s'", k.Target.Dev, diskPath(k))
		}
		seen[k.Target.Dev] = true
		at := len(sorted)
		index, _ := address.TargetIndex(k.Target.Dev)
		for i := len(sorted) - 1; i >= 0; i-- {
			if sorted[i].Target.Bus != k.Target.Bus {
				continue
			}
			other, _ := address.TargetIndex(sorted[i].Target.Dev)
			if other > index {
				at = i
				continue
			}
			if at == len(sorted) {
				at = i + 1
			}
			break
		}
		sorted = append(sorted, libvirtxml.DomainDisk{})
		copy(sorted[at+1:], sorted[at:])
		sorted[at] = k
	}
	c.dev.Disks = sorted
	return nil
}

func diskPath(k libvirtxml.DomainDisk) string {
	switch {
	case k.Source == nil:
	case k.Source.File != nil:
		return k.Source.File.File
	case k.Source.Block != nil:
		return k.Source.Block.Dev
	case k.Source.Network != nil:
		return k.Source.Network.Name
	case k.Source.Volume != nil:
		return k.Source.Volume.Volume
	}
	return ""
}

// assignDrives gives an address to each disk on a controller with units.
func assignDrives(c *completion) error {
	taken := map[string]address.Drives{}
	var open []*libvirtxml.DomainDisk
	for i := range c.dev.Disks {
		k := &c.dev.Disks[i]
		if _, ok := address.DriveBuses[k.Target.Bus]; !ok {
			continue
		}
		if k.Address == nil || k.Address.Drive == nil {
			if k.Address != nil {
				return unsupported("unexpected address type for %s disk '%s'", k.Target.Bus, k.Target.Dev)
			}
			open = append(open, k)
			continue
		}
		if err := c.reserveDrive(taken, k, driveOf(k.Address.Drive)); err != nil {
			return err
		}
	}
	for _, k := range open {
		index, _ := address.TargetIndex(k.Target.Dev)
		a := address.DriveBuses[k.Target.Bus].At(index)
		if err := c.reserveDrive(taken, k, a); err != nil {
			return err
		}
		k.Address = &libvirtxml.DomainAddress{Drive: &libvirtxml.DomainAddressDrive{
			Controller: new(a.Controller), Bus: new(a.Bus), Target: new(a.Target), Unit: new(a.Unit),
		}}
	}
	return nil
}

func driveOf(d *libvirtxml.DomainAddressDrive) address.Drive {
	return address.Drive{Controller: deref(d.Controller), Bus: deref(d.Bus), Target: deref(d.Target), Unit: deref(d.Unit)}
}

func (c *completion) reserveDrive(taken map[string]address.Drives, k *libvirtxml.DomainDisk, a address.Drive) error {
	bus := k.Target.Bus
	if err := c.checkDrive(k, a); err != nil {
		return err
	}
	if taken[bus] == nil {
		taken[bus] = address.Drives{}
	}
	if err := taken[bus].Reserve(a, k.Target.Dev); err != nil {
		return malformed("%w", err)
	}
	return nil
}

// driveLimits are the largest bus, target and unit by kind of controller.
var driveLimits = map[string]address.Drive{
	"ide": {Bus: 1, Target: 0, Unit: 1}, "fdc": {Bus: 0, Target: 0, Unit: 1}, "sata": {Bus: 0, Target: 0, Unit: 5},
	"scsi lsilogic": {Bus: 0, Target: 0, Unit: 6}, "scsi virtio-scsi": {Bus: 0, Target: 255, Unit: 16383},
	"scsi lsisas1068": {Bus: 0, Target: 7, Unit: 0}, "scsi lsisas1078": {Bus: 0, Target: 127, Unit: 0},
}

func (c *completion) checkDrive(k *libvirtxml.DomainDisk, a address.Drive) error {
	kind := k.Target.Bus
	if kind == "scsi" {
		kind += " " + c.scsiModel(a.Controller)
	}
	limit, ok := driveLimits[kind]
	if !ok {
		return nil
	}
	parts := []struct {
		name       string
		value, max uint
	}{{"bus", a.Bus, limit.Bus}, {"target", a.Target, limit.Target}, {"unit", a.Unit, limit.Unit}}
	for _, p := range parts {
		if p.value > p.max {
			return unsupported("%s must be <= %d for %s controller of disk '%s'", p.name, p.max, kind, k.Target.Dev)
		}
	}
	return nil
}

// scsiModel returns the model of a scsi controller, the default if it is not there yet.
func (c *completion) scsiModel(index uint) string {
	for _, ctl := range c.dev.Controllers {
		if ctl.Type == "scsi" && deref(ctl.Index) == index && ctl.Model != "" && ctl.Model != "auto" {
			return ctl.Model
		}
	}
	return c.defaultSCSI()
}

func (c *completion) defaultSCSI() string {
	if c.env.HasDevice("lsi53c895a") {
		return "lsilogic"
	}
	return "virtio-scsi"
}

func deref[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}

// diskName names a disk in messages.
func diskName(k *libvirtxml.DomainDisk) string { return fmt.Sprintf("disk '%s'", k.Target.Dev) }
