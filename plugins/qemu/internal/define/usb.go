package define

import (
	"fmt"
	"strconv"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/address"
)

// hubPorts is the number of ports of QEMU's USB hub.
const hubPorts = 8

// usbDevice is one device that wants a USB port.
type usbDevice struct {
	name string
	hub  bool
	addr **libvirtxml.DomainAddress
}

// usbDevices lists the devices with a USB port in the order in which they get one.
func (c *completion) usbDevices() []usbDevice {
	var list []usbDevice
	add := func(addr **libvirtxml.DomainAddress, hub bool, format string, args ...any) {
		if *addr == nil || (*addr).USB != nil {
			list = append(list, usbDevice{fmt.Sprintf(format, args...), hub, addr})
		}
	}
	for i := range c.dev.Hubs {
		add(&c.dev.Hubs[i].Address, true, "hub %d", i)
	}
	for i := range c.dev.Disks {
		if k := &c.dev.Disks[i]; k.Target.Bus == "usb" {
			add(&k.Address, false, "%s", diskName(k))
		}
	}
	for i := range c.dev.Inputs {
		if in := &c.dev.Inputs[i]; in.Bus == "usb" {
			add(&in.Address, false, "USB %s %d", in.Type, i)
		}
	}
	for i := range c.dev.Interfaces {
		if n := &c.dev.Interfaces[i]; n.Model != nil && n.Model.Type == "usb-net" {
			add(&n.Address, false, "network interface %s", n.MAC.Address)
		}
	}
	for i := range c.dev.Sounds {
		if s := &c.dev.Sounds[i]; s.Model == "usb" {
			add(&s.Address, false, "USB sound card %d", i)
		}
	}
	for i := range c.dev.Serials {
		if s := &c.dev.Serials[i]; s.Target.Type == "usb-serial" {
			add(&s.Address, false, "USB serial port %d", i)
		}
	}
	for i := range c.dev.Hostdevs {
		if h := &c.dev.Hostdevs[i]; h.SubsysUSB != nil {
			add(&h.Address, false, "USB host device %d", i)
		}
	}
	for i := range c.dev.RedirDevs {
		add(&c.dev.RedirDevs[i].Address, false, "redirected device %d", i)
	}
	return list
}

// assignUSB gives a port to each USB device, with hubs added where the controllers have too few.
func assignUSB(c *completion) error {
	devices := c.usbDevices()
	if len(devices) == 0 {
		return nil
	}
	buses := c.usbBuses()
	if len(buses) == 0 {
		return unsupported("Can't add %s: USB is disabled for this domain", devices[0].name)
	}
	free := 0
	for _, b := range buses {
		free += b.Free()
	}
	if free += hubPorts * len(c.dev.Hubs); free < len(devices) {
		for range (len(devices) - free + hubPorts - 2) / (hubPorts - 1) {
			c.dev.Hubs = append(c.dev.Hubs, libvirtxml.DomainHub{Type: "usb"})
		}
		devices = c.usbDevices()
	}
	return placeUSB(buses, devices)
}

func placeUSB(buses map[uint]*address.USBBus, devices []usbDevice) error {
	for _, explicit := range []bool{true, false} {
		for _, d := range devices {
			has := *d.addr != nil && (*d.addr).USB.Port != ""
			if has != explicit {
				continue
			}
			bus, port, err := placeOne(buses, d)
			if err != nil {
				return err
			}
			if d.hub {
				buses[bus].AddHub(port, hubPorts)
			}
			if !has {
				*d.addr = &libvirtxml.DomainAddress{USB: &libvirtxml.DomainAddressUSB{Bus: new(bus), Port: port}}
			}
		}
	}
	return nil
}

func placeOne(buses map[uint]*address.USBBus, d usbDevice) (bus uint, port string, err error) {
	if *d.addr != nil {
		want := (*d.addr).USB
		bus = deref(want.Bus)
		if buses[bus] == nil {
			return 0, "", malformed("cannot find USB bus %d of %s: no USB controller has that index", bus, d.name)
		}
		if want.Port != "" {
			if err := buses[bus].Reserve(want.Port, d.name); err != nil {
				return 0, "", malformed("%w", err)
			}
			return bus, want.Port, nil
		}
	}
	for i := range uint(len(usbModels) * maxImplicit) {
		if b := buses[i]; b != nil && (*d.addr == nil || (*d.addr).USB.Bus == nil || i == bus) {
			if port, ok := b.Next(d.name); ok {
				return i, port, nil
			}
		}
	}
	return 0, "", unsupported("no USB port is available for %s", d.name)
}

func (c *completion) usbBuses() map[uint]*address.USBBus {
	buses := map[uint]*address.USBBus{}
	for _, ctl := range c.dev.Controllers {
		if ctl.Type != "usb" || ctl.Model == "none" || (ctl.USB != nil && ctl.USB.Master != nil) {
			continue
		}
		ports := usbModels[ctl.Model]
		if ctl.USB != nil && deref(ctl.USB.Port) > 0 && strings.HasSuffix(ctl.Model, "xhci") {
			ports = *ctl.USB.Port
		}
		buses[*ctl.Index] = address.NewUSBBus(ports)
	}
	return buses
}

func utoa(n uint) string { return strconv.FormatUint(uint64(n), 10) }
