package poolxml

import (
	"encoding/xml"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Formats of volumes.
const (
	Raw    = "raw"
	QCOW2  = "qcow2"
	Folder = "dir"
	LUKS   = "luks"
)

// VolumeFormats are all formats that a volume may have, as libvirt lists them.
var VolumeFormats = []string{
	"none", "raw", "dir", "bochs", "cloop", "dmg", "iso", "vpc", "vdi", "fat", "vhd", "ploop", "cow", "qcow", "qcow2", "qed", "vmdk",
}

// Volume is a volume's definition.
type Volume struct {
	XMLName    xml.Name     `xml:"volume"`
	Name       string       `xml:"name"`
	Capacity   *Size        `xml:"capacity"`
	Allocation *Size        `xml:"allocation"`
	Target     VolumeTarget `xml:"target"`
	Backing    *Backing     `xml:"backingStore"`

	// Bytes of the sizes; Whole says that no allocation was stated.
	CapacityBytes, AllocationBytes uint64
	Whole                          bool
}

// Size is a size with its unit.
type Size struct {
	Unit  string `xml:"unit,attr"`
	Value string `xml:",chardata"`
}

// VolumeTarget is how a volume is stored.
type VolumeTarget struct {
	Format      *Format      `xml:"format"`
	Permissions *Permissions `xml:"permissions"`
	Encryption  *Encryption  `xml:"encryption"`
	Compat      string       `xml:"compat"`
	NoCOW       *struct{}    `xml:"nocow"`
	ClusterSize *Size        `xml:"clusterSize"`
	Features    *Qcow2       `xml:"features"`

	// Cluster is the cluster size in bytes, or 0.
	Cluster uint64 `xml:"-"`
}

// Encryption is how a volume is encrypted.
type Encryption struct {
	Format string     `xml:"format,attr"`
	Secret *SecretRef `xml:"secret"`
	Cipher *Cipher    `xml:"cipher"`
	IVGen  *IVGen     `xml:"ivgen"`
}

// Cipher is what encrypts; a name and a size in bits are stated, mode and hash may be.
type Cipher struct {
	Name string `xml:"name,attr"`
	Size string `xml:"size,attr"`
	Mode string `xml:"mode,attr"`
	Hash string `xml:"hash,attr"`
}

// IVGen is what makes initialization vectors.
type IVGen struct {
	Name string `xml:"name,attr"`
	Hash string `xml:"hash,attr"`
}

// check refuses what cannot be made, and words that a program could take for something else.
func (e *Encryption) check(volume string) error {
	switch {
	case e.Format != LUKS:
		return verr.New(verr.ConfigUnsupported, "volumes with encryption of format '%s' cannot be made: use luks", e.Format)
	case e.Secret == nil:
		return verr.New(verr.XMLError, "encryption of volume '%s' names no secret", volume)
	case e.Cipher == nil && e.IVGen != nil:
		return verr.New(verr.XMLError, "encryption of volume '%s' has an ivgen without a cipher", volume)
	case e.Cipher == nil:
		return nil
	}
	words := []string{e.Cipher.Name, e.Cipher.Mode, e.Cipher.Hash}
	if e.IVGen != nil {
		words = append(words, e.IVGen.Name, e.IVGen.Hash)
		if e.IVGen.Name == "" {
			return verr.New(verr.XMLError, "ivgen of volume '%s' has no name", volume)
		}
	}
	for _, w := range words {
		if strings.ContainsFunc(w, func(r rune) bool { return r != '-' && !unicode.IsDigit(r) && (r < 'a' || r > 'z') }) {
			return verr.New(verr.XMLError, "'%s' is no word for an encryption", w)
		}
	}
	if n, err := strconv.ParseUint(e.Cipher.Size, 10, 16); err != nil || n == 0 || e.Cipher.Name == "" {
		return verr.New(verr.XMLError, "cipher of volume '%s' must have a name and a size", volume)
	}
	return nil
}

// Qcow2 are the features of that format.
type Qcow2 struct {
	LazyRefcounts *struct{} `xml:"lazy_refcounts"`
	ExtendedL2    *struct{} `xml:"extended_l2"`
}

// Backing is what a volume is based on.
type Backing struct {
	Path   string  `xml:"path"`
	Format *Format `xml:"format"`
}

// units are the bytes of libvirt's units, in lower case.
var units = map[string]uint64{
	"": 1, "b": 1, "byte": 1, "bytes": 1, "kb": 1000, "k": 1 << 10, "kib": 1 << 10, "mb": 1e6, "m": 1 << 20, "mib": 1 << 20,
	"gb": 1e9, "g": 1 << 30, "gib": 1 << 30, "tb": 1e12, "t": 1 << 40, "tib": 1 << 40, "pb": 1e15, "p": 1 << 50, "pib": 1 << 50,
	"eb": 1e18, "e": 1 << 60, "eib": 1 << 60,
}

// bytes reads a size.
func (s *Size) bytes(what string) (uint64, error) {
	if s == nil {
		return 0, nil
	}
	unit, ok := units[strings.ToLower(s.Unit)]
	if !ok {
		return 0, verr.New(verr.InvalidArg, "unknown suffix '%s' of %s", s.Unit, what)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(s.Value), 10, 64)
	if err != nil {
		return 0, verr.New(verr.XMLError, "malformed %s element '%s'", what, s.Value)
	}
	if n > math.MaxInt64/unit {
		return 0, verr.New(verr.Overflow, "%s '%s' is too big", what, s.Value)
	}
	return n * unit, nil
}

// ParseVolume reads a definition and completes it: sizes, and the format, which is one of formats; the first is the default. A size that
// is not stated is from's; from is nil for an empty volume. What else the definition asks for is for NeedPlain or NeedImage to check.
func ParseVolume(text string, from *uint64, formats ...string) (*Volume, error) {
	return ParseVolumeNamed(text, from, CheckName, formats...)
}

// ParseVolumeNamed is ParseVolume for pools whose volumes have other names than files have: check refuses a name.
func ParseVolumeNamed(text string, from *uint64, check func(name string) error, formats ...string) (*Volume, error) {
	if err := domxml.Check(text, "volume"); err != nil {
		return nil, err
	}
	v := &Volume{}
	if err := xml.Unmarshal([]byte(text), v); err != nil {
		return nil, verr.New(verr.XMLError, "definition of volume: %w", err)
	}
	v.Name = strings.TrimSpace(v.Name)
	if err := check(v.Name); err != nil {
		return nil, err
	}
	if v.Backing != nil && v.Backing.Path == "" {
		v.Backing = nil
	}
	if err := v.sizes(from); err != nil {
		return nil, err
	}
	if v.Target.Format == nil || v.Target.Format.Type == "" || v.Target.Format.Type == "unknown" {
		v.Target.Format = &Format{formats[0]}
	}
	if f := v.Target.Format.Type; !slices.Contains(formats, f) {
		if !slices.Contains(VolumeFormats, f) {
			return nil, verr.New(verr.XMLError, "unknown volume format type %s", f)
		}
		return nil, verr.New(verr.ConfigUnsupported, "volumes of format '%s' cannot be made", f)
	}
	return v, v.Target.Permissions.check()
}

func (v *Volume) sizes(from *uint64) error {
	var err error
	if v.CapacityBytes, err = v.Capacity.bytes("capacity"); err != nil {
		return err
	}
	if v.AllocationBytes, err = v.Allocation.bytes("allocation"); err != nil {
		return err
	}
	if from != nil {
		v.CapacityBytes = max(v.CapacityBytes, *from)
	}
	if v.Capacity == nil && from == nil && v.Backing == nil {
		return verr.New(verr.XMLError, "missing capacity element")
	}
	if v.Whole = v.Allocation == nil; v.Whole {
		v.AllocationBytes = v.CapacityBytes
	}
	return nil
}

// NeedPlain refuses what only files with images in them can have.
func (v *Volume) NeedPlain() error {
	switch {
	case v.Target.Encryption != nil:
		return verr.New(verr.ConfigUnsupported, "volume '%s' cannot be encrypted in a pool of this type", v.Name)
	case v.Backing != nil:
		return verr.New(verr.ConfigUnsupported, "volume '%s' cannot have a backing store in a pool of this type", v.Name)
	}
	return nil
}

// NeedImage checks and completes what files with images in them can have.
func (v *Volume) NeedImage() error {
	t := &v.Target
	var err error
	if t.Cluster, err = t.ClusterSize.bytes("cluster size"); err != nil {
		return err
	}
	if t.Compat != "" && t.Compat != "0.10" && t.Compat != "1.1" {
		return verr.New(verr.XMLError, "forbidden characters in 'compat' attribute: '%s'", t.Compat)
	}
	if e := t.Encryption; e != nil {
		if err := e.check(v.Name); err != nil {
			return err
		}
		if t.Format.Type != Raw && t.Format.Type != QCOW2 {
			return verr.New(verr.ConfigUnsupported, "encryption of volumes of format '%s' is not supported", t.Format.Type)
		}
	}
	if v.Backing == nil {
		return nil
	}
	if !filepath.IsAbs(v.Backing.Path) {
		return verr.New(verr.ConfigUnsupported, "path '%s' of the backing store is not absolute", v.Backing.Path)
	}
	if v.Backing.Format == nil || v.Backing.Format.Type == "" {
		return verr.New(verr.ConfigUnsupported, "format of backing store '%s' is not stated, and is not guessed", v.Backing.Path)
	}
	if f := t.Format.Type; f != QCOW2 && f != "qcow" && f != "qed" {
		return verr.New(verr.ConfigUnsupported, "volumes of format '%s' have no backing store", f)
	}
	return nil
}

// CheckName refuses names that are no file's, or that nobody could show.
func CheckName(name string) error {
	odd := func(r rune) bool { return r == '/' || r == 0 || unicode.IsControl(r) || r == utf8.RuneError }
	switch {
	case name == "":
		return verr.New(verr.XMLError, "missing volume name element")
	case name == "." || name == ".." || len(name) > 255 || strings.ContainsFunc(name, odd):
		return verr.New(verr.XMLError, "'%s' is no name of a volume", name)
	}
	return nil
}
