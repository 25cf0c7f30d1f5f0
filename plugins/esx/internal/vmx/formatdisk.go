package vmx

import (
	"fmt"
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// placed is a disk with its place.
type placed struct {
	*libvirtxml.DomainDisk
	bus   *bus
	place place
}

func writeDisks(w *writer, d *libvirtxml.Domain) {
	if d.Devices == nil {
		d.Devices = &libvirtxml.DomainDeviceList{}
	}
	disks := placeDisks(w, d.Devices.Disks)
	writeControllers(w, d.Devices.Controllers, disks)
	for _, disk := range disks {
		writeDisk(w, disk)
	}
	for p := range fdc.units {
		if key := fdc.key(place{unit: p}); w.file.lacks(key + ".present") {
			w.set(key+".present", false)
		}
	}
}

// lacks says whether a file has no entry of a key.
func (f *File) lacks(key string) bool {
	_, ok := f.Get(key)
	return !ok
}

// placeDisks finds the places of disks and puts those of a bus together, sorted by their targets as libvirt sorts them.
func placeDisks(w *writer, disks []libvirtxml.DomainDisk) []placed {
	var all []placed
	taken := map[string]bool{}
	for i := range disks {
		disk, err := placeDisk(&disks[i])
		if err != nil {
			w.fail(err)
			return nil
		}
		key := disk.bus.key(disk.place)
		if taken[key] {
			w.fail(verr.New(verr.XMLError, "target '%s' duplicated for disk sources", disk.Target.Dev))
		}
		taken[key] = true
		all = append(all, disk)
	}
	var order []*bus
	for _, disk := range all {
		if !slices.Contains(order, disk.bus) {
			order = append(order, disk.bus)
		}
	}
	slices.SortStableFunc(all, func(a, b placed) int {
		if a.bus != b.bus {
			return slices.Index(order, a.bus) - slices.Index(order, b.bus)
		}
		return int(a.place.index(a.bus)) - int(b.place.index(b.bus))
	})
	return all
}

// index counts the places of a bus.
func (p place) index(b *bus) uint { return (p.controller*b.buses+p.bus)*b.units + p.unit }

// placeDisk finds a disk's place by its address, else by its target.
func placeDisk(disk *libvirtxml.DomainDisk) (placed, error) {
	if disk.Target == nil || disk.Target.Dev == "" {
		return placed{}, verr.New(verr.XMLError, "missing element <target> of a disk")
	}
	name := disk.Target.Bus
	if name == "" {
		name = busOf(disk.Target.Dev)
	}
	b, err := findBus(name)
	if err != nil {
		return placed{}, err
	}
	if disk.Address == nil || disk.Address.Drive == nil {
		p, err := b.placeOf(disk.Target.Dev)
		return placed{disk, b, p}, err
	}
	number := func(n *uint) uint {
		if n == nil {
			return 0
		}
		return *n
	}
	a := disk.Address.Drive
	p, err := b.check(place{number(a.Controller), number(a.Bus), number(a.Unit)})
	if err == nil && b.target(p) != disk.Target.Dev {
		err = verr.New(verr.ConfigUnsupported, "Disk address %d:%d:%d doesn't match target device '%s'",
			p.controller, p.bus, p.unit, disk.Target.Dev)
	}
	return placed{disk, b, p}, err
}

// busOf is the bus that libvirt takes a target's name to be on.
func busOf(target string) string {
	for _, b := range []*bus{nvme, ide, fdc, scsi} {
		if strings.HasPrefix(target, b.letters) {
			return b.name
		}
	}
	return ""
}

// writeControllers writes the controllers that disks need; IDE and floppy controllers are always there.
func writeControllers(w *writer, list []libvirtxml.DomainController, disks []placed) {
	for _, b := range []*bus{scsi, sata, nvme} {
		for n := range b.controllers {
			first := slices.IndexFunc(disks, func(d placed) bool { return d.bus == b && d.place.controller == n })
			if first < 0 {
				continue
			}
			key := fmt.Sprintf("%s%d", b.name, n)
			w.set(key+".present", true)
			if b != scsi {
				continue
			}
			model := writeModel(w, n, list, disks)
			if model != "" {
				w.set(key+".virtualDev", model)
			}
			for _, d := range disks {
				if d.bus == b && d.place.controller == n && d.place.unit >= narrowUnits && model != "pvscsi" {
					w.unsupported("SCSI unit index %d out of [0..6,8..15] range for controller %d", d.place.unit, n)
				}
			}
		}
	}
}

// writeModel finds VMware's name of the model of a SCSI controller, "" for the host's default. Old definitions have it at the disks.
func writeModel(w *writer, n uint, list []libvirtxml.DomainController, disks []placed) string {
	model := ""
	for i, c := range list {
		if c.Type == scsi.name && (c.Index != nil && *c.Index == n || c.Index == nil && uint(i) == n) {
			model = c.Model
		}
	}
	var first *libvirtxml.DomainDisk
	for _, d := range disks {
		if d.bus != scsi || d.place.controller != n {
			continue
		}
		if first == nil {
			first = d.DomainDisk
		}
		if d.Driver == nil || d.Driver.Name == "" {
			continue
		}
		legacy := strings.ToLower(d.Driver.Name)
		if ours, ok := scsiModels[legacy]; ok {
			legacy = ours
		}
		if model != "" && model != legacy {
			w.fail(verr.New(verr.Internal, "Inconsistent SCSI controller model ('%s' is not '%s') for SCSI controller index %d",
				legacy, model, n))
		}
		model = legacy
	}
	if model == "auto" {
		model = detectModel(w, first)
	}
	if model == "" {
		return ""
	}
	for theirs, ours := range scsiModels {
		if ours == model {
			return theirs
		}
	}
	w.unsupported("Expecting domain XML attribute 'model' of entry 'controller' to be 'buslogic' or 'lsilogic' or 'lsisas1068' or 'vmpvscsi' but found '%s'",
		model)
	return ""
}

func detectModel(w *writer, disk *libvirtxml.DomainDisk) string {
	if w.ctx.SCSIModel == nil {
		return ""
	}
	model, err := w.ctx.SCSIModel(disk)
	if err != nil {
		w.fail(verr.New(verr.Internal, "find model of the SCSI controller of disk '%s': %w", disk.Target.Dev, err))
	}
	return model
}

func writeDisk(w *writer, d placed) {
	key, element := d.bus.key(d.place), fmt.Sprintf("disk '%s'", d.Target.Dev)
	w.set(key+".present", true)
	file := domxml.SourcePath(d.Source)
	block := d.Source != nil && d.Source.Block != nil
	if d.Source != nil && !block && d.Source.File == nil {
		w.unsupported("%s has an unsupported type, expecting 'file' or 'block'", element)
		return
	}
	switch device := d.Device; {
	case d.bus == fdc && device == "floppy":
		writeFloppy(w, d, key, element, file, block)
	case d.bus == fdc || device == "floppy":
		w.unsupported("%s has unsupported device '%s' on bus '%s'", element, device, d.bus.name)
	case device == "" || device == "disk":
		if block {
			w.unsupported("%s %s has an unsupported type, expecting 'file'", strings.ToUpper(d.bus.name), element)
		}
		writeHardDisk(w, d, key, element, file)
	case device == "cdrom":
		writeCDROM(w, d, key, element, file, block)
	case device == "lun" && block:
		kind := "cdrom-raw"
		if d.bus == scsi && strings.HasPrefix(file, passthroughPrefix) {
			kind = "scsi-passthru"
		}
		w.set(key+".deviceType", kind)
		writeDrive(w, d, key, file)
	default:
		w.unsupported("%s has an unsupported device type '%s'", element, device)
	}
}

func writeHardDisk(w *writer, d placed, key, element, file string) {
	if !strings.HasSuffix(strings.ToLower(file), ".vmdk") {
		w.fail(verr.New(verr.Internal, "Image file for %s has unsupported suffix, expecting '.vmdk' but found '%s'", element, file))
		return
	}
	w.set(key+".deviceType", d.bus.hardDisk)
	w.set(key+".fileName", w.source(element, file))
	if d.Driver != nil {
		switch d.Driver.Cache {
		case "", "default":
		case "writethrough":
			w.set(key+".writeThrough", true)
		default:
			w.unsupported("%s has unsupported cache mode '%s'", element, d.Driver.Cache)
		}
	}
	if d.Transient != nil {
		w.set(key+".mode", "independent-nonpersistent")
	}
}

func writeCDROM(w *writer, d placed, key, element, file string, block bool) {
	if block {
		w.set(key+".deviceType", "atapi-cdrom")
		writeDrive(w, d, key, file)
		return
	}
	w.set(key+".deviceType", "cdrom-image")
	if file == "" {
		w.set(key+".fileName", emptyDrive)
		return
	}
	w.set(key+".fileName", w.source(element, file))
}

// writeDrive writes the drive of the host behind a CD-ROM drive, or that VMware finds one.
func writeDrive(w *writer, d placed, key, file string) {
	switch {
	case file != "":
		w.set(key+".fileName", file)
	case d.Source.StartupPolicy == "optional":
		w.set(key+".autodetect", true)
		w.set(key+".fileName", autoDetect)
	}
}

func writeFloppy(w *writer, d placed, key, element, file string, block bool) {
	if block {
		w.set(key+".fileType", "device")
		w.set(key+".fileName", file)
		return
	}
	w.set(key+".fileType", "file")
	if file != "" {
		file = w.source(element, file)
	}
	w.set(key+".fileName", file)
}
