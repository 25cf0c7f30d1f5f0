package vmx

import (
	"errors"
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// Names of files that stand for no file.
const (
	emptyDrive = "emptyBackingString"
	autoDetect = "auto detect"
)

// passthroughPrefix begins the names of a host's CD-ROM drives that are handed through as SCSI devices.
const passthroughPrefix = "/vmfs/devices/cdrom/"

// scsiModels are libvirt's names of VMware's SCSI controllers; nothing else is called otherwise.
var scsiModels = map[string]string{"buslogic": "buslogic", "lsilogic": "lsilogic", "lsisas1068": "lsisas1068", "pvscsi": "vmpvscsi"}

func readDisks(r *reader, d *libvirtxml.Domain) {
	highest := map[*bus]int{}
	for _, b := range buses {
		highest[b] = -1
		b.places(func(p place) {
			if r.err != nil {
				return
			}
			disk := readDisk(r, b, p)
			if disk == nil || r.err != nil {
				return
			}
			disk.Target = &libvirtxml.DomainDiskTarget{Dev: b.target(p), Bus: b.name}
			disk.Address = driveAddress(p)
			d.Devices.Disks = append(d.Devices.Disks, *disk)
			highest[b] = max(highest[b], int(p.controller))
		})
	}
	for _, b := range controllerOrder {
		for index := range highest[b] + 1 {
			n := uint(index)
			c := libvirtxml.DomainController{Type: b.name, Index: &n}
			if b == scsi {
				c.Model = readModel(r, n)
			}
			d.Devices.Controllers = append(d.Devices.Controllers, c)
		}
	}
}

func driveAddress(p place) *libvirtxml.DomainAddress {
	target := uint(0)
	return &libvirtxml.DomainAddress{Drive: &libvirtxml.DomainAddressDrive{
		Controller: &p.controller, Bus: &p.bus, Target: &target, Unit: &p.unit,
	}}
}

// readModel reads the model of a SCSI controller, "" for the host's default.
func readModel(r *reader, controller uint) string {
	key := fmt.Sprintf("scsi%d.virtualDev", controller)
	value, ok := r.file.Get(key)
	if !ok || !r.flag(fmt.Sprintf("scsi%d.present", controller), false) {
		return ""
	}
	model, ok := scsiModels[strings.ToLower(value)]
	if !ok {
		r.expect(key, "'buslogic' or 'lsilogic' or 'lsisas1068' or 'pvscsi'")
	}
	return model
}

// readDisk reads a disk without its target, or returns nil if there is none. Drives of a remote client's computer are left out, they mean
// nothing to anybody else.
func readDisk(r *reader, b *bus, p place) *libvirtxml.DomainDisk {
	key := b.key(p)
	if b != ide && b != fdc && !r.flag(fmt.Sprintf("%s%d.present", b.name, p.controller), false) {
		return nil
	}
	if !r.flag(key+".present", false) || r.flag(key+".clientDevice", false) {
		return nil
	}
	if b == fdc {
		return readFloppy(r, key)
	}
	kind := strings.ToLower(r.text(key + ".deviceType"))
	if kind == "" && isImage(r.text(key+".fileName")) {
		kind = "cdrom-image"
	}
	switch kind {
	case "cdrom-image", "atapi-cdrom", "cdrom-raw":
		return readCDROM(r, key, kind)
	case "scsi-passthru":
		if file := r.text(key + ".fileName"); b == scsi && strings.HasPrefix(file, passthroughPrefix) {
			return blockDisk("lun", file)
		}
	case "", "disk", strings.ToLower(b.hardDisk):
		return readHardDisk(r, key)
	}
	r.fail(verr.New(verr.ConfigUnsupported, "Invalid or not yet handled value '%s' for VMX entry '%s.deviceType'",
		r.text(key+".deviceType"), key))
	return nil
}

// isImage says whether a drive of no type is one for CD-ROMs, by the name of its file.
func isImage(file string) bool {
	return strings.EqualFold(file, emptyDrive) || strings.HasSuffix(strings.ToLower(file), ".iso")
}

func fileDisk(device, file string) *libvirtxml.DomainDisk {
	return &libvirtxml.DomainDisk{
		Device: device, Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: file}},
	}
}

func blockDisk(device, file string) *libvirtxml.DomainDisk {
	disk := &libvirtxml.DomainDisk{
		Device: device, Source: &libvirtxml.DomainDiskSource{Block: &libvirtxml.DomainDiskSourceBlock{Dev: file}},
	}
	if device != "floppy" {
		disk.ReadOnly = &libvirtxml.DomainDiskReadOnly{}
	}
	return disk
}

func readHardDisk(r *reader, key string) *libvirtxml.DomainDisk {
	file := r.must(key + ".fileName")
	if !strings.HasSuffix(strings.ToLower(file), ".vmdk") {
		r.fail(verr.New(verr.ConfigUnsupported, "Invalid or not yet handled value '%s' for VMX entry '%s.fileName' for a hard disk", file, key))
		return nil
	}
	disk := fileDisk("disk", r.source(key+".fileName", file))
	if r.flag(key+".writeThrough", false) {
		disk.Driver = &libvirtxml.DomainDiskDriver{Cache: "writethrough"}
	}
	if strings.EqualFold(r.text(key+".mode"), "independent-nonpersistent") {
		disk.Transient = &libvirtxml.DomainDiskTransient{}
	}
	return disk
}

// readCDROM reads a drive of a lower-case deviceType.
func readCDROM(r *reader, key, kind string) *libvirtxml.DomainDisk {
	file := r.text(key + ".fileName")
	empty := file == "" || strings.EqualFold(file, emptyDrive)
	if kind == "cdrom-image" {
		disk := fileDisk("cdrom", "")
		if !empty {
			disk.Source.File.File = readImage(r, key+".fileName", file)
		}
		disk.ReadOnly = &libvirtxml.DomainDiskReadOnly{}
		return disk
	}
	device := "cdrom"
	if kind == "cdrom-raw" {
		device = "lun"
	}
	if empty {
		return blockDisk(device, "")
	}
	if strings.EqualFold(file, autoDetect) {
		disk := blockDisk(device, "")
		disk.Source.StartupPolicy = "optional"
		return disk
	}
	return blockDisk(device, file)
}

// readImage translates the name of an image; one on a datastore that is gone makes the drive empty.
func readImage(r *reader, key, file string) string {
	source, err := r.ctx.Names.Source(file)
	if errors.Is(err, ErrNoDatastore) {
		return ""
	}
	if err != nil {
		r.fail(verr.New(verr.Internal, "VMX entry '%s': %w", key, err))
	}
	return source
}

func readFloppy(r *reader, key string) *libvirtxml.DomainDisk {
	file := r.text(key + ".fileName")
	switch kind := strings.ToLower(r.text(key + ".fileType")); {
	case file == "" || strings.EqualFold(file, emptyDrive):
		return fileDisk("floppy", "")
	case kind == "file", kind == "" && strings.HasSuffix(strings.ToLower(file), ".flp"):
		return fileDisk("floppy", r.source(key+".fileName", file))
	case kind == "device", kind == "":
		return blockDisk("floppy", file)
	}
	r.expect(key+".fileType", "'device' or 'file'")
	return nil
}
