package domxml

import (
	"libvirt.org/go/libvirtxml"
)

// LockedDisk is an image that a guest has open, and how: what a lock manager needs to know.
type LockedDisk struct {
	// Target is the name in the guest, for example "vda".
	Target string
	// Path of the file or block device.
	Path string
	// ReadOnly images are not written by the guest.
	ReadOnly bool
	// Shareable images may be written by several guests.
	Shareable bool
}

// WritableDisks returns the images on this machine of a domain's disks, in its order, that a start shall lock: files and block
// devices. Drives without a medium, read-only images, and images elsewhere (network, folder) are left out, and volumes whose source has no
// path beside their name.
func WritableDisks(d *libvirtxml.Domain) []LockedDisk {
	disks := LocalDisks(d)
	writable := disks[:0]
	for _, disk := range disks {
		if !disk.ReadOnly {
			writable = append(writable, disk)
		}
	}
	return writable
}

// LocalDisks returns all images on this machine of a domain's disks, in its order, read-only ones included.
func LocalDisks(d *libvirtxml.Domain) []LockedDisk {
	if d.Devices == nil {
		return nil
	}
	var disks []LockedDisk
	for _, disk := range d.Devices.Disks {
		path := SourcePath(disk.Source)
		if path == "" {
			continue
		}
		l := LockedDisk{
			Path:      path,
			ReadOnly:  disk.ReadOnly != nil || disk.Device == "cdrom",
			Shareable: disk.Shareable != nil,
		}
		if disk.Target != nil {
			l.Target = disk.Target.Dev
		}
		disks = append(disks, l)
	}
	return disks
}

// SourcePath returns the path on this machine of the image of a disk, or empty for one that has none or has it elsewhere.
func SourcePath(s *libvirtxml.DomainDiskSource) string {
	switch {
	case s == nil:
		return ""
	case s.File != nil:
		return s.File.File
	case s.Block != nil:
		return s.Block.Dev
	}
	return ""
}
