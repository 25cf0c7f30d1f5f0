package cmdline

import (
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// chardev describes one character device of a guest.
type chardev struct {
	id       string
	source   *libvirtxml.DomainChardevSource
	protocol *libvirtxml.DomainChardevProtocol
	log      *libvirtxml.DomainChardevLog
	// spice is the name of the channel if it is a channel of SPICE.
	spice string
}

func (b *builder) chardev(c chardev) error {
	if b.hot {
		return b.hotChardev(c)
	}
	o, err := backend(c)
	if err != nil {
		return err
	}
	if c.log != nil && c.log.File != "" {
		o.add("logfile=" + escape(c.log.File))
		if c.log.Append != "" {
			o.add("logappend=" + c.log.Append)
		}
	}
	b.arg("-chardev", o.String())
	return nil
}

// hotChardev describes a character device as the monitor wants it.
func (b *builder) hotChardev(c chardev) error {
	kind, data := "", props{}
	switch s := c.source; {
	case c.log != nil && c.log.File != "":
	case s == nil, s.Pty != nil:
		kind = "pty"
	case s.Null != nil:
		kind = "null"
	case s.SpiceVMC != nil:
		kind, data["type"] = "spicevmc", c.spice
	case s.UNIX != nil:
		server := s.UNIX.Mode != "connect"
		kind, data["server"] = "socket", server
		data["addr"] = props{"type": "unix", "data": props{"path": s.UNIX.Path}}
		if server {
			data["wait"] = false
		} else if r := s.UNIX.Reconnect; r != nil && r.Enabled == "yes" {
			data["reconnect"] = deref(r.Timeout)
		}
	}
	if kind == "" {
		return verr.New(verr.OperationUnsupported, "character device '%s' is of a type that cannot be plugged in later", c.id)
	}
	return b.json("-chardev", props{"id": c.id, "backend": props{"type": kind, "data": data}})
}

func backend(c chardev) (options, error) {
	s, id := c.source, "id="+c.id
	switch {
	case s == nil, s.Pty != nil:
		return options{"pty", id}, nil
	case s.Null != nil:
		return options{"null", id}, nil
	case s.VC != nil:
		return options{"vc", id}, nil
	case s.File != nil:
		o := options{"file", id, "path=" + escape(s.File.Path)}
		if s.File.Append != "" {
			o.add("append=" + s.File.Append)
		}
		return o, nil
	case s.Dev != nil:
		return options{"serial", id, "path=" + escape(s.Dev.Path)}, nil
	case s.Pipe != nil:
		return options{"pipe", id, "path=" + escape(s.Pipe.Path)}, nil
	case s.UNIX != nil:
		o := options{"socket", id, "path=" + escape(s.UNIX.Path)}
		return listenOrConnect(o, s.UNIX.Mode, s.UNIX.Reconnect), nil
	case s.TCP != nil:
		return tcpChardev(c)
	case s.UDP != nil:
		return udpChardev(id, s.UDP), nil
	case s.SpiceVMC != nil:
		return options{"spicevmc", id, "name=" + c.spice}, nil
	case s.SpicePort != nil:
		return options{"spiceport", id, "name=" + escape(s.SpicePort.Channel)}, nil
	case s.StdIO != nil:
		return nil, unsupported("character device type 'stdio' is not supported: a guest has no terminal of its own")
	}
	return nil, unsupported("type of character device '%s' is not supported", c.id)
}

func listenOrConnect(o options, mode string, r *libvirtxml.DomainChardevSourceReconnect) options {
	if mode != "connect" {
		o.add("server=on", "wait=off")
		return o
	}
	if r != nil && r.Enabled == "yes" {
		o.add(fmt.Sprintf("reconnect=%d", deref(r.Timeout)))
	}
	return o
}

func tcpChardev(c chardev) (options, error) {
	t := c.source.TCP
	if t.TLS == "yes" {
		return nil, unsupported("TLS for character device '%s' is not supported", c.id)
	}
	o := options{"socket", "id=" + c.id, "host=" + escape(t.Host), "port=" + escape(t.Service)}
	if c.protocol != nil {
		switch c.protocol.Type {
		case "", "raw":
		case "telnet":
			o.add("telnet=on")
		default:
			return nil, unsupported("protocol '%s' of character device '%s' is not supported", c.protocol.Type, c.id)
		}
	}
	return listenOrConnect(o, t.Mode, t.Reconnect), nil
}

func udpChardev(id string, u *libvirtxml.DomainChardevSourceUDP) options {
	host := u.ConnectHost
	if host == "" {
		host = "127.0.0.1"
	}
	local, port := u.BindHost, u.BindService
	if port == "" {
		port = "0"
	}
	return options{
		"udp", id, "host=" + escape(host), "port=" + escape(u.ConnectService), "localaddr=" + escape(local),
		"localport=" + escape(port),
	}
}

func (b *builder) serials() error {
	for i := range b.dev.Serials {
		s := &b.dev.Serials[i]
		id := s.Alias.Name
		if err := b.chardev(chardev{id: "char" + id, source: s.Source, protocol: s.Protocol, log: s.Log}); err != nil {
			return err
		}
		p := props{"driver": s.Target.Model.Name, "chardev": "char" + id, "id": id}
		switch s.Target.Type {
		case "isa-serial":
			p["index"] = deref(s.Target.Port)
			if a := s.Address; a != nil && a.ISA != nil {
				p.set("iobase", deref(a.ISA.IOBase))
				p.set("irq", deref(a.ISA.IRQ))
			}
		case "isa-debug":
			p["iobase"] = uint(0x402)
			if s.Address != nil && s.Address.ISA != nil {
				p["iobase"] = deref(s.Address.ISA.IOBase)
			}
		case "pci-serial":
			if err := b.place(p, s.Address); err != nil {
				return err
			}
		case "usb-serial":
			if err := b.placeUSB(p, s.Address); err != nil {
				return err
			}
		}
		if err := b.device(p); err != nil {
			return err
		}
	}
	for i := range b.dev.Parallels {
		s := &b.dev.Parallels[i]
		id := s.Alias.Name
		if s.Source != nil && s.Source.Dev != nil {
			return unsupported("a parallel port on a host device is not supported")
		}
		if err := b.chardev(chardev{id: "char" + id, source: s.Source, protocol: s.Protocol, log: s.Log}); err != nil {
			return err
		}
		if err := b.device(props{"driver": "isa-parallel", "chardev": "char" + id, "id": id}); err != nil {
			return err
		}
	}
	return nil
}

// guestAgent is the name of the port that QEMU's guest agent listens on, spiceAgent that of SPICE's.
const (
	guestAgent = "org.qemu.guest_agent.0"
	spiceAgent = "com.redhat.spice.0"
)

func (b *builder) channels() error {
	for i := range b.dev.Channels {
		if err := b.channel(&b.dev.Channels[i]); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) channel(c *libvirtxml.DomainChannel) error {
	if c.Target.GuestFWD != nil {
		return unsupported("channel target type 'guestfwd' is not supported")
	}
	t := c.Target.VirtIO
	if u := c.Source.UNIX; u != nil && u.Path == "" {
		path, err := b.socket(t.Name, c.Alias.Name)
		if err != nil {
			return err
		}
		u.Path, u.Mode = path, "bind"
	}
	if t.Name == guestAgent && c.Source.UNIX != nil {
		b.cmd.Agent = c.Source.UNIX.Path
	}
	portName := t.Name
	if c.Source.SpiceVMC != nil && portName == "" {
		portName = spiceAgent
	}
	id := c.Alias.Name
	err := b.chardev(chardev{
		id: "char" + id, source: c.Source, protocol: c.Protocol, log: c.Log, spice: "vdagent",
	})
	if err != nil {
		return err
	}
	p := props{"driver": "virtserialport", "chardev": "char" + id, "id": id}
	p.set("name", portName)
	if err := b.serialPort(p, c.Address); err != nil {
		return err
	}
	if err := b.device(p); err != nil {
		return err
	}
	if c.Source.UNIX != nil || c.Source.SpiceVMC != nil {
		t.State = "disconnected"
	}
	return nil
}

// serialPort adds the bus and number of a port of a virtio-serial controller.
func (b *builder) serialPort(p props, a *libvirtxml.DomainAddress) error {
	if a == nil || a.VirtioSerial == nil {
		return verr.New(verr.Internal, "device '%v' has no virtio-serial address", p["id"])
	}
	for i := range b.dev.Controllers {
		c := &b.dev.Controllers[i]
		if c.Type == "virtio-serial" && deref(c.Index) == deref(a.VirtioSerial.Controller) {
			p["bus"], p["nr"] = c.Alias.Name+".0", deref(a.VirtioSerial.Port)
			return nil
		}
	}
	return verr.New(verr.XMLError, "virtio serial controller %d is missing", deref(a.VirtioSerial.Controller))
}

func (b *builder) consoles() error {
	for i := range b.dev.Consoles {
		if isSerialConsole(b.dev, i) {
			continue
		}
		c := &b.dev.Consoles[i]
		id := c.Alias.Name
		if c.Target.Type != "virtio" {
			return unsupported("unsupported console target type %s", c.Target.Type)
		}
		if err := b.chardev(chardev{id: "char" + id, source: c.Source, protocol: c.Protocol, log: c.Log}); err != nil {
			return err
		}
		p := props{"driver": "virtconsole", "chardev": "char" + id, "id": id}
		if c.Address != nil && c.Address.VirtioSerial != nil {
			if err := b.serialPort(p, c.Address); err != nil {
				return err
			}
		}
		if err := b.device(p); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) redirs() error {
	for i := range b.dev.RedirDevs {
		r := &b.dev.RedirDevs[i]
		if r.Bus != "usb" {
			return unsupported("redirected devices on bus '%s' are not supported", r.Bus)
		}
		id := r.Alias.Name
		c := chardev{id: "char" + id, source: r.Source, protocol: r.Protocol, spice: "usbredir"}
		if err := b.chardev(c); err != nil {
			return err
		}
		p := props{"driver": "usb-redir", "chardev": "char" + id, "id": id}
		if r.Boot != nil {
			p["bootindex"] = r.Boot.Order
		}
		if rule := redirFilter(b.dev.RedirFilters); rule != "" {
			p["filter"] = rule
		}
		if err := b.placeUSB(p, r.Address); err != nil {
			return err
		}
		if err := b.device(p); err != nil {
			return err
		}
	}
	return nil
}

// redirFilter writes the rules for redirected devices as usb-redir reads them.
func redirFilter(filters []libvirtxml.DomainRedirFilter) string {
	var rules []string
	field := func(n *uint) string {
		if n == nil {
			return "-1"
		}
		return fmt.Sprintf("0x%04X", *n)
	}
	for _, f := range filters {
		for _, u := range f.USB {
			class, version := "-1", "-1"
			if u.Class != nil {
				class = fmt.Sprintf("0x%02X", *u.Class)
			}
			if u.Version != "" {
				version = "0x" + strings.ReplaceAll(fmt.Sprintf("%5s", u.Version), ".", "")
				version = strings.ReplaceAll(version, " ", "0")
			}
			allow := "0"
			if u.Allow == "yes" {
				allow = "1"
			}
			rules = append(rules, strings.Join([]string{class, field(u.Vendor), field(u.Product), version, allow}, ":"))
		}
	}
	return strings.Join(rules, "|")
}
