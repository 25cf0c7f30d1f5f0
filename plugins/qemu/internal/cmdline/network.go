package cmdline

import (
	"net"
	"net/url"
	"strconv"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// protocols write what reads an image over a network, see BlockdevOptions in QEMU's qapi/block-core.json.
var protocols = map[string]func(*builder, layer, props) error{
	"rbd": (*builder).rbd, "iscsi": (*builder).iscsi, "nbd": (*builder).nbd, "sheepdog": (*builder).sheepdog,
	"http": (*builder).curl, "https": (*builder).curl, "ftp": (*builder).curl, "ftps": (*builder).curl,
}

// ports are where the servers of a protocol listen that names none.
var protocolPorts = map[string]string{
	"iscsi": "3260", "nbd": "10809", "sheepdog": "7000", "http": "80", "https": "443", "ftp": "21", "ftps": "990", "rbd": "6789",
}

// network writes the properties of the node that reads an image over a network.
func (b *builder) network(l layer, p props) error {
	n := l.source.Network
	write := protocols[n.Protocol]
	if write == nil {
		return unsupported("disks over protocol '%s' are not supported by this driver yet", n.Protocol)
	}
	if n.TLS == "yes" {
		return unsupported("TLS to the server of a disk over protocol '%s' is not supported by this driver yet", n.Protocol)
	}
	p["driver"] = n.Protocol
	return write(b, l, p)
}

// authenticate makes the secret of a node and sets its user.
func (b *builder) authenticate(l layer, p props, user, secret string) error {
	ref, ok := domxml.AuthSecret(l.auth)
	if !ok {
		return nil
	}
	id := storageNode(l) + authSecret
	p[user], p[secret] = l.auth.Username, id
	return b.secret(id, ref)
}

func (b *builder) rbd(l layer, p props) error {
	n := l.source.Network
	pool, image, _ := strings.Cut(n.Name, "/")
	snapshot := ""
	if n.Snapshot != nil {
		snapshot = n.Snapshot.Name
	} else {
		image, snapshot, _ = strings.Cut(image, "@")
	}
	if space, rest, ok := strings.Cut(image, "/"); ok {
		p["namespace"], image = space, rest
	}
	p["pool"], p["image"] = pool, image
	p.set("snapshot", snapshot)
	if n.Config != nil {
		p.set("conf", n.Config.File)
	}
	var servers []props
	for _, h := range n.Hosts {
		servers = append(servers, props{"host": h.Name, "port": portOf(n, h)})
	}
	if servers != nil {
		p["server"] = servers
	}
	if l.auth != nil {
		p["auth-client-required"] = []string{"cephx", "none"}
	}
	return b.authenticate(l, p, "user", "key-secret")
}

func (b *builder) iscsi(l layer, p props) error {
	n := l.source.Network
	h, err := onlyHost(n)
	if err != nil {
		return err
	}
	target, lun, found := strings.Cut(n.Name, "/")
	number := uint64(0)
	if found {
		if number, err = strconv.ParseUint(lun, 10, 31); err != nil {
			return verr.New(verr.XMLError, "failed to parse target and lun of iSCSI disk '%s': %w", n.Name, err)
		}
	}
	p["portal"], p["target"], p["lun"], p["transport"] = net.JoinHostPort(h.Name, portOf(n, h)), target, number, "tcp"
	switch h.Transport {
	case "", "tcp":
	case "rdma":
		p["transport"] = "iser"
	default:
		return unsupported("transport '%s' is not supported for iSCSI disk '%s'", h.Transport, n.Name)
	}
	if i := n.Initiator; i != nil && i.IQN != nil {
		p.set("initiator-name", i.IQN.Name)
	}
	return b.authenticate(l, p, "user", "password-secret")
}

func (b *builder) nbd(l layer, p props) error {
	n := l.source.Network
	h, err := onlyHost(n)
	if err != nil {
		return err
	}
	switch h.Transport {
	case "", "tcp":
		p["server"] = props{"type": "inet", "host": h.Name, "port": portOf(n, h)}
	case "unix":
		p["server"] = props{"type": "unix", "path": h.Socket}
	default:
		return unsupported("transport '%s' is not supported for NBD disk '%s'", h.Transport, n.Name)
	}
	p.set("export", n.Name)
	if n.Reconnect != nil {
		delay, err := strconv.ParseUint(n.Reconnect.Delay, 10, 32)
		if err != nil {
			return verr.New(verr.XMLError, "invalid reconnect delay of NBD disk '%s': %w", n.Name, err)
		}
		p["reconnect-delay"] = delay
	}
	return nil
}

// noSheepdog is the version of QEMU whose block driver for sheepdog is gone.
const noSheepdog = 6_000_000

func (b *builder) sheepdog(l layer, p props) error {
	n := l.source.Network
	if b.plan.Env.Version >= noSheepdog {
		return unsupported("sheepdog disk '%s' is not supported by this QEMU: its block driver was removed in QEMU 6.0", n.Name)
	}
	h := libvirtxml.DomainDiskSourceHost{Name: "localhost"}
	if len(n.Hosts) > 0 {
		var err error
		if h, err = onlyHost(n); err != nil {
			return err
		}
	}
	p["server"], p["vdi"] = props{"type": "inet", "host": h.Name, "port": portOf(n, h)}, n.Name
	return nil
}

func (b *builder) curl(l layer, p props) error {
	n := l.source.Network
	h, err := onlyHost(n)
	if err != nil {
		return err
	}
	address := url.URL{
		Scheme: n.Protocol, Host: net.JoinHostPort(h.Name, portOf(n, h)), Path: "/" + strings.TrimPrefix(n.Name, "/"), RawQuery: n.Query,
	}
	p["url"] = address.String()
	if s := l.source.SSL; s != nil && s.Verify == "no" {
		p["sslverify"] = false
	}
	if r := l.source.Readahead; r != nil {
		if p["readahead"], err = strconv.ParseUint(r.Size, 10, 32); err != nil {
			return verr.New(verr.XMLError, "invalid readahead size '%s': %w", r.Size, err)
		}
	}
	if t := l.source.Timeout; t != nil {
		if p["timeout"], err = strconv.ParseUint(t.Seconds, 10, 32); err != nil {
			return verr.New(verr.XMLError, "invalid timeout '%s': %w", t.Seconds, err)
		}
	}
	if err := b.cookies(l, p); err != nil {
		return err
	}
	return b.authenticate(l, p, "username", "password-secret")
}

// cookies are secrets: who has one is taken for whom it was given to.
func (b *builder) cookies(l layer, p props) error {
	c := l.source.Cookies
	if c == nil || len(c.Cookies) == 0 {
		return nil
	}
	var list []string
	for _, one := range c.Cookies {
		list = append(list, one.Name+"="+one.Value)
	}
	id := storageNode(l) + cookieSecret
	p["cookie-secret"] = id
	return b.secretObject(id, []byte(strings.Join(list, "; ")))
}

// onlyHost returns the one host of a source whose protocol knows no more.
func onlyHost(n *libvirtxml.DomainDiskSourceNetwork) (libvirtxml.DomainDiskSourceHost, error) {
	if len(n.Hosts) != 1 {
		return libvirtxml.DomainDiskSourceHost{}, unsupported("protocol '%s' accepts only one host", n.Protocol)
	}
	return n.Hosts[0], nil
}

func portOf(n *libvirtxml.DomainDiskSourceNetwork, h libvirtxml.DomainDiskSourceHost) string {
	if h.Port != "" && h.Port != "0" {
		return h.Port
	}
	return protocolPorts[n.Protocol]
}
