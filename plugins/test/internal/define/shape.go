package define

import (
	"fmt"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/domxml"
)

// Shape is what of a definition matters while the guest lives.
type Shape struct {
	// MemoryKiB and MaxMemoryKiB are its sizes.
	MemoryKiB    uint64 `json:"memory_kib"`
	MaxMemoryKiB uint64 `json:"max_memory_kib"`
	// VCPUs and MaxVCPUs are its numbers of vCPUs.
	VCPUs    uint32 `json:"vcpus"`
	MaxVCPUs uint32 `json:"max_vcpus"`
	// RestartsOnPoweroff and RestartsOnReboot tell what follows when it asks for either.
	RestartsOnPoweroff bool `json:"restarts_on_poweroff,omitempty"`
	RestartsOnReboot   bool `json:"restarts_on_reboot,omitempty"`
	// Disks and Interfaces are for statistics.
	Disks      []Disk   `json:"disks,omitempty"`
	Interfaces []string `json:"interfaces,omitempty"`
	// Consoles and Channels are the aliases of its character devices, the first console first.
	Consoles []string `json:"consoles,omitempty"`
	Channels []string `json:"channels,omitempty"`
}

// Disk is one disk.
type Disk struct {
	// Target is the name in the guest.
	Target string `json:"target"`
	// Path of the image, or empty.
	Path string `json:"path,omitempty"`
}

// ShapeOf reads a completed definition.
func ShapeOf(d *libvirtxml.Domain) Shape {
	sum := domxml.Summarize(d)
	s := Shape{
		MemoryKiB: sum.MemoryKib, MaxMemoryKiB: sum.MaxMemoryKib, VCPUs: sum.Vcpus, MaxVCPUs: sum.MaxVcpus,
		RestartsOnPoweroff: restarts(d.OnPoweroff), RestartsOnReboot: restarts(d.OnReboot),
	}
	if d.Devices == nil {
		return s
	}
	paths := make(map[string]string)
	for _, disk := range domxml.LocalDisks(d) {
		paths[disk.Target] = disk.Path
	}
	for _, disk := range d.Devices.Disks {
		if disk.Target != nil {
			s.Disks = append(s.Disks, Disk{Target: disk.Target.Dev, Path: paths[disk.Target.Dev]})
		}
	}
	for _, i := range d.Devices.Interfaces {
		if i.Target != nil {
			s.Interfaces = append(s.Interfaces, i.Target.Dev)
		}
	}
	s.Consoles = append(aliases("serial", len(d.Devices.Serials)), aliases("console", len(d.Devices.Consoles))...)
	s.Channels = aliases("channel", len(d.Devices.Channels))
	return s
}

func restarts(action string) bool { return action == "restart" || action == "rename-restart" }

func aliases(kind string, n int) []string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("%s%d", kind, i))
	}
	return names
}
