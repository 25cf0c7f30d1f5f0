package cmdline

import (
	"fmt"
	"path/filepath"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// cache is what a cache mode means to QEMU.
type cache struct{ writeback, direct, noFlush bool }

var caches = map[string]cache{
	"none": {true, true, false}, "writethrough": {false, false, false}, "writeback": {true, false, false},
	"directsync": {false, true, false}, "unsafe": {true, false, true},
}

// layer is one image of a chain.
type layer struct {
	path, format string
	block        bool
	readOnly     bool
	index        uint
}

// maxChain bounds the length of a backing chain.
const maxChain = 200

// diskNode writes the block nodes of a disk and returns the topmost one's name, or "" for an empty drive.
func (b *builder) diskNode(k *libvirtxml.DomainDisk) (string, error) {
	top, err := b.topLayer(k)
	if err != nil || top.path == "" {
		return "", err
	}
	chain, ends, err := b.chain(k, top)
	if err != nil {
		return "", err
	}
	for i := range chain {
		b.nodes++
		chain[i].index = b.nodes
	}
	b.showChain(k, chain, ends)
	for i := len(chain) - 1; i >= 0; i-- {
		backing := any(nil)
		if i+1 < len(chain) {
			backing = formatNode(chain[i+1])
		}
		if err := b.layer(k, chain[i], backing, i+1 < len(chain) || ends, i == 0); err != nil {
			return "", err
		}
	}
	node := formatNode(chain[0])
	if k.Driver != nil && k.Driver.CopyOnRead == "on" {
		if k.ReadOnly != nil {
			return "", unsupported("copy_on_read is not compatible with read-only disk '%s'", k.Target.Dev)
		}
		cor := "libvirt-CoR-" + k.Target.Dev
		p := props{"driver": "copy-on-read", "node-name": cor, "file": node, "discard": "unmap"}
		return cor, b.json("-blockdev", p)
	}
	return node, nil
}

func formatNode(l layer) string { return fmt.Sprintf("libvirt-%d-format", l.index) }

func (b *builder) topLayer(k *libvirtxml.DomainDisk) (layer, error) {
	path, block, err := sourcePath(k.Source, "disk '"+k.Target.Dev+"'")
	if resolved, ok := b.plan.Disks[k.Target.Dev]; ok {
		path, err = resolved, nil
	}
	if err != nil {
		return layer{}, err
	}
	if path == "" && k.Device != "cdrom" && k.Device != "floppy" {
		return layer{}, verr.New(verr.XMLError, "disk '%s' has no source", k.Target.Dev)
	}
	format := "raw"
	if k.Driver != nil && k.Driver.Type != "" {
		format = k.Driver.Type
	}
	return layer{path: path, block: block, format: format, readOnly: k.ReadOnly != nil}, nil
}

// sourcePath returns the path of a source that is a file or a block device, "" for none.
func sourcePath(s *libvirtxml.DomainDiskSource, what string) (path string, block bool, err error) {
	switch {
	case s == nil:
		return "", false, nil
	case s.File != nil:
		return s.File.File, false, nil
	case s.Block != nil:
		return s.Block.Dev, true, nil
	case s.Volume != nil:
		return "", false, unsupported("storage volume of %s was not resolved", what)
	}
	return "", false, nil
}

// withBacking are the formats whose images can have one below.
var withBacking = map[string]bool{"qcow2": true, "qcow": true, "qed": true, "vmdk": true}

// chain lists a disk's image and those below it. Ends says that it is known that nothing is below the last one.
func (b *builder) chain(k *libvirtxml.DomainDisk, top layer) (chain []layer, ends bool, err error) {
	chain = []layer{top}
	if k.BackingStore != nil {
		return b.declaredChain(k, chain)
	}
	for withBacking[chain[len(chain)-1].format] && b.plan.Images != nil {
		last := chain[len(chain)-1]
		below, err := b.plan.Images.Backing(last.path, last.format)
		if err != nil {
			return nil, false, fmt.Errorf("read backing chain of disk %q: %w", k.Target.Dev, err)
		}
		if below == nil {
			return chain, true, nil
		}
		if len(chain) == maxChain {
			return nil, false, verr.New(verr.OperationFailed, "backing chain of disk '%s' is too deep", k.Target.Dev)
		}
		format := below.Format
		if format == "" {
			format = "raw"
		}
		chain = append(chain, layer{path: below.Path, format: format, block: below.Block, readOnly: true})
	}
	return chain, withBacking[chain[len(chain)-1].format] && b.plan.Images != nil, nil
}

// isEnd reports whether a backing store is the empty one that ends a chain.
func isEnd(s *libvirtxml.DomainDiskBackingStore) bool {
	if s.Source == nil || s.Format != nil {
		return s.Source == nil
	}
	path, _, err := sourcePath(s.Source, "")
	return path == "" && err == nil
}

func (b *builder) declaredChain(k *libvirtxml.DomainDisk, chain []layer) ([]layer, bool, error) {
	for s := k.BackingStore; !isEnd(s); s = s.BackingStore {
		path, block, err := sourcePath(s.Source, "backing store of disk '"+k.Target.Dev+"'")
		if err != nil {
			return nil, false, err
		}
		if s.Format == nil {
			return nil, false, verr.New(verr.XMLError, "backing store of disk '%s' has no format", k.Target.Dev)
		}
		chain = append(chain, layer{path: path, block: block, format: s.Format.Type, readOnly: true})
		if s.BackingStore == nil {
			return chain, false, nil
		}
		if len(chain) > maxChain {
			return nil, false, verr.New(verr.OperationFailed, "backing chain of disk '%s' is too deep", k.Target.Dev)
		}
	}
	return chain, withBacking[chain[len(chain)-1].format], nil
}

// showChain writes the chain into the live definition.
func (b *builder) showChain(k *libvirtxml.DomainDisk, chain []layer, ends bool) {
	if k.Source == nil {
		k.Source = &libvirtxml.DomainDiskSource{}
	}
	k.Source.Index = chain[0].index
	if len(chain) == 1 && !ends && k.BackingStore == nil {
		return
	}
	var below *libvirtxml.DomainDiskBackingStore
	if ends {
		below = &libvirtxml.DomainDiskBackingStore{}
	}
	for i := len(chain) - 1; i > 0; i-- {
		s := &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: chain[i].path}}
		if chain[i].block {
			s = &libvirtxml.DomainDiskSource{Block: &libvirtxml.DomainDiskSourceBlock{Dev: chain[i].path}}
		}
		below = &libvirtxml.DomainDiskBackingStore{
			Index: chain[i].index, Source: s, BackingStore: below,
			Format: &libvirtxml.DomainDiskFormat{Type: chain[i].format},
		}
	}
	k.BackingStore = below
}

// layer writes the two nodes of one image: how it is stored, and how it is read.
func (b *builder) layer(k *libvirtxml.DomainDisk, l layer, backing any, knowsBacking, top bool) error {
	d := k.Driver
	if d == nil {
		d = &libvirtxml.DomainDiskDriver{}
	}
	storage := fmt.Sprintf("libvirt-%d-storage", l.index)
	s := props{
		"driver": "file", "filename": l.path, "node-name": storage, "auto-read-only": true, "discard": "unmap",
	}
	if l.block {
		s["driver"] = "host_device"
		if k.Device == "cdrom" && isDrive(l.path) {
			s["driver"] = "host_cdrom"
		}
	}
	f := props{"node-name": formatNode(l), "read-only": l.readOnly, "driver": l.format, "file": storage}
	if c, ok := caches[d.Cache]; ok {
		s["cache"] = props{"direct": c.direct, "no-flush": c.noFlush}
		f["cache"] = props{"direct": c.direct, "no-flush": c.noFlush}
	}
	s.set("aio", d.IO)
	f.set("discard", d.Discard)
	if top {
		f.set("detect-zeroes", detectZeroes(d))
	}
	if knowsBacking && withBacking[l.format] {
		f["backing"] = backing
	}
	if err := b.json("-blockdev", s); err != nil {
		return err
	}
	return b.json("-blockdev", f)
}

// isDrive reports whether a block device is an optical drive by its name, as Linux gives it.
func isDrive(path string) bool {
	base := filepath.Base(path)
	return strings.HasPrefix(base, "sr") || strings.HasPrefix(base, "cdrom") || strings.HasPrefix(base, "dvd")
}

// detectZeroes returns what happens to written zeroes: unmapping them needs discard to be passed on.
func detectZeroes(d *libvirtxml.DomainDiskDriver) string {
	if d.DetectZeros == "unmap" && d.Discard != "unmap" {
		return "on"
	}
	return d.DetectZeros
}
