package cmdline

import (
	"fmt"
	"net/netip"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

func (b *builder) interfaces() error {
	for i := range b.dev.Interfaces {
		if err := b.card(&b.dev.Interfaces[i], i); err != nil {
			return err
		}
	}
	return nil
}

// card writes an interface, the host's side first.
func (b *builder) card(n *libvirtxml.DomainInterface, index int) error {
	host := "host" + n.Alias.Name
	backend, err := b.netdev(n, index)
	if err != nil {
		return err
	}
	backend["id"] = host
	if err := b.json("-netdev", backend); err != nil {
		return err
	}
	p, err := b.nic(n)
	if err != nil {
		return err
	}
	p["netdev"] = host
	if err := b.device(p); err != nil {
		return err
	}
	if n.Link != nil && n.Link.State == "down" {
		b.cmd.LinksDown = append(b.cmd.LinksDown, n.Alias.Name)
	}
	return nil
}

// noNetwork are the kinds of interface that only a network driver can connect.
var noNetwork = []struct {
	is   func(*libvirtxml.DomainInterfaceSource) bool
	name string
}{
	{func(s *libvirtxml.DomainInterfaceSource) bool { return s.Network != nil }, "network"},
	{func(s *libvirtxml.DomainInterfaceSource) bool { return s.Bridge != nil }, "bridge"},
	{func(s *libvirtxml.DomainInterfaceSource) bool { return s.Direct != nil }, "direct"},
	{func(s *libvirtxml.DomainInterfaceSource) bool { return s.Hostdev != nil }, "hostdev"},
	{func(s *libvirtxml.DomainInterfaceSource) bool { return s.VHostUser != nil }, "vhostuser"},
	{func(s *libvirtxml.DomainInterfaceSource) bool { return s.VDPA != nil }, "vdpa"},
	{func(s *libvirtxml.DomainInterfaceSource) bool { return s.Internal != nil }, "internal"},
	{func(s *libvirtxml.DomainInterfaceSource) bool { return s.VDS != nil }, "vds"},
	{func(s *libvirtxml.DomainInterfaceSource) bool { return s.Null != nil }, "null"},
}

// netdev returns the host's side of an interface.
func (b *builder) netdev(n *libvirtxml.DomainInterface, index int) (props, error) {
	s := n.Source
	if s == nil {
		return nil, unsupported("interface %s has no source", n.MAC.Address)
	}
	for _, kind := range noNetwork {
		if kind.is(s) {
			return nil, unsupported("interface type '%s' is not supported: no network driver serves it", kind.name)
		}
	}
	if n.Backend != nil && n.Backend.Type != "" && n.Backend.Type != "default" {
		return nil, unsupported("interface backend '%s' is not supported", n.Backend.Type)
	}
	switch {
	case s.User != nil:
		return userNet(n)
	case s.Ethernet != nil:
		return b.tap(n, index), nil
	case s.Client != nil:
		return props{"type": "socket", "connect": hostPort(s.Client.Address, s.Client.Port)}, nil
	case s.Server != nil:
		return props{"type": "socket", "listen": hostPort(s.Server.Address, s.Server.Port)}, nil
	case s.MCast != nil:
		return props{"type": "socket", "mcast": hostPort(s.MCast.Address, s.MCast.Port)}, nil
	case s.UDP != nil && s.UDP.Local != nil:
		return props{
			"type": "socket", "udp": hostPort(s.UDP.Address, s.UDP.Port),
			"localaddr": hostPort(s.UDP.Local.Address, s.UDP.Local.Port),
		}, nil
	}
	return nil, unsupported("interface type of %s is not supported", n.MAC.Address)
}

func hostPort(host string, port uint) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("%s:%d", host, port)
}

func userNet(n *libvirtxml.DomainInterface) (props, error) {
	p := props{"type": "user"}
	if n.Source.User.Dev != "" {
		return nil, unsupported("a source device is not supported for user-mode networking")
	}
	for _, ip := range n.IP {
		addr, err := netip.ParseAddr(ip.Address)
		if err != nil {
			return nil, verr.New(verr.XMLError, "invalid address '%s' of interface %s", ip.Address, n.MAC.Address)
		}
		if addr.Is4() {
			prefix := netip.PrefixFrom(addr, int(ip.Prefix))
			if ip.Prefix == 0 {
				prefix = netip.PrefixFrom(addr, 24)
			}
			if !prefix.IsValid() {
				return nil, verr.New(verr.XMLError, "invalid prefix %d of interface %s", ip.Prefix, n.MAC.Address)
			}
			p["net"] = prefix.String()
			continue
		}
		p["ipv6-prefix"] = addr.String()
		p["ipv6-prefixlen"] = max(ip.Prefix, 1)
		if ip.Prefix == 0 {
			p["ipv6-prefixlen"] = 64
		}
	}
	forwards, err := hostForwards(n.PortForward)
	if err != nil {
		return nil, err
	}
	if len(forwards) > 0 {
		p["hostfwd"] = forwards
	}
	return p, nil
}

// maxForwards bounds the ports that one interface forwards.
const maxForwards = 1024

func hostForwards(list []libvirtxml.DomainInterfaceSourcePortForward) ([]props, error) {
	var out []props
	for _, f := range list {
		if f.Dev != "" || (f.Proto != "tcp" && f.Proto != "udp") {
			return nil, unsupported("port forwarding of protocol '%s' or from a device is not supported", f.Proto)
		}
		for _, r := range f.Ranges {
			if r.Exclude == "yes" {
				return nil, unsupported("excluded ranges of port forwarding are not supported")
			}
			end, to := max(r.End, r.Start), r.To
			if to == 0 {
				to = r.Start
			}
			if end > 65535 || to+end-r.Start > 65535 || r.Start == 0 {
				return nil, verr.New(verr.XMLError, "port of a <portForward> range is out of range")
			}
			for port := r.Start; port <= end; port++ {
				if len(out) == maxForwards {
					return nil, unsupported("more than %d forwarded ports are not supported", maxForwards)
				}
				rule := fmt.Sprintf("%s:%s:%d-:%d", f.Proto, f.Address, port, to+port-r.Start)
				out = append(out, props{"str": rule})
			}
		}
	}
	return out, nil
}

// tap connects to a tap that QEMU inherits, or that it opens by its name.
func (b *builder) tap(n *libvirtxml.DomainInterface, index int) props {
	p := props{"type": "tap"}
	if n.Driver != nil && n.Driver.Name == "vhost" {
		p["vhost"] = true
	}
	if b.plan.TapName != "" {
		p["fd"] = b.plan.TapName
		return p
	}
	if fd, ok := b.plan.TapFDs[index]; ok {
		p["fd"] = fmt.Sprint(fd)
		return p
	}
	if n.Target == nil {
		n.Target = &libvirtxml.DomainInterfaceTarget{}
	}
	if n.Target.Dev == "" {
		n.Target.Dev = fmt.Sprintf("vnet%d-%d", b.plan.ID, index)
	}
	p["ifname"], p["script"], p["downscript"] = n.Target.Dev, "no", "no"
	return p
}

// nicDrivers are QEMU's network cards by libvirt's model, where they differ; others are passed on if they look like a name.
var nicDrivers = map[string]string{
	"virtio": "virtio-net-pci", "virtio-transitional": "virtio-net-pci-transitional",
	"virtio-non-transitional": "virtio-net-pci-non-transitional", "rtl8139": "rtl8139", "e1000": "e1000",
	"e1000e": "e1000e", "e1000-82544gc": "e1000-82544gc", "e1000-82545em": "e1000-82545em", "ne2k_pci": "ne2k_pci",
	"pcnet": "pcnet", "vmxnet3": "vmxnet3", "i82550": "i82550", "i82551": "i82551", "i82557a": "i82557a",
	"i82557b": "i82557b", "i82557c": "i82557c", "i82558a": "i82558a", "i82558b": "i82558b", "i82559a": "i82559a",
	"i82559b": "i82559b", "i82559c": "i82559c", "i82559er": "i82559er", "i82562": "i82562", "i82801": "i82801",
	"usb-net": "usb-net", "tulip": "tulip",
}

// nic returns the guest's side of an interface.
func (b *builder) nic(n *libvirtxml.DomainInterface) (props, error) {
	if n.Model == nil {
		return nil, unsupported("interface %s has no model", n.MAC.Address)
	}
	driver, ok := nicDrivers[n.Model.Type]
	if !ok {
		return nil, unsupported("network interface model '%s' is not supported", n.Model.Type)
	}
	p := props{"driver": driver, "id": n.Alias.Name, "mac": n.MAC.Address}
	b.setBoot(p, n.Boot, "network")
	if n.MTU != nil && strings.HasPrefix(n.Model.Type, "virtio") {
		p.set("host_mtu", n.MTU.Size)
	}
	if n.ROM != nil {
		if n.ROM.Enabled == "no" {
			p["romfile"] = ""
		} else if n.ROM.File != nil {
			p["romfile"] = *n.ROM.File
		}
		switch n.ROM.Bar {
		case "on":
			p["rombar"] = 1
		case "off":
			p["rombar"] = 0
		}
	}
	if err := b.nicDriver(p, n); err != nil {
		return nil, err
	}
	if n.Model.Type == "usb-net" {
		return p, b.placeUSB(p, n.Address)
	}
	return p, b.place(p, n.Address)
}

func (b *builder) nicDriver(p props, n *libvirtxml.DomainInterface) error {
	d := n.Driver
	if d == nil {
		return nil
	}
	if d.Queues > 1 {
		return unsupported("several queues of interface %s are not supported", n.MAC.Address)
	}
	p.set("rx_queue_size", d.RXQueueSize)
	p.set("tx_queue_size", d.TXQueueSize)
	if d.TXMode != "" {
		p["tx"] = map[string]string{"iothread": "bh", "timer": "timer"}[d.TXMode]
	}
	for _, o := range []struct{ key, value string }{{"ioeventfd", d.IOEventFD}, {"event_idx", d.EventIDX}} {
		if err := p.onOff(o.key, o.value); err != nil {
			return err
		}
	}
	if err := offloads(p, d); err != nil {
		return err
	}
	return virtio(p, d.IOMMU, d.ATS, d.Packed, d.PagePerVQ)
}

// offloads sets which work the card may leave to the host and to the guest.
func offloads(p props, d *libvirtxml.DomainInterfaceDriver) error {
	var list []struct{ key, value string }
	if h := d.Host; h != nil {
		list = append(list, []struct{ key, value string }{
			{"csum", h.CSum},
			{"gso", h.GSO},
			{"host_tso4", h.TSO4},
			{"host_tso6", h.TSO6},
			{"host_ecn", h.ECN},
			{"host_ufo", h.UFO},
			{"mrg_rxbuf", h.MrgRXBuf},
		}...)
	}
	if g := d.Guest; g != nil {
		list = append(list, []struct{ key, value string }{
			{"guest_csum", g.CSum},
			{"guest_tso4", g.TSO4},
			{"guest_tso6", g.TSO6},
			{"guest_ecn", g.ECN},
			{"guest_ufo", g.UFO},
		}...)
	}
	for _, o := range list {
		if err := p.onOff(o.key, o.value); err != nil {
			return err
		}
	}
	return nil
}
