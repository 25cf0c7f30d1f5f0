package cmdline

import (
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/address"
)

// setAliases names every device as libvirt does; names that the user gave stay.
func setAliases(dev *libvirtxml.DomainDeviceList) {
	for i := range dev.Disks {
		name(&dev.Disks[i].Alias, "%s", diskAlias(dev, &dev.Disks[i]))
	}
	for i := range dev.Controllers {
		name(&dev.Controllers[i].Alias, "%s", controllerAlias(dev, i))
	}
	for i := range dev.Interfaces {
		name(&dev.Interfaces[i].Alias, "net%d", i)
	}
	for i := range dev.Filesystems {
		name(&dev.Filesystems[i].Alias, "fs%d", i)
	}
	aliasChardevs(dev)
	for i := range dev.Inputs {
		name(&dev.Inputs[i].Alias, "input%d", i)
	}
	for i := range dev.TPMs {
		name(&dev.TPMs[i].Alias, "tpm%d", i)
	}
	for i := range dev.Sounds {
		name(&dev.Sounds[i].Alias, "sound%d", i)
	}
	for i := range dev.Videos {
		name(&dev.Videos[i].Alias, "video%d", i)
	}
	for i := range dev.RedirDevs {
		name(&dev.RedirDevs[i].Alias, "redir%d", i)
	}
	for i := range dev.Hubs {
		name(&dev.Hubs[i].Alias, "hub%d", i)
	}
	for i := range dev.Watchdogs {
		name(&dev.Watchdogs[i].Alias, "watchdog%d", i)
	}
	for i := range dev.RNGs {
		name(&dev.RNGs[i].Alias, "rng%d", i)
	}
	if dev.MemBalloon != nil {
		name(&dev.MemBalloon.Alias, "balloon0")
	}
}

func aliasChardevs(dev *libvirtxml.DomainDeviceList) {
	for i := range dev.Serials {
		name(&dev.Serials[i].Alias, "serial%d", i)
	}
	for i := range dev.Parallels {
		name(&dev.Parallels[i].Alias, "parallel%d", i)
	}
	for i := range dev.Channels {
		name(&dev.Channels[i].Alias, "channel%d", i)
	}
	n := 0
	for i := range dev.Consoles {
		if isSerialConsole(dev, i) {
			dev.Consoles[i].Alias = &libvirtxml.DomainAlias{Name: dev.Serials[0].Alias.Name}
			continue
		}
		name(&dev.Consoles[i].Alias, "console%d", n)
		n++
	}
}

// isSerialConsole reports whether a console is but another view of the first serial port.
func isSerialConsole(dev *libvirtxml.DomainDeviceList, i int) bool {
	t := dev.Consoles[i].Target
	return i == 0 && len(dev.Serials) > 0 && (t == nil || t.Type == "" || t.Type == "serial")
}

func name(a **libvirtxml.DomainAlias, format string, args ...any) {
	if *a == nil || (*a).Name == "" {
		*a = &libvirtxml.DomainAlias{Name: fmt.Sprintf(format, args...)}
	}
}

func diskAlias(dev *libvirtxml.DomainDeviceList, k *libvirtxml.DomainDisk) string {
	switch bus := k.Target.Bus; bus {
	case "virtio", "usb":
		index, _ := address.TargetIndex(k.Target.Dev)
		return fmt.Sprintf("%s-disk%d", bus, index)
	default:
		if k.Address == nil || k.Address.Drive == nil {
			return bus + "-" + k.Target.Dev
		}
		a := k.Address.Drive
		if bus == "scsi" && !addressesByUnit(dev, deref(a.Controller)) {
			return fmt.Sprintf("scsi%d-%d-%d-%d", deref(a.Controller), deref(a.Bus), deref(a.Target), deref(a.Unit))
		}
		return fmt.Sprintf("%s%d-%d-%d", bus, deref(a.Controller), deref(a.Bus), deref(a.Unit))
	}
}

// addressesByUnit reports whether a SCSI controller is of the old kind, whose disks have no target.
func addressesByUnit(dev *libvirtxml.DomainDeviceList, index uint) bool {
	for _, c := range dev.Controllers {
		if c.Type == "scsi" && deref(c.Index) == index {
			return byUnit[c.Model]
		}
	}
	return false
}

// byUnit are the models of SCSI controller that know a disk by its SCSI id alone.
var byUnit = map[string]bool{"lsilogic": true, "am53c974": true, "dc390": true}

// controllerAlias follows QEMU where it names a bus itself: "pci.0", "pcie.0", "ide" and the first USB controller's "usb".
func controllerAlias(dev *libvirtxml.DomainDeviceList, i int) string {
	c := &dev.Controllers[i]
	index := deref(c.Index)
	switch c.Type {
	case "pci":
		if c.Model == "pcie-root" {
			return "pcie.0"
		}
		return fmt.Sprintf("pci.%d", index)
	case "ide":
		return "ide"
	case "sata":
		if a := c.Address; index == 0 && a != nil && a.PCI != nil && deref(a.PCI.Slot) == 0x1f {
			return "ide"
		}
	case "usb":
		if index == 0 {
			return "usb"
		}
	}
	return fmt.Sprintf("%s%d", strings.TrimSuffix(c.Type, "-bus"), index)
}

// SetPTYs fills the paths of ptys into a live definition. Files maps the label of a character device, as in QMP's
// query-chardev, to its filename, for example "charserial0" to "pty:/dev/pts/3".
func SetPTYs(live *libvirtxml.Domain, files map[string]string) {
	dev := live.Devices
	set := func(s *libvirtxml.DomainChardevSource, a *libvirtxml.DomainAlias) string {
		if s == nil || s.Pty == nil || a == nil {
			return ""
		}
		path, ok := strings.CutPrefix(files["char"+a.Name], "pty:")
		if ok {
			s.Pty.Path = path
		}
		return s.Pty.Path
	}
	for i := range dev.Serials {
		set(dev.Serials[i].Source, dev.Serials[i].Alias)
	}
	for i := range dev.Parallels {
		set(dev.Parallels[i].Source, dev.Parallels[i].Alias)
	}
	for i := range dev.Channels {
		set(dev.Channels[i].Source, dev.Channels[i].Alias)
	}
	for i := range dev.Consoles {
		dev.Consoles[i].TTY = set(dev.Consoles[i].Source, dev.Consoles[i].Alias)
	}
}
