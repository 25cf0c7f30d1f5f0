// Package define reads and completes the definitions of pools that are disks, and of volumes that are partitions.
//
// Functions are pure and safe concurrently. Errors are those of package poolxml.
package define

import (
	"slices"
	"strings"

	"github.com/lodgevirt/lodge/sdk/poolxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Type is the pool type.
const Type = "disk"

// Formats of the source, which are kinds of partition tables; the first is the default and stands for any.
var Formats = []string{Unknown, DOS, "dvh", "gpt", "mac", "bsd", "pc98", "sun", LVM2}

// Formats that are told apart.
const (
	Unknown = "unknown"
	DOS     = "dos"
	LVM2    = "lvm2"
)

// VolumeFormats are the kinds of partitions, as libvirt names them; the first is the default.
var VolumeFormats = []string{"none", Linux, FAT16, FAT32, Swap, LinuxLVM, LinuxRAID, Extended}

// Kinds of partitions.
const (
	Linux     = "linux"
	FAT16     = "fat16"
	FAT32     = "fat32"
	Swap      = "linux-swap"
	LinuxLVM  = "linux-lvm"
	LinuxRAID = "linux-raid"
	Extended  = "extended"
)

// labels are formats by parted's names where they differ.
const msdos = "msdos"

// defaultTarget is where the nodes of partitions are.
const defaultTarget = "/dev"

// Pool is a pool that is a disk; it has one device and a target.
type Pool struct{ *poolxml.Pool }

// ParsePool reads and completes a definition.
func ParsePool(text string) (*Pool, error) {
	all, err := poolxml.Parse(text, Type)
	if err != nil {
		return nil, err
	}
	p := &Pool{all}
	if err := p.NeedDevices(1); err != nil {
		return nil, err
	}
	if s := p.Source.Devices[0].Separator; !slices.Contains([]string{"", "yes", "no"}, s) {
		return nil, verr.New(verr.XMLError, "invalid part_separator setting '%s'", s)
	}
	if p.Target == nil {
		p.Target = &poolxml.Target{}
	}
	if p.Target.Path == "" {
		p.Target.Path = defaultTarget
	}
	if err := p.NeedTarget(); err != nil {
		return nil, err
	}
	return p, p.NeedFormat(Formats...)
}

// Device is the path of the disk.
func (p *Pool) Device() string { return p.Source.Devices[0].Path }

// Separated reports whether names of a mapped device's partitions have a "p" before their numbers, even if its own ends with no digit.
func (p *Pool) Separated() bool { return p.Source.Devices[0].Separator != "no" }

// Format is the kind of partition table, or Unknown.
func (p *Pool) Format() string { return p.Source.Format.Type }

// Label is the format by parted's name; that of a new table if any will do.
func (p *Pool) Label() string {
	if f := p.Format(); f != DOS && f != Unknown {
		return f
	}
	return msdos
}

// Takes reports whether a disk that has a label of parted's name can be the pool.
func (p *Pool) Takes(label string) bool {
	if label == msdos {
		label = DOS
	}
	return label != Unknown && slices.Contains(Formats, label) && (p.Format() == Unknown || p.Format() == label)
}

// ParseVolume reads a volume's definition. from is the size of the volume that is to be copied, or nil.
func ParseVolume(text string, from *uint64) (*poolxml.Volume, error) {
	v, err := poolxml.ParseVolume(text, from, VolumeFormats...)
	if err != nil {
		return nil, err
	}
	if err := v.NeedPlain(); err != nil {
		return nil, err
	}
	switch {
	case v.CapacityBytes == 0:
		return nil, verr.New(verr.InvalidArg, "partition '%s' would have no room", v.Name)
	case v.Target.Format.Type == Extended && from != nil:
		return nil, verr.New(verr.ConfigUnsupported, "extended partition '%s' cannot be a copy", v.Name)
	}
	return v, nil
}

// Exclusive is what no other pool may have too.
func (p *Pool) Exclusive() []string { return []string{"device " + strings.TrimSuffix(p.Device(), "/")} }
