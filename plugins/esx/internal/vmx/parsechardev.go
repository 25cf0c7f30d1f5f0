package vmx

import (
	"fmt"
	"net/url"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// Numbers of ports that a machine can have.
const (
	maxSerials   = 32
	maxParallels = 3
)

// protocols are libvirt's protocols for the schemes of a serial port that goes through the network.
var protocols = map[string]string{
	"tcp": "raw", "tcp4": "raw", "tcp6": "raw", "telnet": "telnet", "telnets": "telnets",
	"ssl": "tls", "tcp+ssl": "tls", "tcp4+ssl": "tls", "tcp6+ssl": "tls",
}

func readSerials(r *reader, d *libvirtxml.Domain) {
	for n := range uint(maxSerials) {
		key := fmt.Sprintf("serial%d", n)
		if r.err != nil || !r.flag(key+".present", false) {
			continue
		}
		s := libvirtxml.DomainSerial{Target: &libvirtxml.DomainSerialTarget{Port: &n}}
		s.Source, s.Protocol = readChardev(r, key, true)
		d.Devices.Serials = append(d.Devices.Serials, s)
	}
	if len(d.Devices.Serials) == 0 {
		return
	}
	// libvirt shows the first serial port as the console, too.
	first := d.Devices.Serials[0]
	port := uint(0)
	d.Devices.Consoles = []libvirtxml.DomainConsole{{
		Source: first.Source, Protocol: first.Protocol, Target: &libvirtxml.DomainConsoleTarget{Type: "serial", Port: &port},
	}}
}

func readParallels(r *reader, d *libvirtxml.Domain) {
	for n := range uint(maxParallels) {
		key := fmt.Sprintf("parallel%d", n)
		if r.err != nil || !r.flag(key+".present", false) {
			continue
		}
		p := libvirtxml.DomainParallel{Target: &libvirtxml.DomainParallelTarget{Port: &n}}
		p.Source, _ = readChardev(r, key, false)
		d.Devices.Parallels = append(d.Devices.Parallels, p)
	}
}

// readChardev reads what is behind a port. Only serial ports can be pipes or go through the network.
func readChardev(r *reader, key string, serial bool) (*libvirtxml.DomainChardevSource, *libvirtxml.DomainChardevProtocol) {
	name := r.text(key + ".fileName")
	kind := strings.ToLower(r.text(key + ".fileType"))
	switch {
	case kind == "" || kind == "device":
		return &libvirtxml.DomainChardevSource{Dev: &libvirtxml.DomainChardevSourceDev{Path: name}}, nil
	case kind == "file":
		source := r.source(key+".fileName", r.must(key+".fileName"))
		return &libvirtxml.DomainChardevSource{File: &libvirtxml.DomainChardevSourceFile{Path: source}}, nil
	case kind == "pipe" && serial:
		return &libvirtxml.DomainChardevSource{Pipe: &libvirtxml.DomainChardevSourcePipe{Path: name}}, nil
	case kind == "network" && serial:
		return readRemote(r, key)
	case serial:
		r.expect(key+".fileType", "'device' or 'file' or 'pipe' or 'network'")
	default:
		r.expect(key+".fileType", "'device' or 'file'")
	}
	return nil, nil
}

// readRemote reads a port that goes through the network.
func readRemote(r *reader, key string) (*libvirtxml.DomainChardevSource, *libvirtxml.DomainChardevProtocol) {
	u, err := url.Parse(r.must(key + ".fileName"))
	if err != nil || u.Port() == "" {
		r.expect(key+".fileName", "a URI with a port")
		return nil, nil
	}
	protocol, ok := protocols[strings.ToLower(u.Scheme)]
	if !ok {
		r.expect(key+".fileName", "a URI of scheme tcp, telnet, telnets or ssl")
	}
	mode := "bind"
	switch strings.ToLower(r.text(key + ".network.endPoint")) {
	case "", "server":
	case "client":
		mode = "connect"
	default:
		r.expect(key+".network.endPoint", "'server' or 'client'")
	}
	tcp := &libvirtxml.DomainChardevSourceTCP{Mode: mode, Host: u.Hostname(), Service: u.Port()}
	return &libvirtxml.DomainChardevSource{TCP: tcp}, &libvirtxml.DomainChardevProtocol{Type: protocol}
}
