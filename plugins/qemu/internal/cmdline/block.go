package cmdline

import (
	"fmt"
	"path/filepath"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/domxml"
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
	// path is that of a file or, with block, of a device; empty for an image elsewhere.
	path, format string
	block        bool
	readOnly     bool
	index        uint
	// source is what the definition says of the image, nil for one that was found below another; auth and encryption go with it.
	source     *libvirtxml.DomainDiskSource
	auth       *libvirtxml.DomainDiskAuth
	encryption *libvirtxml.DomainDiskEncryption
}

// remote reports whether the image is read over a network.
func (l layer) remote() bool { return l.path == "" && l.source != nil && l.source.Network != nil }

// none reports whether there is no image.
func (l layer) none() bool { return l.path == "" && !l.remote() }

// maxChain bounds the length of a backing chain.
const maxChain = 200

// diskNode writes the block nodes of a disk and returns the topmost one's name, or "" for an empty drive.
func (b *builder) diskNode(k *libvirtxml.DomainDisk) (string, error) {
	top, err := b.topLayer(k)
	if err != nil || top.none() {
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

// formatNode and storageNode are the nodes of an image: how it is read, and how it is stored.
func formatNode(l layer) string { return fmt.Sprintf("libvirt-%d-format", l.index) }

func storageNode(l layer) string { return fmt.Sprintf("libvirt-%d-storage", l.index) }

func (b *builder) topLayer(k *libvirtxml.DomainDisk) (layer, error) {
	l, err := layerOf(k.Source, "disk '"+k.Target.Dev+"'")
	if err != nil {
		return layer{}, err
	}
	if l.none() && k.Device != "cdrom" && k.Device != "floppy" {
		return layer{}, verr.New(verr.XMLError, "disk '%s' has no source", k.Target.Dev)
	}
	l.format, l.readOnly = "raw", k.ReadOnly != nil
	if k.Driver != nil && k.Driver.Type != "" {
		l.format = k.Driver.Type
	}
	l.auth, l.encryption = domxml.DiskAuth(k), domxml.DiskEncryption(k)
	return l, nil
}

// layerOf reads a source. One that names a volume has what that stands for beside the names.
func layerOf(s *libvirtxml.DomainDiskSource, what string) (layer, error) {
	l := layer{source: s}
	switch {
	case s == nil:
		return l, nil
	case s.File != nil:
		l.path = s.File.File
	case s.Block != nil:
		l.path, l.block = s.Block.Dev, true
	case s.Network != nil:
		l.auth = s.Network.Auth
	case s.Volume != nil && domxml.HasSource(s):
		return l, unsupported("storage volume of %s was not resolved", what)
	}
	l.encryption = s.Encryption
	return l, nil
}

// withBacking are the formats whose images can have one below.
var withBacking = map[string]bool{"qcow2": true, "qcow": true, "qed": true, "vmdk": true}

// chain lists a disk's image and those below it. Ends says that it is known that nothing is below the last one.
func (b *builder) chain(k *libvirtxml.DomainDisk, top layer) (chain []layer, ends bool, err error) {
	chain = []layer{top}
	if k.BackingStore != nil {
		return b.declaredChain(k, chain)
	}
	// What an image says of the one below can be read here only where the image is here; else QEMU reads it.
	for withBacking[chain[len(chain)-1].format] && b.plan.Images != nil && !chain[len(chain)-1].remote() {
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
	return chain, false, nil
}

// isEnd reports whether a backing store is the empty one that ends a chain.
func isEnd(s *libvirtxml.DomainDiskBackingStore) bool {
	if s.Source == nil || s.Format != nil {
		return s.Source == nil
	}
	l, err := layerOf(s.Source, "")
	return l.none() && err == nil
}

func (b *builder) declaredChain(k *libvirtxml.DomainDisk, chain []layer) ([]layer, bool, error) {
	for s := k.BackingStore; !isEnd(s); s = s.BackingStore {
		l, err := layerOf(s.Source, "backing store of disk '"+k.Target.Dev+"'")
		if err != nil {
			return nil, false, err
		}
		if s.Format == nil {
			return nil, false, verr.New(verr.XMLError, "backing store of disk '%s' has no format", k.Target.Dev)
		}
		l.format, l.readOnly = s.Format.Type, true
		chain = append(chain, l)
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
		switch {
		case chain[i].source != nil:
			s = chain[i].source
		case chain[i].block:
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
	s := props{"node-name": storageNode(l), "auto-read-only": true, "discard": "unmap"}
	if err := b.storage(k, l, s); err != nil {
		return err
	}
	f := props{"node-name": formatNode(l), "read-only": l.readOnly, "driver": l.format, "file": storageNode(l)}
	if err := b.encryption(l, s, f); err != nil {
		return err
	}
	if c, ok := caches[d.Cache]; ok {
		s["cache"] = props{"direct": c.direct, "no-flush": c.noFlush}
		f["cache"] = props{"direct": c.direct, "no-flush": c.noFlush}
	}
	if !l.remote() {
		s.set("aio", d.IO)
	}
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

// storage writes how an image is stored.
func (b *builder) storage(k *libvirtxml.DomainDisk, l layer, s props) error {
	if l.remote() {
		return b.network(l, s)
	}
	s["driver"], s["filename"] = "file", l.path
	if l.block {
		s["driver"] = "host_device"
		if k.Device == "cdrom" && isDrive(l.path) {
			s["driver"] = "host_cdrom"
		}
	}
	return nil
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
