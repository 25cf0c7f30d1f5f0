package vmx

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// place is where a disk is on its bus.
type place struct {
	controller, bus, unit uint
}

// bus tells how VMware and libvirt count the disks of a bus.
type bus struct {
	// name is libvirt's name, letters begin the names of targets.
	name, letters string
	// controllers, buses and units say how many there can be.
	controllers, buses, units uint
	// perController is how many names of targets a controller takes.
	perController uint
	// hardDisk is the deviceType of a hard disk.
	hardDisk string
}

// Buses by name. A SCSI controller itself has unit 7; units above 15 are for paravirtual controllers only, and libvirt gives them the
// names that the next controller's disks have.
var (
	scsi = &bus{name: "scsi", letters: "sd", controllers: 4, buses: 1, units: 65, perController: 15, hardDisk: "scsi-hardDisk"}
	sata = &bus{name: "sata", letters: "sd", controllers: 4, buses: 1, units: 30, perController: 30, hardDisk: "ata-hardDisk"}
	nvme = &bus{name: "nvme", letters: "nvme", controllers: 4, buses: 1, units: 15, perController: 15, hardDisk: "disk"}
	ide  = &bus{name: "ide", letters: "hd", controllers: 1, buses: 2, units: 2, perController: 4, hardDisk: "ata-hardDisk"}
	fdc  = &bus{name: "fdc", letters: "fd", controllers: 1, buses: 1, units: 2, perController: 2}
)

// buses are all in the order in which disks are read; controllerOrder is the one in which libvirt lists their controllers.
var (
	buses           = []*bus{scsi, sata, nvme, ide, fdc}
	controllerOrder = []*bus{scsi, fdc, ide, sata, nvme}
)

const (
	scsiSelf = 7
	// narrowUnits are the units of a SCSI controller that is not paravirtual.
	narrowUnits = 16
)

// findBus returns the bus of libvirt's name.
func findBus(name string) (*bus, error) {
	for _, b := range buses {
		if b.name == name {
			return b, nil
		}
	}
	return nil, verr.New(verr.ConfigUnsupported, "Unsupported bus type '%s'", name)
}

// key is the beginning of the keys of a disk's entries.
func (b *bus) key(p place) string {
	switch b {
	case fdc:
		return fmt.Sprintf("floppy%d", p.unit)
	case ide:
		return fmt.Sprintf("ide%d:%d", p.bus, p.unit)
	}
	return fmt.Sprintf("%s%d:%d", b.name, p.controller, p.unit)
}

// places calls f for each place that a disk can have, in order.
func (b *bus) places(f func(place)) {
	for c := range b.controllers {
		for n := range b.buses {
			for u := range b.units {
				if b != scsi || u != scsiSelf {
					f(place{c, n, u})
				}
			}
		}
	}
}

// target is the name of a disk's target.
func (b *bus) target(p place) string {
	if b == nvme {
		return fmt.Sprintf("nvme%dn%d", p.controller, p.unit+1)
	}
	unit := p.unit
	if b == scsi && unit > scsiSelf {
		unit--
	}
	index := p.controller*b.perController + p.bus*b.units + unit
	var name []byte
	for n := index + 1; n > 0; n = (n - 1) / 26 {
		name = append([]byte{byte('a' + (n-1)%26)}, name...)
	}
	return b.letters + string(name)
}

// placeOf is the place of a disk by the name of its target.
func (b *bus) placeOf(target string) (place, error) {
	bad := verr.New(verr.Internal, "Could not parse valid disk index from '%s' on bus '%s'", target, b.name)
	rest, ok := strings.CutPrefix(target, b.letters)
	if !ok {
		return place{}, bad
	}
	if b == nvme {
		controller, namespace, _ := strings.Cut(rest, "n")
		c, err1 := strconv.ParseUint(controller, 10, 8)
		n, err2 := strconv.ParseUint(namespace, 10, 8)
		if err1 != nil || err2 != nil || n == 0 {
			return place{}, bad
		}
		return b.check(place{uint(c), 0, uint(n - 1)})
	}
	if rest == "" || len(rest) > 3 || strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz") != "" {
		return place{}, bad
	}
	index := uint(0)
	for _, letter := range rest {
		index = index*26 + uint(letter-'a') + 1
	}
	index--
	p := place{controller: index / b.perController, unit: index % b.perController}
	if b == ide {
		p.bus, p.unit = p.unit/b.units, p.unit%b.units
	}
	if b == scsi && p.unit >= scsiSelf {
		p.unit++
	}
	return b.check(p)
}

// check fails for a place that the bus does not have.
func (b *bus) check(p place) (place, error) {
	name := strings.ToUpper(b.name)
	switch {
	case p.controller >= b.controllers:
		return p, verr.New(verr.Internal, "%s controller index %d out of [0..%d] range", name, p.controller, b.controllers-1)
	case p.bus >= b.buses:
		return p, verr.New(verr.Internal, "%s bus index %d out of [0..%d] range", name, p.bus, b.buses-1)
	case p.unit >= b.units, b == scsi && p.unit == scsiSelf:
		return p, verr.New(verr.Internal, "%s unit index %d out of range", name, p.unit)
	}
	return p, nil
}
