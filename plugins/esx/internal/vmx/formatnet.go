package vmx

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func writeInterfaces(w *writer, d *libvirtxml.Domain) {
	if len(d.Devices.Interfaces) > maxInterfaces {
		w.unsupported("Network interface index %d out of [0..%d] range", len(d.Devices.Interfaces)-1, maxInterfaces-1)
		return
	}
	for n := range d.Devices.Interfaces {
		key, nic := fmt.Sprintf("ethernet%d", n), &d.Devices.Interfaces[n]
		w.set(key+".present", true)
		if nic.Model != nil && nic.Model.Type != "" {
			writeNICModel(w, key, strings.ToLower(nic.Model.Type))
		}
		writeConnection(w, key, nic)
		writeMAC(w, key, nic.MAC)
	}
}

func writeNICModel(w *writer, key, model string) {
	if model == "vmxnet2" {
		w.set(key+".virtualDev", "vmxnet")
		w.set(key+".features", vmxnet2Features)
		return
	}
	if !slices.Contains(nicModels, model) {
		w.unsupported("Expecting domain XML entry 'devices/interface/model' to be 'vlance' or 'vmxnet' or 'vmxnet2' or 'vmxnet3' or 'e1000' or 'e1000e' but found '%s'",
			model)
	}
	w.set(key+".virtualDev", model)
}

func writeConnection(w *writer, key string, nic *libvirtxml.DomainInterface) {
	s := nic.Source
	switch {
	case s == nil:
		w.fail(verr.New(verr.XMLError, "missing attribute 'type' of element <interface>"))
	case s.Bridge != nil && nic.VirtualPort != nil:
		writeOpaque(w, key, s.Bridge.Bridge, nic.VirtualPort)
	case s.Bridge != nil:
		w.set(key+".networkName", s.Bridge.Bridge)
		if nic.Target != nil && nic.Target.Dev != "" {
			w.set(key+".connectionType", "custom")
			w.set(key+".vnet", nic.Target.Dev)
			return
		}
		w.set(key+".connectionType", "bridged")
	case s.User != nil:
		w.set(key+".connectionType", "nat")
	case s.Null != nil:
	case s.VDS != nil:
		id, err := domxml.ParseUUID(s.VDS.SwitchID)
		if err != nil {
			w.fail(err)
		}
		w.set(key+".dvs.switchId", formatUUID(id))
		w.set(key+".dvs.portId", s.VDS.PortID)
		w.set(key+".dvs.portgroupId", s.VDS.PortGroupID)
		w.set(key+".dvs.connectionId", s.VDS.ConnectionID)
	default:
		w.unsupported("Unsupported net type of element <interface> %s, expecting 'bridge', 'user', 'null' or 'vds'", key)
	}
}

// writeOpaque writes what readOpaque reads.
func writeOpaque(w *writer, key, network string, port *libvirtxml.DomainInterfaceVirtualPort) {
	if port.Params == nil || port.Params.OpenVSwitch == nil {
		w.unsupported("Unsupported type of element <virtualport>, expecting 'openvswitch'")
		return
	}
	w.set(key+".opaqueNetwork.id", network)
	if kind := port.Params.OpenVSwitch.ProfileID; kind != "" {
		w.set(key+".opaqueNetwork.type", kind)
	}
	if id := port.Params.OpenVSwitch.InterfaceID; id != "" {
		w.set(key+".externalId", id)
	}
}

// addressType is what VMware takes a MAC address to be: from VMware's own generator, from vCenter's, or static. Other addresses are static
// ones that VMware must not check.
func addressType(mac net.HardwareAddr) (kind string, check bool) {
	switch {
	case mac[0] == 0x00 && mac[1] == 0x0c && mac[2] == 0x29:
		return "generated", true
	case mac[0] == 0x00 && mac[1] == 0x50 && mac[2] == 0x56 && mac[3] < 0x40:
		return "static", true
	case mac[0] == 0x00 && mac[1] == 0x50 && mac[2] == 0x56 && mac[3] >= 0x80 && mac[3] < 0xc0:
		return "vpx", true
	}
	return "static", false
}

func writeMAC(w *writer, key string, m *libvirtxml.DomainInterfaceMAC) {
	if m == nil || m.Address == "" {
		w.set(key+".addressType", "generated")
		return
	}
	mac, err := net.ParseMAC(m.Address)
	if err != nil || len(mac) != 6 {
		w.fail(verr.New(verr.XMLError, "unable to parse mac address '%s'", m.Address))
		return
	}
	kind, check := addressType(mac)
	switch m.Type {
	case "":
	case "static":
		kind = "static"
	case "generated":
		if kind != "vpx" {
			kind, check = "generated", true
		}
	default:
		w.fail(verr.New(verr.XMLError, "Invalid value '%s' for attribute 'type' of element <mac>", m.Type))
	}
	w.set(key+".addressType", kind)
	entry := ".generatedAddress"
	if kind == "static" {
		entry = ".address"
	}
	w.set(key+entry, mac)
	if kind == "generated" {
		w.set(key+".generatedAddressOffset", 0)
	}
	switch {
	case m.Check != "":
		w.set(key+".checkMACAddress", m.Check == "yes")
	case !check:
		w.set(key+".checkMACAddress", false)
	}
}
