package client

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

// Limits of the protocol.
const (
	// MaxResources is how many leases one process may ask for at a time.
	MaxResources = 8
	// MaxName is the length of the name of a lockspace, a resource or an owner, in bytes.
	MaxName = 48
	// MaxPath is the length of a path in bytes, with a backslash for each space and colon.
	MaxPath = 1023
	// MaxDisks is how many places a lease may have.
	MaxDisks = 4
	// maxProgram is the length of a kill path and of its arguments, with an ending zero.
	maxProgram = 128
)

// Sizes of structures in bytes.
const (
	headerSize    = 8 * 4
	diskSize      = MaxPath + 1 + 8 + 4 + 4
	lockspaceSize = MaxName + 8 + 4 + 4 + diskSize
	resourceSize  = 2*MaxName + 8 + 8 + 4*4
	optionsSize   = MaxName + 4 + 4
	hostSize      = 3*8 + 2*4
	stateSize     = 80
)

// Flags of a resource.
const (
	flagVersion = 0x1
	flagShared  = 0x4
)

// Disk is a place on shared storage.
type Disk struct {
	// Path is the absolute path of a file or block device.
	Path string
	// Offset is in bytes.
	Offset uint64
}

// Lockspace is a set of hosts that share leases, each under a number of its own.
type Lockspace struct {
	// Name is at most MaxName bytes long.
	Name string
	// HostID is this host's number, from 1.
	HostID uint64
	// Disk is where the hosts' own leases lie.
	Disk Disk
}

// Resource is a lease.
type Resource struct {
	// Lockspace and Name are at most MaxName bytes long.
	Lockspace string
	Name      string
	// Version grows with each time that the lease was taken. To Acquire, one that is not 0 must be the present one.
	Version uint64
	// Shared says that others may have it too, if they say so as well.
	Shared bool
	// Disks are where the lease lies, one in all known uses.
	Disks []Disk
}

// Check finds what does not fit into the protocol's structures: names and paths that are empty, too long or hold a zero.
func (d Disk) Check() error {
	escaped := len(d.Path) + strings.Count(d.Path, " ") + strings.Count(d.Path, ":")
	switch {
	case d.Path == "" || strings.ContainsRune(d.Path, 0):
		return fmt.Errorf("path %q cannot be one of a lease", d.Path)
	case escaped > MaxPath:
		return fmt.Errorf("path %q is longer than the %d bytes that sanlock has for it", d.Path, MaxPath)
	}
	return nil
}

// CheckName finds what does not fit into the protocol's structures.
func CheckName(name string) error {
	switch {
	case name == "" || strings.ContainsRune(name, 0):
		return fmt.Errorf("name %q cannot be one of a lease or lockspace", name)
	case len(name) > MaxName:
		return fmt.Errorf("name %q is longer than the %d bytes that sanlock has for it", name, MaxName)
	}
	return nil
}

// Check is CheckName and Disk.Check for all parts.
func (l Lockspace) Check() error {
	if err := CheckName(l.Name); err != nil {
		return err
	}
	return l.Disk.Check()
}

// Check is CheckName and Disk.Check for all parts.
func (r Resource) Check() error {
	for _, name := range []string{r.Lockspace, r.Name} {
		if err := CheckName(name); err != nil {
			return err
		}
	}
	if len(r.Disks) == 0 || len(r.Disks) > MaxDisks {
		return fmt.Errorf("lease %q has %d places, 1 to %d are possible", r.Name, len(r.Disks), MaxDisks)
	}
	for _, d := range r.Disks {
		if err := d.Check(); err != nil {
			return err
		}
	}
	return nil
}

// endian is the byte order of the protocol.
var endian = binary.NativeEndian

// appendText adds a text, with zeros up to its size.
func appendText(b []byte, text string, size int) []byte {
	text = text[:min(len(text), size)]
	return append(append(b, text...), make([]byte, size-len(text))...)
}

func appendDisk(b []byte, d Disk) []byte {
	b = appendText(b, d.Path, MaxPath+1)
	b = endian.AppendUint64(b, d.Offset)
	return append(b, make([]byte, 8)...)
}

func appendLockspace(b []byte, l Lockspace) []byte {
	b = appendText(b, l.Name, MaxName)
	b = endian.AppendUint64(b, l.HostID)
	return appendDisk(append(b, make([]byte, 8)...), l.Disk)
}

// appendResource adds a lease without its places.
func appendResource(b []byte, r Resource) []byte {
	var flags uint32
	if r.Version != 0 {
		flags |= flagVersion
	}
	if r.Shared {
		flags |= flagShared
	}
	b = appendText(b, r.Lockspace, MaxName)
	b = appendText(b, r.Name, MaxName)
	b = endian.AppendUint64(b, r.Version)
	b = append(b, make([]byte, 8+4+4)...)
	b = endian.AppendUint32(b, flags)
	return endian.AppendUint32(b, uint32(len(r.Disks)))
}

// appendPlacedResource adds a lease with its places.
func appendPlacedResource(b []byte, r Resource) []byte {
	b = appendResource(b, r)
	for _, d := range r.Disks {
		b = appendDisk(b, d)
	}
	return b
}

// appendOptions adds the options of Acquire.
func appendOptions(b []byte, owner string) []byte {
	b = appendText(b, owner, MaxName)
	return append(b, make([]byte, optionsSize-MaxName)...)
}

// cText is the text in a field that ends with the field or with a zero.
func cText(field []byte) string {
	text, _, _ := bytes.Cut(field, []byte{0})
	return string(text)
}

func parseDisk(b []byte) Disk {
	return Disk{Path: cText(b[:MaxPath+1]), Offset: endian.Uint64(b[MaxPath+1:])}
}

func parseLockspace(b []byte) Lockspace {
	return Lockspace{Name: cText(b[:MaxName]), HostID: endian.Uint64(b[MaxName:]), Disk: parseDisk(b[MaxName+16:])}
}

// parseResource reads a lease, and how many places follow it.
func parseResource(b []byte) (r Resource, disks uint32) {
	numbers := b[2*MaxName:]
	return Resource{
		Lockspace: cText(b[:MaxName]), Name: cText(b[MaxName : 2*MaxName]), Version: endian.Uint64(numbers),
		Shared: endian.Uint32(numbers[24:])&flagShared != 0,
	}, endian.Uint32(numbers[28:])
}

// Owner is a host that has a lease.
type Owner struct {
	// HostID is its number.
	HostID uint64
	// Generation counts the times that the host has joined the lockspace.
	Generation uint64
}

func parseOwner(b []byte) Owner {
	return Owner{HostID: endian.Uint64(b), Generation: endian.Uint64(b[8:])}
}
