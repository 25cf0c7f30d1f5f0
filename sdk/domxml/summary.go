package domxml

import (
	"libvirt.org/go/libvirtxml"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// Summarize returns what lists show of a completed domain.
func Summarize(d *libvirtxml.Domain) *pb.Summary {
	s := &pb.Summary{Uuid: d.UUID, Name: d.Name, Title: d.Title, HasSecrets: hasSecrets(d)}
	if d.OS != nil && d.OS.Type != nil {
		s.OsType = d.OS.Type.Type
	}
	if d.Memory != nil {
		s.MaxMemoryKib = uint64(d.Memory.Value)
		s.MemoryKib = s.MaxMemoryKib
	}
	if d.CurrentMemory != nil {
		s.MemoryKib = uint64(d.CurrentMemory.Value)
	}
	if d.VCPU != nil {
		s.MaxVcpus = uint32(d.VCPU.Value)
		s.Vcpus = s.MaxVcpus
		if d.VCPU.Current != 0 {
			s.Vcpus = uint32(d.VCPU.Current)
		}
	}
	return s
}

// hasSecrets reports whether Redact would leave something out.
func hasSecrets(d *libvirtxml.Domain) bool {
	if d.Devices == nil {
		return false
	}
	for _, g := range d.Devices.Graphics {
		if g.VNC != nil && g.VNC.Passwd != "" || g.Spice != nil && g.Spice.Passwd != "" {
			return true
		}
	}
	for _, disk := range d.Devices.Disks {
		if disk.Source != nil && disk.Source.Cookies != nil {
			return true
		}
	}
	return false
}
