package address

import (
	"fmt"
	"strconv"
	"strings"
)

// Drive is the place of a disk on an ide, sata, scsi or floppy controller.
type Drive struct {
	// Controller is the index of the controller.
	Controller uint
	// Bus is the channel, only ide and some scsi controllers have more than one.
	Bus uint
	// Target is the SCSI target, for controllers that address by it.
	Target uint
	// Unit is the unit or logical unit number.
	Unit uint
}

// DriveBus is how a kind of controller is laid out: buses a controller and units a bus.
type DriveBus struct{ Buses, Units uint }

// DriveBuses are the layouts by which a target name such as "sdc" becomes an address, as libvirt does it.
var DriveBuses = map[string]DriveBus{
	"ide": {2, 2}, "sata": {1, 6}, "scsi": {1, 7}, "fdc": {1, 2},
}

// At returns the address of the disk with the index on a controller of that layout.
func (b DriveBus) At(index uint) Drive {
	per := b.Buses * b.Units
	return Drive{Controller: index / per, Bus: index % per / b.Units, Unit: index % b.Units}
}

// maxTargetName bounds the letters after the prefix of a target name: enough for 475,254 disks.
const maxTargetName = 4

// TargetIndex returns the index that a target name stands for: 0 for "vda", 25 for "vdz", 26 for "vdaa".
func TargetIndex(name string) (uint, error) {
	letters := ""
	for _, prefix := range []string{"ubd", "fd", "hd", "vd", "sd", "xvd"} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			letters = rest
			break
		}
	}
	letters = strings.TrimRight(letters, "0123456789")
	if letters == "" || len(letters) > maxTargetName {
		return 0, fmt.Errorf("unknown disk name %q", name)
	}
	n := uint(0)
	for _, c := range letters {
		if c < 'a' || c > 'z' {
			return 0, fmt.Errorf("unknown disk name %q", name)
		}
		n = n*26 + uint(c-'a') + 1
	}
	return n - 1, nil
}

// Drives is who has which drive address on one kind of controller.
type Drives map[Drive]string

// Reserve takes an address.
func (d Drives) Reserve(a Drive, device string) error {
	if owner := d[a]; owner != "" {
		return fmt.Errorf("found duplicate drive address for disk with target name '%s' controller='%d' bus='%d' "+
			"target='%d' unit='%d', used by '%s'", device, a.Controller, a.Bus, a.Target, a.Unit, owner)
	}
	d[a] = device
	return nil
}

// Ports hands out the numbered ports of a controller such as virtio-serial: the lowest free one from First to Last.
type Ports struct {
	// First and Last are the bounds, both usable.
	First, Last uint
	used        map[uint]string
}

// Reserve takes a port.
func (p *Ports) Reserve(port uint, device string) error {
	if port > p.Last {
		return fmt.Errorf("port %d of %s is out of range, must be <= %d", port, device, p.Last)
	}
	if owner := p.used[port]; owner != "" {
		return fmt.Errorf("port %d is used by %s and %s", port, owner, device)
	}
	if p.used == nil {
		p.used = map[uint]string{}
	}
	p.used[port] = device
	return nil
}

// Next takes the lowest free port; ok is false when there is none.
func (p *Ports) Next(device string) (port uint, ok bool) {
	for n := p.First; n <= p.Last; n++ {
		if p.used[n] == "" {
			return n, p.Reserve(n, device) == nil
		}
	}
	return 0, false
}

// usb limits.
const (
	maxUSBPorts = 64
	maxUSBDepth = 5
)

// USBBus is the tree of ports of one USB bus: the controller's own and those of hubs, in the form "1.4".
type USBBus struct {
	ports map[string]uint   // path of a hub, "" for the controller, to its number of ports
	used  map[string]string // path of a port to the device in it
	order []string          // hubs in the order in which they are searched
}

// NewUSBBus returns a bus whose controller has that many ports.
func NewUSBBus(ports uint) *USBBus {
	return &USBBus{
		ports: map[string]uint{"": min(ports, maxUSBPorts)}, used: map[string]string{}, order: []string{""},
	}
}

// AddHub makes the device in a port a hub.
func (b *USBBus) AddHub(port string, ports uint) {
	if _, ok := b.ports[port]; !ok {
		b.ports[port] = min(ports, maxUSBPorts)
		b.order = append(b.order, port)
	}
}

// Reserve takes a port, given as in XML: "1" or "2.1".
func (b *USBBus) Reserve(port, device string) error {
	hub, number := "", port
	if i := strings.LastIndexByte(port, '.'); i >= 0 {
		hub, number = port[:i], port[i+1:]
	}
	n, err := strconv.ParseUint(number, 10, 16)
	limit, ok := b.ports[hub]
	switch {
	case err != nil || n == 0 || strings.Count(port, ".") >= maxUSBDepth:
		return fmt.Errorf("invalid USB port %q of %s", port, device)
	case !ok:
		return fmt.Errorf("USB port %q of %s: no hub in port %q", port, device, hub)
	case uint(n) > limit:
		return fmt.Errorf("USB port %q of %s is out of range, must be <= %d", port, device, limit)
	case b.used[port] != "":
		return fmt.Errorf("USB port %q is used by %s and %s", port, b.used[port], device)
	}
	b.used[port] = device
	return nil
}

// Free returns the number of free ports.
func (b *USBBus) Free() int {
	n := -len(b.used)
	for _, ports := range b.ports {
		n += int(ports)
	}
	return n
}

// Next takes the first free port; ok is false when there is none.
func (b *USBBus) Next(device string) (port string, ok bool) {
	for _, hub := range b.order {
		for n := uint(1); n <= b.ports[hub]; n++ {
			p := strconv.FormatUint(uint64(n), 10)
			if hub != "" {
				p = hub + "." + p
			}
			if b.used[p] == "" && strings.Count(p, ".") < maxUSBDepth {
				b.used[p] = device
				return p, true
			}
		}
	}
	return "", false
}
