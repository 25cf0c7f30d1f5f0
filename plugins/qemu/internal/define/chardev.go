package define

import (
	"fmt"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/address"
)

// serialModels are the model that libvirt gives to a serial port by its target type.
var serialModels = map[string]string{
	"isa-serial": "isa-serial", "pci-serial": "pci-serial", "usb-serial": "usb-serial", "isa-debug": "isa-debugcon",
}

func completeChardevs(c *completion) error {
	if err := c.pairConsole(); err != nil {
		return err
	}
	for i := range c.dev.Serials {
		if err := completeSerial(&c.dev.Serials[i]); err != nil {
			return err
		}
	}
	numberSerials(c.dev.Serials)
	if err := uniqueSerialPorts(c.dev.Serials); err != nil {
		return err
	}
	if len(c.dev.Consoles) == 0 && len(c.dev.Serials) > 0 {
		c.dev.Consoles = []libvirtxml.DomainConsole{{}}
	}
	for i := range c.dev.Consoles {
		completeConsole(&c.dev.Consoles[i], uint(i))
	}
	if len(c.dev.Serials) > 0 && c.dev.Consoles[0].Target.Type == "serial" {
		first := c.dev.Serials[0]
		k := &c.dev.Consoles[0]
		k.Source, k.Protocol, k.Log = first.Source, first.Protocol, first.Log
		k.Target.Port = first.Target.Port
	}
	for i := range c.dev.Parallels {
		p := &c.dev.Parallels[i]
		if p.Target == nil {
			p.Target = &libvirtxml.DomainParallelTarget{}
		}
		if p.Target.Port == nil {
			p.Target.Port = new(uint(i))
		}
		completeSource(&p.Source, &p.Protocol)
	}
	for i := range c.dev.Channels {
		if err := c.completeChannel(&c.dev.Channels[i]); err != nil {
			return err
		}
	}
	return nil
}

// pairConsole makes the serial port that a first console of type serial stands for.
func (c *completion) pairConsole() error {
	for i, k := range c.dev.Consoles {
		serial := k.Target == nil || k.Target.Type == "" || k.Target.Type == "serial"
		switch {
		case !serial:
		case i > 0:
			return unsupported("Only the first console can be a serial port")
		case len(c.dev.Serials) == 0:
			c.dev.Serials = []libvirtxml.DomainSerial{{Source: k.Source, Protocol: k.Protocol, Log: k.Log, Alias: k.Alias}}
		}
	}
	return nil
}

func completeSerial(s *libvirtxml.DomainSerial) error {
	if s.Target == nil {
		s.Target = &libvirtxml.DomainSerialTarget{}
	}
	t := s.Target
	if t.Type == "" || t.Type == "serial" {
		t.Type = serialTargetOf(s.Address)
	}
	model, ok := serialModels[t.Type]
	if !ok {
		return unsupported("serial target type '%s' is not supported", t.Type)
	}
	if t.Model == nil {
		t.Model = &libvirtxml.DomainSerialTargetModel{}
	}
	orDefault(&t.Model.Name, model)
	if t.Model.Name != model {
		return unsupported("Target model '%s' requires a target type other than '%s'", t.Model.Name, t.Type)
	}
	completeSource(&s.Source, &s.Protocol)
	return nil
}

// serialTargetOf picks the kind of serial port that fits an explicit address.
func serialTargetOf(a *libvirtxml.DomainAddress) string {
	switch {
	case a != nil && a.PCI != nil:
		return "pci-serial"
	case a != nil && a.USB != nil:
		return "usb-serial"
	}
	return "isa-serial"
}

// numberSerials gives each port without a number one that is free: the lowest that no port has.
func numberSerials(serials []libvirtxml.DomainSerial) {
	taken := map[uint]bool{}
	for i := range serials {
		if p := serials[i].Target.Port; p != nil {
			taken[*p] = true
		}
	}
	next := uint(0)
	for i := range serials {
		if serials[i].Target.Port != nil {
			continue
		}
		for taken[next] {
			next++
		}
		taken[next] = true
		serials[i].Target.Port = new(next)
	}
}

func uniqueSerialPorts(serials []libvirtxml.DomainSerial) error {
	seen := map[string]bool{}
	for _, s := range serials {
		if s.Target.Type == "isa-serial" && *s.Target.Port > 3 {
			return unsupported("Maximum supported number of ISA serial ports is 4")
		}
		key := fmt.Sprint(s.Target.Type, *s.Target.Port)
		if s.Target.Type == "isa-serial" && seen[key] {
			return malformed("target port [%d] already allocated", *s.Target.Port)
		}
		seen[key] = true
	}
	return nil
}

func completeConsole(k *libvirtxml.DomainConsole, index uint) {
	if k.Target == nil {
		k.Target = &libvirtxml.DomainConsoleTarget{}
	}
	orDefault(&k.Target.Type, "serial")
	if k.Target.Port == nil {
		k.Target.Port = new(index)
	}
	completeSource(&k.Source, &k.Protocol)
}

// completeSource makes a character device without a source a pty, and gives tcp its protocol.
func completeSource(s **libvirtxml.DomainChardevSource, p **libvirtxml.DomainChardevProtocol) {
	if *s == nil || **s == (libvirtxml.DomainChardevSource{}) {
		*s = &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}}
	}
	if (*s).TCP != nil && *p == nil {
		*p = &libvirtxml.DomainChardevProtocol{Type: "raw"}
	}
}

func (c *completion) completeChannel(ch *libvirtxml.DomainChannel) error {
	t := ch.Target
	if t == nil || (t.VirtIO == nil && t.GuestFWD == nil && t.Xen == nil) {
		return malformed("target type must be specified for channel device")
	}
	if t.Xen != nil {
		return unsupported("channel target type 'xen' is not supported")
	}
	if t.GuestFWD != nil && (t.GuestFWD.Address == "" || t.GuestFWD.Port == "") {
		return malformed("guestfwd channel does not define a target address and port")
	}
	completeSource(&ch.Source, &ch.Protocol)
	if t.VirtIO == nil {
		return nil
	}
	t.VirtIO.State = ""
	if u := ch.Source.UNIX; u != nil {
		if u.Path == "" {
			u.Mode = ""
		} else {
			orDefault(&u.Mode, "bind")
		}
	}
	return nil
}

// portsPerSerialController is how many ports a virtio-serial controller has unless it says otherwise.
const portsPerSerialController = 31

// assignSerialPorts gives a port of a virtio-serial controller to each channel and virtio console.
func assignSerialPorts(c *completion) error {
	controllers, top := c.serialControllers()
	reserve := func(a *libvirtxml.DomainAddress, first uint, name string) (*libvirtxml.DomainAddress, error) {
		if a != nil && a.VirtioSerial == nil {
			return nil, unsupported("unsupported address type for %s", name)
		}
		if a != nil && deref(a.VirtioSerial.Port) != 0 {
			vs := a.VirtioSerial
			p := controllers[deref(vs.Controller)]
			if p == nil {
				return nil, malformed("virtio serial controller %d of %s is missing", deref(vs.Controller), name)
			}
			if err := p.Reserve(*vs.Port, name); err != nil {
				return nil, malformed("virtio serial %w", err)
			}
			return serialAddress(deref(vs.Controller), *vs.Port), nil
		}
		for i := uint(0); i <= top; i++ {
			if p := controllers[i]; p != nil && (a == nil || a.VirtioSerial.Controller == nil ||
				*a.VirtioSerial.Controller == i) {
				p.First = first
				if port, ok := p.Next(name); ok {
					return serialAddress(i, port), nil
				}
			}
		}
		return nil, malformed("Unable to find a free virtio-serial port for %s", name)
	}
	return c.eachSerialPort(reserve)
}

// eachSerialPort calls reserve for the explicit addresses first, then for the rest. Port 0 is for consoles only, and the
// address of a console is not shown unless the definition has it.
func (c *completion) eachSerialPort(
	reserve func(a *libvirtxml.DomainAddress, first uint, name string) (*libvirtxml.DomainAddress, error),
) error {
	for _, explicit := range []bool{true, false} {
		for i := range c.dev.Channels {
			ch := &c.dev.Channels[i]
			if ch.Target.VirtIO == nil || hasPort(ch.Address) != explicit {
				continue
			}
			a, err := reserve(ch.Address, 1, fmt.Sprintf("channel '%s'", ch.Target.VirtIO.Name))
			if err != nil {
				return err
			}
			if !explicit {
				ch.Address = a
			}
		}
		for i := range c.dev.Consoles {
			k := &c.dev.Consoles[i]
			if k.Target.Type != "virtio" || k.Address == nil || hasPort(k.Address) != explicit {
				continue
			}
			a, err := reserve(k.Address, 0, fmt.Sprintf("console %d", i))
			if err != nil {
				return err
			}
			if !explicit {
				k.Address = a
			}
		}
	}
	return nil
}

func hasPort(a *libvirtxml.DomainAddress) bool {
	return a != nil && a.VirtioSerial != nil && deref(a.VirtioSerial.Port) != 0
}

func serialAddress(controller, port uint) *libvirtxml.DomainAddress {
	return &libvirtxml.DomainAddress{VirtioSerial: &libvirtxml.DomainAddressVirtioSerial{
		Controller: new(controller), Bus: new(uint(0)), Port: new(port),
	}}
}

func (c *completion) serialControllers() (map[uint]*address.Ports, uint) {
	controllers, top := map[uint]*address.Ports{}, uint(0)
	for i := range c.dev.Controllers {
		ctl := &c.dev.Controllers[i]
		if ctl.Type != "virtio-serial" {
			continue
		}
		last := uint(portsPerSerialController) - 1
		if ctl.VirtIOSerial != nil && deref(ctl.VirtIOSerial.Ports) > 0 {
			last = min(*ctl.VirtIOSerial.Ports, 1<<16) - 1
		}
		controllers[*ctl.Index] = &address.Ports{First: 1, Last: last}
		top = max(top, *ctl.Index)
	}
	return controllers, top
}
