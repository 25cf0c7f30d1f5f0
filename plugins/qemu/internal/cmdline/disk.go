package cmdline

import (
	"fmt"
	"strconv"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

func threadName(id uint) string { return fmt.Sprintf("iothread%d", id) }

func (b *builder) disks() error {
	for i := range b.dev.Disks {
		if err := b.disk(&b.dev.Disks[i]); err != nil {
			return err
		}
	}
	return nil
}

// bootClass is the class of <os><boot> by the device attribute of a disk.
var bootClass = map[string]string{"disk": "hd", "lun": "hd", "cdrom": "cdrom", "floppy": "fd"}

func (b *builder) disk(k *libvirtxml.DomainDisk) error {
	if s := k.Source; s != nil && s.StartupPolicy != "" && s.StartupPolicy != "mandatory" {
		return unsupported("startupPolicy '%s' of disk '%s' is not supported", s.StartupPolicy, k.Target.Dev)
	}
	node, err := b.diskNode(k)
	if err != nil {
		return err
	}
	p := props{"id": k.Alias.Name}
	p.set("drive", node)
	if err := b.diskDevice(p, k); err != nil {
		return err
	}
	if k.Target.Bus != "fdc" {
		b.setBoot(p, k.Boot, bootClass[k.Device])
	}
	if err := diskIdentity(p, k); err != nil {
		return err
	}
	if err := diskPolicies(p, k, node); err != nil {
		return err
	}
	return b.device(p)
}

// diskDevice sets the driver and the place of a disk.
func (b *builder) diskDevice(p props, k *libvirtxml.DomainDisk) error {
	if k.Device == "lun" && k.Target.Bus != "scsi" {
		return unsupported("disk device='lun' is not supported for bus='%s'", k.Target.Bus)
	}
	switch k.Target.Bus {
	case "virtio":
		return b.virtioDisk(p, k)
	case "scsi":
		return b.scsiDisk(p, k)
	case "ide", "sata":
		return b.ataDisk(p, k)
	case "usb":
		p["driver"] = "usb-storage"
		p["removable"] = k.Target.Removable == "on"
		return b.placeUSB(p, k.Address)
	case "fdc":
		p["driver"], p["unit"] = "floppy", deref(k.Address.Drive.Unit)
		return nil
	}
	return unsupported("disk bus '%s' is not supported", k.Target.Bus)
}

func (b *builder) virtioDisk(p props, k *libvirtxml.DomainDisk) error {
	p["driver"] = virtioName("virtio-blk", k.Model)
	if d := k.Driver; d != nil {
		p.set("num-queues", deref(d.Queues))
		p.set("queue-size", deref(d.QueueSize))
		if d.IOThread != nil {
			p["iothread"] = threadName(*d.IOThread)
		}
		if err := p.onOff("ioeventfd", d.IOEventFD); err != nil {
			return err
		}
		if err := p.onOff("event_idx", d.EventIDX); err != nil {
			return err
		}
		if err := virtio(p, d.IOMMU, d.ATS, d.Packed, d.PagePerVQ); err != nil {
			return err
		}
	}
	return b.place(p, k.Address)
}

// scsiDrivers are the SCSI devices by the device attribute of a disk.
var scsiDrivers = map[string]string{"disk": "scsi-hd", "cdrom": "scsi-cd", "lun": "scsi-block"}

func (b *builder) scsiDisk(p props, k *libvirtxml.DomainDisk) error {
	driver, ok := scsiDrivers[k.Device]
	if !ok {
		return unsupported("unsupported disk device '%s' on scsi", k.Device)
	}
	c, err := b.driveController(k)
	if err != nil {
		return err
	}
	a := k.Address.Drive
	p["driver"], p["bus"] = driver, c.Alias.Name+".0"
	if k.Device != "lun" {
		p["device_id"] = "drive-" + k.Alias.Name
		p.set("device_id", k.Serial)
	}
	if byUnit[c.Model] {
		p["scsi-id"] = deref(a.Unit)
		return nil
	}
	p["channel"], p["scsi-id"], p["lun"] = deref(a.Bus), deref(a.Target), deref(a.Unit)
	return nil
}

func (b *builder) ataDisk(p props, k *libvirtxml.DomainDisk) error {
	c, err := b.driveController(k)
	if err != nil {
		return err
	}
	p["driver"] = "ide-hd"
	if k.Device == "cdrom" {
		p["driver"] = "ide-cd"
	}
	a := k.Address.Drive
	if k.Target.Bus == "sata" {
		p["bus"] = fmt.Sprintf("%s.%d", c.Alias.Name, deref(a.Unit))
		return nil
	}
	p["bus"] = fmt.Sprintf("%s.%d", c.Alias.Name, deref(a.Bus))
	p["unit"] = deref(a.Unit)
	return nil
}

func (b *builder) driveController(k *libvirtxml.DomainDisk) (*libvirtxml.DomainController, error) {
	if k.Address != nil && k.Address.Drive != nil {
		for i := range b.dev.Controllers {
			c := &b.dev.Controllers[i]
			if c.Type == k.Target.Bus && deref(c.Index) == deref(k.Address.Drive.Controller) {
				return c, nil
			}
		}
	}
	return nil, verr.New(verr.Internal, "disk '%s' has no %s controller", k.Target.Dev, k.Target.Bus)
}

// diskIdentity sets what the guest sees of the disk's nature.
func diskIdentity(p props, k *libvirtxml.DomainDisk) error {
	p.set("serial", k.Serial)
	if k.WWN != "" {
		n, err := strconv.ParseUint(strings.TrimPrefix(k.WWN, "0x"), 16, 64)
		if err != nil || k.Target.Bus == "virtio" || k.Target.Bus == "usb" {
			return unsupported("wwn '%s' of disk '%s' is malformed or not supported by its bus", k.WWN, k.Target.Dev)
		}
		p["wwn"] = n
	}
	if k.Vendor != "" || k.Product != "" {
		if k.Target.Bus != "scsi" {
			return unsupported("Only scsi disk supports vendor and product")
		}
		p.set("vendor", k.Vendor)
		p.set("product", k.Product)
	}
	p.set("rotation_rate", k.Target.RotationRate)
	if g := k.Geometry; g != nil {
		p["cyls"], p["heads"], p["secs"] = g.Cylinders, g.Headers, g.Sectors
		if g.Trans != "" && k.Target.Bus == "ide" {
			p["bios-chs-trans"] = g.Trans
		}
	}
	if io := k.BlockIO; io != nil {
		p.set("logical_block_size", io.LogicalBlockSize)
		p.set("physical_block_size", io.PhysicalBlockSize)
		if io.DiscardGranularity != nil {
			p["discard_granularity"] = *io.DiscardGranularity
		}
	}
	if k.Shareable != nil && k.Target.Bus != "fdc" {
		p["share-rw"] = true
	}
	return nil
}

// diskPolicies sets what happens on errors and who caches writes.
func diskPolicies(p props, k *libvirtxml.DomainDisk, node string) error {
	d := k.Driver
	if d == nil {
		return nil
	}
	if c, ok := caches[d.Cache]; d.Cache != "" && d.Cache != "default" {
		if !ok {
			return unsupported("unsupported disk cache mode '%s'", d.Cache)
		}
		if k.Target.Bus != "fdc" && k.Device != "lun" {
			p["write-cache"] = onOff(c.writeback)
		}
	}
	write, read := d.ErrorPolicy, d.RErrorPolicy
	if write == "enospace" {
		write = "enospc"
	} else if read == "" {
		read = write
	}
	if k.Device == "lun" || node == "" {
		return nil
	}
	p.set("werror", write)
	p.set("rerror", read)
	return nil
}
