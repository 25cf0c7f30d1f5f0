package cmdline

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

func threadName(id uint) string { return fmt.Sprintf("iothread%d", id) }

func (b *builder) disks() error {
	for i := range b.dev.Disks {
		if err := b.disk(&b.dev.Disks[i]); err != nil {
			return err
		}
	}
	return nil
}

// bootClass is the class of <os><boot> by the device attribute of a disk.
var bootClass = map[string]string{"disk": "hd", "lun": "hd", "cdrom": "cdrom", "floppy": "fd"}

func (b *builder) disk(k *libvirtxml.DomainDisk) error {
	node, err := b.diskNode(k)
	if err != nil {
		return err
	}
	p := props{"id": k.Alias.Name}
	p.set("drive", node)
	if err := b.diskDevice(p, k); err != nil {
		return err
	}
	if k.Target.Bus != "fdc" {
		b.setBoot(p, k.Boot, bootClass[k.Device])
	}
	if err := diskIdentity(p, k); err != nil {
		return err
	}
	if err := diskPolicies(p, k, node); err != nil {
		return err
	}
	return b.device(p)
}

// diskDevice sets the driver and the place of a disk.
func (b *builder) diskDevice(p props, k *libvirtxml.DomainDisk) error {
	if k.Device == "lun" && k.Target.Bus != "scsi" {
		return unsupported("disk device='lun' is not supported for bus='%s'", k.Target.Bus)
	}
	switch k.Target.Bus {
	case "virtio":
		return b.virtioDisk(p, k)
	case "scsi":
		return b.scsiDisk(p, k)
	case "ide", "sata":
		return b.ataDisk(p, k)
	case "usb":
		p["driver"] = "usb-storage"
		p["removable"] = k.Target.Removable == "on"
		return b.placeUSB(p, k.Address)
	case "fdc":
		p["driver"], p["unit"] = "floppy", deref(k.Address.Drive.Unit)
		return nil
	}
	return unsupported("disk bus '%s' is not supported", k.Target.Bus)
}

func (b *builder) virtioDisk(p props, k *libvirtxml.DomainDisk) error {
	p["driver"] = virtioName("virtio-blk", k.Model)
	if d := k.Driver; d != nil {
		p.set("num-queues", deref(d.Queues))
		p.set("queue-size", deref(d.QueueSize))
		if d.IOThread != nil {
			p["iothread"] = threadName(*d.IOThread)
		}
		if err := p.onOff("ioeventfd", d.IOEventFD); err != nil {
			return err
		}
		if err := p.onOff("event_idx", d.EventIDX); err != nil {
			return err
		}
		if err := virtio(p, d.IOMMU, d.ATS, d.Packed, d.PagePerVQ); err != nil {
			return err
		}
	}
	return b.place(p, k.Address)
}

// scsiDrivers are the SCSI devices by the device attribute of a disk.
var scsiDrivers = map[string]string{"disk": "scsi-hd", "cdrom": "scsi-cd", "lun": "scsi-block"}

func (b *builder) scsiDisk(p props, k *libvirtxml.DomainDisk) error {
	driver, ok := scsiDrivers[k.Device]
	if !ok {
		return unsupported("unsupported disk device '%s' on scsi", k.Device)
	}
	c, err := b.driveController(k)
	if err != nil {
		return err
	}
	a := k.Address.Drive
	p["driver"], p["bus"] = driver, c.Alias.Name+".0"
	if k.Device != "lun" {
		p["device_id"] = "drive-" + k.Alias.Name
		p.set("device_id", k.Serial)
	}
	if byUnit[c.Model] {
		p["scsi-id"] = deref(a.Unit)
		return nil
	}
	p["channel"], p["scsi-id"], p["lun"] = deref(a.Bus), deref(a.Target), deref(a.Unit)
	return nil
}

func (b *builder) ataDisk(p props, k *libvirtxml.DomainDisk) error {
	c, err := b.driveController(k)
	if err != nil {
		return err
	}
	p["driver"] = "ide-hd"
	if k.Device == "cdrom" {
		p["driver"] = "ide-cd"
	}
	a := k.Address.Drive
	if k.Target.Bus == "sata" {
		p["bus"] = fmt.Sprintf("%s.%d", c.Alias.Name, deref(a.Unit))
		return nil
	}
	p["bus"] = fmt.Sprintf("%s.%d", c.Alias.Name, deref(a.Bus))
	p["unit"] = deref(a.Unit)
	return nil
}

func (b *builder) driveController(k *libvirtxml.DomainDisk) (*libvirtxml.DomainController, error) {
	if k.Address != nil && k.Address.Drive != nil {
		for i := range b.dev.Controllers {
			c := &b.dev.Controllers[i]
			if c.Type == k.Target.Bus && deref(c.Index) == deref(k.Address.Drive.Controller) {
				return c, nil
			}
		}
	}
	return nil, verr.New(verr.Internal, "disk '%s' has no %s controller", k.Target.Dev, k.Target.Bus)
}

// diskIdentity sets what the guest sees of the disk's nature.
func diskIdentity(p props, k *libvirtxml.DomainDisk) error {
	p.set("serial", k.Serial)
	if k.WWN != "" {
		n, err := strconv.ParseUint(strings.TrimPrefix(k.WWN, "0x"), 16, 64)
		if err != nil || k.Target.Bus == "virtio" || k.Target.Bus == "usb" {
			return unsupported("wwn '%s' of disk '%s' is malformed or not supported by its bus", k.WWN, k.Target.Dev)
		}
		p["wwn"] = n
	}
	if k.Vendor != "" || k.Product != "" {
		if k.Target.Bus != "scsi" {
			return unsupported("Only scsi disk supports vendor and product")
		}
		p.set("vendor", k.Vendor)
		p.set("product", k.Product)
	}
	p.set("rotation_rate", k.Target.RotationRate)
	if g := k.Geometry; g != nil {
		p["cyls"], p["heads"], p["secs"] = g.Cylinders, g.Headers, g.Sectors
		if g.Trans != "" && k.Target.Bus == "ide" {
			p["bios-chs-trans"] = g.Trans
		}
	}
	if io := k.BlockIO; io != nil {
		p.set("logical_block_size", io.LogicalBlockSize)
		p.set("physical_block_size", io.PhysicalBlockSize)
		if io.DiscardGranularity != nil {
			p["discard_granularity"] = *io.DiscardGranularity
		}
	}
	if k.Shareable != nil && k.Target.Bus != "fdc" {
		p["share-rw"] = true
	}
	return nil
}

// diskPolicies sets what happens on errors and who caches writes.
func diskPolicies(p props, k *libvirtxml.DomainDisk, node string) error {
	d := k.Driver
	if d == nil {
		return nil
	}
	if c, ok := caches[d.Cache]; d.Cache != "" && d.Cache != "default" {
		if !ok {
			return unsupported("unsupported disk cache mode '%s'", d.Cache)
		}
		if k.Target.Bus != "fdc" && k.Device != "lun" {
			p["write-cache"] = onOff(c.writeback)
		}
	}
	write, read := d.ErrorPolicy, d.RErrorPolicy
	if write == "enospace" {
		write = "enospc"
	} else if read == "" {
		read = write
	}
	if k.Device == "lun" || node == "" {
		return nil
	}
	p.set("werror", write)
	p.set("rerror", read)
	return nil
}

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
