package define

import (
	"reflect"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// plugs are the kinds of device that can be plugged into a living guest, and how each is completed once it is in the list.
var plugs = map[string]func(*completion, any) error{
	"disk":       func(c *completion, v any) error { return c.plugDisk(v.(*libvirtxml.DomainDisk)) },
	"interface":  func(c *completion, _ any) error { return completeInterfaces(c) },
	"controller": func(c *completion, v any) error { return c.plugController(v.(*libvirtxml.DomainController)) },
	"rng":        func(c *completion, _ any) error { return c.rngs() },
	"input":      func(c *completion, v any) error { return c.plugInput(v.(*libvirtxml.DomainInput)) },
	"channel":    func(c *completion, v any) error { return c.plugChannel(v.(*libvirtxml.DomainChannel)) },
	"lease":      func(*completion, any) error { return nil },
}

// CanPlug reports whether devices of a kind can be plugged into a living guest, and out of it.
func CanPlug(kind string) bool { return plugs[kind] != nil }

// Plug adds a device to the definition of a living guest and completes it as Complete does, but on the buses that there are: no other device
// changes. It returns what is new in the order in which it is to be plugged in, controllers that the device needs first; all of it points
// into d. What cannot be plugged in is refused with verr.OperationUnsupported.
func Plug(d *libvirtxml.Domain, dev domxml.Device, env Env) ([]domxml.Device, error) {
	complete := plugs[dev.Kind]
	if complete == nil {
		return nil, verr.New(verr.OperationUnsupported, "live attach of device '%s' is not supported", dev.Kind)
	}
	c := &completion{d: d, dev: d.Devices, env: env, q35: IsQ35(d.OS.Type.Machine)}
	controllers := len(c.dev.Controllers)
	forgetDevice(reflect.ValueOf(dev.Value).Elem())
	added, err := domxml.AddDevice(c.dev, dev)
	if err != nil {
		return nil, err
	}
	if err := complete(c, added.Value); err != nil {
		return nil, err
	}
	for _, assign := range []step{assignDrives, (*completion).plugControllers, assignSerialPorts, plugUSB, plugPCI, check} {
		if err := assign(c); err != nil {
			return nil, err
		}
	}
	var news []domxml.Device
	for i := controllers; i < len(c.dev.Controllers); i++ {
		news = append(news, domxml.Device{Kind: "controller", Value: &c.dev.Controllers[i]})
	}
	if dev.Kind == "controller" {
		return news, nil
	}
	return append(news, c.last(dev)), nil
}

// last finds the device that was added: disks are sorted, all others are behind those of their kind.
func (c *completion) last(dev domxml.Device) domxml.Device {
	all := domxml.Devices(c.dev)
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Kind != dev.Kind {
			continue
		}
		k, ok := all[i].Value.(*libvirtxml.DomainDisk)
		if !ok || k.Target.Dev == dev.Value.(*libvirtxml.DomainDisk).Target.Dev {
			return all[i]
		}
	}
	return domxml.Device{}
}

// HotBus reports whether disks on a bus can be plugged into a living guest, and out of it.
func HotBus(bus string) bool { return hotBuses[bus] }

// hotBuses are the buses of disks that a guest can be given while it lives.
var hotBuses = map[string]bool{"virtio": true, "scsi": true, "usb": true}

func (c *completion) plugDisk(k *libvirtxml.DomainDisk) error {
	if k.Source != nil {
		k.Source.Index = 0
	}
	if err := c.completeDisk(k); err != nil {
		return err
	}
	switch bus := k.Target.Bus; {
	case (k.Device == "cdrom" || k.Device == "floppy") && bus != "scsi" && bus != "usb":
		return verr.New(verr.OperationUnsupported, "cdrom/floppy device hotplug isn't supported")
	case !hotBuses[bus]:
		return verr.New(verr.OperationUnsupported, "disk bus '%s' cannot be hotplugged.", bus)
	}
	return c.sortDisks()
}

// hotControllers are the types of controller that a guest can be given.
var hotControllers = map[string]bool{"scsi": true, "usb": true, "virtio-serial": true}

func (c *completion) plugController(ctl *libvirtxml.DomainController) error {
	if !hotControllers[ctl.Type] {
		return verr.New(verr.OperationUnsupported, "'%s' controller cannot be hotplugged.", ctl.Type)
	}
	if err := c.numberControllers(); err != nil {
		return err
	}
	if err := c.completeController(ctl); err != nil {
		return err
	}
	return c.checkControllers()
}

// plugControllers adds the controllers that a disk or a channel needs.
func (c *completion) plugControllers() error {
	before := len(c.dev.Controllers)
	c.addDiskControllers()
	c.addSerialControllers()
	for i := before; i < len(c.dev.Controllers); i++ {
		if ctl := &c.dev.Controllers[i]; hotControllers[ctl.Type] {
			if err := c.completeController(ctl); err != nil {
				return err
			}
			continue
		}
		return verr.New(verr.OperationUnsupported, "'%s' controller cannot be hotplugged.", c.dev.Controllers[i].Type)
	}
	return nil
}

func (c *completion) plugInput(in *libvirtxml.DomainInput) error {
	if in.Bus == "" {
		in.Bus = defaultInputBus(in)
	}
	if in.Bus != "usb" && in.Bus != "virtio" {
		return verr.New(verr.OperationUnsupported, "input device on bus '%s' cannot be hot plugged.", in.Bus)
	}
	return completeInputs(c)
}

func (c *completion) plugChannel(ch *libvirtxml.DomainChannel) error {
	if err := c.completeChannel(ch); err != nil {
		return err
	}
	if ch.Target.VirtIO == nil {
		return verr.New(verr.OperationUnsupported, "only channels of type 'virtio' can be hot plugged")
	}
	return nil
}

// plugUSB gives a port to a new USB device.
func plugUSB(c *completion) error {
	devices := c.usbDevices()
	buses := c.usbBuses()
	if len(devices) > 0 && len(buses) == 0 {
		return unsupported("Can't add %s: USB is disabled for this domain", devices[0].name)
	}
	return placeUSB(buses, devices)
}

// plugPCI gives an address to a new PCI device.
func plugPCI(c *completion) error {
	_, places, missing, err := c.placePCI()
	if err != nil {
		return err
	}
	if missing != 0 {
		return verr.New(verr.Internal, "No more available PCI slots")
	}
	return c.commitPCI(places)
}
