package vmx

import (
	"fmt"
	"net"
	"net/url"

	"libvirt.org/go/libvirtxml"
)

// schemes are the schemes of libvirt's protocols.
var schemes = map[string]string{"": "tcp", "raw": "tcp", "telnet": "telnet", "telnets": "telnets", "tls": "ssl"}

func writeSerials(w *writer, d *libvirtxml.Domain) {
	for i := range d.Devices.Serials {
		s := &d.Devices.Serials[i]
		port := uint(i)
		if s.Target != nil && s.Target.Port != nil {
			port = *s.Target.Port
		}
		if port >= maxSerials {
			w.unsupported("Serial port index %d out of [0..%d] range", port, maxSerials-1)
			return
		}
		key := fmt.Sprintf("serial%d", port)
		w.set(key+".present", true)
		writeChardev(w, key, s.Source, s.Protocol, true)
		w.set(key+".yieldOnMsrRead", true)
	}
}

func writeParallels(w *writer, d *libvirtxml.Domain) {
	for i := range d.Devices.Parallels {
		p := &d.Devices.Parallels[i]
		port := uint(i)
		if p.Target != nil && p.Target.Port != nil {
			port = *p.Target.Port
		}
		if port >= maxParallels {
			w.unsupported("Parallel port index %d out of [0..%d] range", port, maxParallels-1)
			return
		}
		key := fmt.Sprintf("parallel%d", port)
		w.set(key+".present", true)
		writeChardev(w, key, p.Source, p.Protocol, false)
	}
}

func writeChardev(w *writer, key string, s *libvirtxml.DomainChardevSource, protocol *libvirtxml.DomainChardevProtocol, serial bool) {
	switch {
	case s != nil && s.Dev != nil:
		w.set(key+".fileType", "device")
		w.set(key+".fileName", s.Dev.Path)
	case s != nil && s.File != nil:
		w.set(key+".fileType", "file")
		w.set(key+".fileName", w.source(key, s.File.Path))
	case s != nil && s.Pipe != nil && serial:
		w.set(key+".fileType", "pipe")
		// libvirt's pipes do not tell what is at the other end; this takes it to be a machine that serves the pipe.
		w.set(key+".pipe.endPoint", "client")
		w.set(key+".tryNoRxLoss", false)
		w.set(key+".fileName", s.Pipe.Path)
	case s != nil && s.TCP != nil && serial:
		writeRemote(w, key, s.TCP, protocol)
	default:
		w.unsupported("Unsupported character device type of %s", key)
	}
}

// writeRemote writes a serial port that goes through the network.
func writeRemote(w *writer, key string, s *libvirtxml.DomainChardevSourceTCP, protocol *libvirtxml.DomainChardevProtocol) {
	name := ""
	if protocol != nil {
		name = protocol.Type
	}
	scheme, ok := schemes[name]
	if !ok {
		w.unsupported("Unsupported character device TCP protocol '%s' of %s", name, key)
		return
	}
	endPoint := "client"
	if s.Mode == "bind" {
		endPoint = "server"
	}
	u := &url.URL{Scheme: scheme, Host: net.JoinHostPort(s.Host, s.Service)}
	if again, err := url.Parse(u.String()); err != nil || again.Hostname() != s.Host || again.Port() != s.Service || s.Service == "" {
		w.unsupported("Unsupported host '%s' or service '%s' of %s, expecting a name or address and a port's number", s.Host, s.Service, key)
		return
	}
	w.set(key+".fileType", "network")
	w.set(key+".fileName", u.String())
	w.set(key+".network.endPoint", endPoint)
}
