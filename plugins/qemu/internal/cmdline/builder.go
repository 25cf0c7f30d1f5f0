package cmdline

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// builder is the work on one command.
type builder struct {
	d    *libvirtxml.Domain // the live definition
	dev  *libvirtxml.DomainDeviceList
	plan Plan
	q35  bool
	cmd  *Command
	// boots are the boot indexes of the classes of device that <os><boot> names: taken by the first of each class.
	boots map[string]int
	// nodes counts block nodes.
	nodes uint
	// hot says that QEMU runs and is told by its monitor.
	hot bool
}

// props are the properties of a QEMU object as JSON. Keys with empty values are left out by set.
type props map[string]any

// set adds a property unless it is empty.
func (p props) set(key string, value any) {
	switch v := value.(type) {
	case string:
		if v == "" {
			return
		}
	case uint:
		if v == 0 {
			return
		}
	case nil:
		return
	}
	p[key] = value
}

// onOff adds a property that is "on" or "off" in both XML and QEMU, unless it is empty.
func (p props) onOff(key, value string) error {
	switch value {
	case "":
	case "on", "yes":
		p[key] = true
	case "off", "no":
		p[key] = false
	default:
		return verr.New(verr.XMLError, "invalid value '%s' for %s", value, key)
	}
	return nil
}

func (b *builder) arg(args ...string) { b.cmd.Args = append(b.cmd.Args, args...) }

func (b *builder) json(option string, p props) error {
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("write %s: %w", option, err)
	}
	b.arg(option, string(text))
	return nil
}

func (b *builder) device(p props) error { return b.json("-device", p) }

func (b *builder) object(p props) error { return b.json("-object", p) }

// escape doubles commas, as QEMU's option syntax wants it.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// maxSocket is the longest path of a unix socket on Linux, in bytes.
const maxSocket = 107

// socket returns the path of a socket in the runtime folder: the first name that fits.
func (b *builder) socket(names ...string) (string, error) {
	for _, name := range names {
		if p := filepath.Join(b.plan.RuntimeDir, name); len(p) <= maxSocket && filepath.Base(p) == name {
			return p, nil
		}
	}
	return "", verr.New(verr.Internal, "UNIX socket path '%s' too long: runtime folder leaves no room",
		filepath.Join(b.plan.RuntimeDir, names[len(names)-1]))
}

// place adds bus and addr of a PCI address.
func (b *builder) place(p props, a *libvirtxml.DomainAddress) error {
	if a == nil || a.PCI == nil || a.PCI.Slot == nil {
		return verr.New(verr.Internal, "device '%v' has no PCI address", p["id"])
	}
	x := a.PCI
	bus, err := b.pciBus(deref(x.Bus))
	if err != nil {
		return err
	}
	p["bus"] = bus
	p["addr"] = fmt.Sprintf("0x%x", *x.Slot)
	if f := deref(x.Function); f != 0 {
		p["addr"] = fmt.Sprintf("0x%x.0x%x", *x.Slot, f)
	}
	return p.onOff("multifunction", x.MultiFunction)
}

// pciBus names a PCI bus as QEMU does: by the alias of its controller.
func (b *builder) pciBus(index uint) (string, error) {
	for i := range b.dev.Controllers {
		if c := &b.dev.Controllers[i]; c.Type == "pci" && deref(c.Index) == index {
			return c.Alias.Name, nil
		}
	}
	return "", verr.New(verr.XMLError, "no PCI controller has index %d", index)
}

// placeUSB adds bus and port of a USB address.
func (b *builder) placeUSB(p props, a *libvirtxml.DomainAddress) error {
	if a == nil || a.USB == nil {
		return verr.New(verr.Internal, "device '%v' has no USB address", p["id"])
	}
	for i := range b.dev.Controllers {
		c := &b.dev.Controllers[i]
		if c.Type == "usb" && deref(c.Index) == deref(a.USB.Bus) {
			p["bus"] = c.Alias.Name + ".0"
			p["port"] = a.USB.Port
			return nil
		}
	}
	return verr.New(verr.XMLError, "no USB controller has index %d", deref(a.USB.Bus))
}

// virtio adds the properties that every virtio device has.
func virtio(p props, iommu, ats, packed, pagePerVQ string) error {
	for _, o := range []struct{ key, value string }{
		{"iommu_platform", iommu}, {"ats", ats}, {"packed", packed}, {"page-per-vq", pagePerVQ},
	} {
		if err := p.onOff(o.key, o.value); err != nil {
			return err
		}
	}
	return nil
}

// virtioName returns the device for a virtio model: NAME-pci, or one of its two variants.
func virtioName(name, model string) string {
	switch model {
	case "virtio-transitional":
		return name + "-pci-transitional"
	case "virtio-non-transitional":
		return name + "-pci-non-transitional"
	}
	return name + "-pci"
}

func deref[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}
