package define

import (
	"crypto/rand"
	"fmt"
	"net"
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// busByPrefix is the bus that a disk's target name stands for.
var busByPrefix = []struct{ prefix, bus string }{
	{"xvd", "xen"}, {"ubd", "uml"}, {"vd", "virtio"}, {"hd", "ide"}, {"sd", "scsi"}, {"fd", "fdc"},
}

func completeDevices(d *libvirtxml.Domain) error {
	if err := completeDisks(d.Devices); err != nil {
		return err
	}
	if err := completeInterfaces(d.Devices.Interfaces); err != nil {
		return err
	}
	completeConsoles(d)
	completeDisplay(d.Devices)
	return nil
}

func completeDisks(devices *libvirtxml.DomainDeviceList) error {
	for i := range devices.Disks {
		if err := completeDisk(&devices.Disks[i]); err != nil {
			return err
		}
	}
	sortWithinBus(devices.Disks)
	seen := make(map[string]bool)
	for _, disk := range devices.Disks {
		if seen[disk.Target.Dev] {
			return verr.New(verr.XMLError, "target '%s' duplicated for disk sources", disk.Target.Dev)
		}
		seen[disk.Target.Dev] = true
	}
	return nil
}

// sortWithinBus orders the disks of each bus by name, as libvirt does, and leaves the buses where they are.
func sortWithinBus(disks []libvirtxml.DomainDisk) {
	places := make(map[string][]int)
	for i, disk := range disks {
		places[disk.Target.Bus] = append(places[disk.Target.Bus], i)
	}
	for _, at := range places {
		sorted := make([]libvirtxml.DomainDisk, len(at))
		for n, i := range at {
			sorted[n] = disks[i]
		}
		slices.SortStableFunc(sorted, func(a, b libvirtxml.DomainDisk) int {
			return targetIndex(a.Target.Dev) - targetIndex(b.Target.Dev)
		})
		for n, i := range at {
			disks[i] = sorted[n]
		}
	}
}

func completeDisk(disk *libvirtxml.DomainDisk) error {
	if disk.Target == nil || disk.Target.Dev == "" {
		return verr.New(verr.XMLError, "missing target information for disk")
	}
	if disk.Device == "" {
		disk.Device = "disk"
	}
	if disk.Target.Bus == "" {
		for _, p := range busByPrefix {
			if strings.HasPrefix(disk.Target.Dev, p.prefix) {
				disk.Target.Bus = p.bus
				break
			}
		}
	}
	if disk.Target.Bus == "" {
		return verr.New(verr.XMLError, "Unknown disk name '%s' and no address specified", disk.Target.Dev)
	}
	if disk.Device == "cdrom" && disk.ReadOnly == nil {
		disk.ReadOnly = &libvirtxml.DomainDiskReadOnly{}
	}
	return nil
}

// targetIndex is the number that the letters of a target name stand for: sda 0, sdz 25, sdaa 26.
func targetIndex(target string) int {
	index := 0
	for _, c := range strings.TrimRight(target, "0123456789")[min(2, len(target)):] {
		if c < 'a' || c > 'z' || index > 1<<20 {
			return 0
		}
		index = index*26 + int(c-'a') + 1
	}
	return index - 1
}

// completeInterfaces gives each card an address and a name on the host that no other has.
func completeInterfaces(cards []libvirtxml.DomainInterface) error {
	taken := make(map[string]bool)
	for _, card := range cards {
		if card.Target != nil {
			taken[card.Target.Dev] = true
		}
	}
	n := 0
	for i := range cards {
		card := &cards[i]
		if card.MAC == nil {
			address := net.HardwareAddr{0x52, 0x54, 0x00, 0, 0, 0}
			_, _ = rand.Read(address[3:]) // never fails
			card.MAC = &libvirtxml.DomainInterfaceMAC{Address: address.String()}
		}
		if _, err := net.ParseMAC(card.MAC.Address); err != nil {
			return verr.New(verr.XMLError, "unable to parse mac address '%s'", card.MAC.Address)
		}
		if card.Target != nil && card.Target.Dev != "" {
			continue
		}
		for taken[fmt.Sprintf("testnet%d", n)] {
			n++
		}
		card.Target = &libvirtxml.DomainInterfaceTarget{Dev: fmt.Sprintf("testnet%d", n)}
		taken[card.Target.Dev] = true
	}
	return nil
}

// completeConsoles numbers the serial ports and shows the first one as the first console too.
func completeConsoles(d *libvirtxml.Domain) {
	for i := range d.Devices.Serials {
		serial := &d.Devices.Serials[i]
		if serial.Target == nil {
			serial.Target = &libvirtxml.DomainSerialTarget{}
		}
		if serial.Target.Port == nil {
			port := uint(i)
			serial.Target.Port = &port
		}
	}
	hvm := d.OS != nil && d.OS.Type != nil && d.OS.Type.Type == "hvm"
	if hvm && len(d.Devices.Serials) > 0 && len(d.Devices.Consoles) == 0 {
		port := uint(0)
		d.Devices.Consoles = []libvirtxml.DomainConsole{{
			Source: d.Devices.Serials[0].Source,
			Target: &libvirtxml.DomainConsoleTarget{Type: "serial", Port: &port},
		}}
	}
}

// completeDisplay adds what a guest with a display has: where it listens, and a video card.
func completeDisplay(devices *libvirtxml.DomainDeviceList) {
	for i := range devices.Graphics {
		vnc := devices.Graphics[i].VNC
		if vnc == nil || vnc.Socket != "" {
			continue
		}
		if vnc.Port == 0 {
			vnc.Port, vnc.AutoPort = -1, "yes"
		}
		if len(vnc.Listeners) == 0 {
			listen := &libvirtxml.DomainGraphicListenerAddress{Address: vnc.Listen}
			vnc.Listeners = []libvirtxml.DomainGraphicListener{{Address: listen}}
		}
	}
	for i := range devices.Inputs {
		if devices.Inputs[i].Bus == "" {
			devices.Inputs[i].Bus = "ps2"
		}
	}
	if len(devices.Graphics) > 0 && len(devices.Videos) == 0 {
		devices.Videos = []libvirtxml.DomainVideo{{
			Model: libvirtxml.DomainVideoModel{Type: "cirrus", VRam: 16384, Heads: 1, Primary: "yes"},
		}}
	}
}
