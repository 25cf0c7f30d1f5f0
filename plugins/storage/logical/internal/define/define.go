// Package define reads and completes the definitions of pools that are volume groups, and of volumes in them.
//
// Functions are pure and safe concurrently. Errors are those of package poolxml. Every name that is returned is one that LVM allows, so
// none can be taken for an option or for a path.
package define

import (
	"path/filepath"
	"strings"

	"github.com/lodgevirt/lodge/sdk/poolxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Type is the pool type.
const Type = "logical"

// Formats of the source; the first is the default.
var Formats = []string{"lvm2", "unknown", "auto"}

const (
	// maxName is the longest name of a volume or group in bytes; lvm(8) says why.
	maxName = 127
	// allowed are the characters that names may have, by lvm(8), section "Valid names".
	allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+_.-"
	// sector is the unit of sizes in bytes.
	sector = 512
)

// Pool is a pool that is a volume group; its source has a name and its target a path.
type Pool struct{ *poolxml.Pool }

// ParsePool reads and completes a definition.
func ParsePool(text string) (*Pool, error) {
	all, err := poolxml.Parse(text, Type)
	if err != nil {
		return nil, err
	}
	p := &Pool{all}
	if p.Source.Name == "" {
		p.Source.Name = p.Name
	}
	if !ValidName(p.Group()) {
		return nil, verr.New(verr.XMLError, "'%s' is no name of a volume group", p.Group())
	}
	if n := len(p.Source.Devices); n > 0 {
		if err := p.NeedDevices(n); err != nil {
			return nil, err
		}
	}
	if p.Target == nil {
		p.Target = &poolxml.Target{}
	}
	if p.Target.Path == "" {
		p.Target.Path = "/dev/" + p.Group()
	}
	if err := p.NeedTarget(); err != nil {
		return nil, err
	}
	return p, p.NeedFormat(Formats...)
}

// Group is the name of the volume group.
func (p *Pool) Group() string { return p.Source.Name }

// Path is the device of a volume.
func (p *Pool) Path(name string) string { return filepath.Join(p.Target.Path, name) }

// Devices are the paths of the source's devices; there may be none.
func (p *Pool) Devices() []string {
	paths := make([]string, len(p.Source.Devices))
	for i, d := range p.Source.Devices {
		paths[i] = d.Path
	}
	return paths
}

// Exclusive is what no other pool may have too.
func (p *Pool) Exclusive() []string {
	all := []string{"path " + p.Target.Path, "group " + p.Group()}
	for _, d := range p.Devices() {
		all = append(all, "device "+d)
	}
	return all
}

// ValidName reports whether LVM takes a word as the name of a volume or group.
func ValidName(name string) bool {
	if name == "" || name == "." || name == ".." || len(name) > maxName || strings.HasPrefix(name, "-") {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool { return !strings.ContainsRune(allowed, r) })
}

// Volume is a volume to be made.
type Volume struct {
	*poolxml.Volume
	// Origin is the volume that it is a snapshot of, or empty.
	Origin string
	// Sparse says that room is taken as it is written.
	Sparse bool
}

// ParseVolume reads a volume's definition. from is the size of the volume that is to be copied, or nil.
func (p *Pool) ParseVolume(text string, from *uint64) (*Volume, error) {
	all, err := poolxml.ParseVolume(text, from, poolxml.Raw)
	if err != nil {
		return nil, err
	}
	v := &Volume{Volume: all}
	switch {
	case !ValidName(v.Name):
		return nil, verr.New(verr.XMLError, "'%s' is no name of a logical volume: letters, digits, and +_.- are allowed", v.Name)
	case v.Target.Encryption != nil:
		return nil, verr.New(verr.ConfigUnsupported, "volume '%s' cannot be encrypted in a pool of this type", v.Name)
	}
	v.Sparse = v.Backing == nil && from == nil && v.AllocationBytes < v.CapacityBytes
	v.CapacityBytes, v.AllocationBytes = sectors(v.CapacityBytes), sectors(v.AllocationBytes)
	if v.Backing == nil {
		return v, nil
	}
	if from != nil {
		return nil, verr.New(verr.ConfigUnsupported, "volume '%s' cannot be both a copy and a snapshot", v.Name)
	}
	dir, name := filepath.Split(filepath.Clean(v.Backing.Path))
	if dir = filepath.Clean(dir); !ValidName(name) || dir != p.Target.Path && dir != "/dev/"+p.Group() {
		return nil, verr.New(verr.ConfigUnsupported, "backing store '%s' is no volume of this pool", v.Backing.Path)
	}
	v.Origin = name
	return v, nil
}

// sectors rounds up.
func sectors(n uint64) uint64 { return (n + sector - 1) / sector * sector }
