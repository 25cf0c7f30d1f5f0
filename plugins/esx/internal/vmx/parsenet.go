package vmx

import (
	"fmt"
	"net"
	"strings"

	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// maxInterfaces is how many network cards a machine can have.
const maxInterfaces = 10

// nicModels are the network cards, by VMware's and by libvirt's name. A vmxnet with all features is libvirt's vmxnet2.
var nicModels = []string{"vlance", "vmxnet", "vmxnet3", "e1000", "e1000e"}

// vmxnet2Features is the value of ethernetN.features that makes a vmxnet a vmxnet2.
const vmxnet2Features = 15

func readInterfaces(r *reader, d *libvirtxml.Domain) {
	for n := range maxInterfaces {
		key := fmt.Sprintf("ethernet%d", n)
		if r.err != nil {
			return
		}
		if !r.flag(key+".present", false) {
			continue
		}
		nic := libvirtxml.DomainInterface{MAC: readMAC(r, key), Source: &libvirtxml.DomainInterfaceSource{}}
		if model := readNICModel(r, key); model != "" {
			nic.Model = &libvirtxml.DomainInterfaceModel{Type: model}
		}
		readConnection(r, key, &nic)
		d.Devices.Interfaces = append(d.Devices.Interfaces, nic)
	}
}

func readMAC(r *reader, key string) *libvirtxml.DomainInterfaceMAC {
	mac := &libvirtxml.DomainInterfaceMAC{Type: "generated"}
	entry := key + ".generatedAddress"
	switch strings.ToLower(r.text(key + ".addressType")) {
	case "", "generated", "vpx":
	case "static":
		mac.Type, entry = "static", key+".address"
	default:
		r.expect(key+".addressType", "'generated' or 'static' or 'vpx'")
	}
	mac.Address = "00:00:00:00:00:00"
	if value, ok := r.file.Get(entry); ok {
		hw, err := net.ParseMAC(value)
		if err != nil || len(hw) != 6 {
			r.expect(entry, "a MAC address")
		}
		mac.Address = hw.String()
	}
	if _, ok := r.file.Get(key + ".checkMACAddress"); ok {
		mac.Check = "no"
		if r.flag(key+".checkMACAddress", false) {
			mac.Check = "yes"
		}
	}
	return mac
}

func readNICModel(r *reader, key string) string {
	value := strings.ToLower(r.text(key + ".virtualDev"))
	if value == "" {
		return ""
	}
	for _, model := range nicModels {
		if value != model {
			continue
		}
		if model == "vmxnet" && r.number(key+".features", 0) == vmxnet2Features {
			return "vmxnet2"
		}
		return model
	}
	r.expect(key+".virtualDev", "'vlance' or 'vmxnet' or 'vmxnet3' or 'e1000' or 'e1000e'")
	return ""
}

// readConnection reads what a card is connected to.
func readConnection(r *reader, key string, nic *libvirtxml.DomainInterface) {
	network, named := r.file.Get(key + ".networkName")
	kind := strings.ToLower(r.text(key + ".connectionType"))
	_, distributed := r.file.Get(key + ".dvs.portgroupId")
	_, opaque := r.file.Get(key + ".opaqueNetwork.id")
	switch {
	case kind == "nat":
		nic.Source.User = &libvirtxml.DomainInterfaceSourceUser{}
	case kind == "custom":
		nic.Source.Bridge = &libvirtxml.DomainInterfaceSourceBridge{Bridge: network}
		if vnet := r.must(key + ".vnet"); vnet != "" {
			nic.Target = &libvirtxml.DomainInterfaceTarget{Dev: vnet}
		}
	case kind != "" && kind != "bridged":
		r.fail(verr.New(verr.ConfigUnsupported, "No support for VMX entry '%s.connectionType' of value '%s'",
			key, r.text(key+".connectionType")))
	case !named && distributed:
		nic.Source.VDS = readDistributed(r, key)
	case !named && opaque:
		readOpaque(r, key, nic)
	case !named && kind == "":
		nic.Source.Null = &libvirtxml.DomainInterfaceSourceNull{}
	default:
		nic.Source.Bridge = &libvirtxml.DomainInterfaceSourceBridge{Bridge: network}
	}
}

// readDistributed reads a port of a distributed switch.
func readDistributed(r *reader, key string) *libvirtxml.DomainInterfaceSourceVDS {
	id, err := parseUUID(r.must(key + ".dvs.switchId"))
	if err != nil {
		r.fail(verr.New(verr.Internal, "Could not parse UUID from VMX entry '%s.dvs.switchId': %w", key, err))
	}
	return &libvirtxml.DomainInterfaceSourceVDS{
		SwitchID: id.String(), PortGroupID: r.text(key + ".dvs.portgroupId"),
		PortID: int(r.number(key+".dvs.portId", 0)), ConnectionID: int(r.number(key+".dvs.connectionId", 0)),
	}
}

// readOpaque reads a network that is managed outside of VMware's own, by NSX for one: a bridge with the port's parameters, as far as they
// have libvirt's form.
func readOpaque(r *reader, key string, nic *libvirtxml.DomainInterface) {
	nic.Source.Bridge = &libvirtxml.DomainInterfaceSourceBridge{Bridge: r.text(key + ".opaqueNetwork.id")}
	port := &libvirtxml.DomainInterfaceVirtualPortParamsOpenVSwitch{ProfileID: r.text(key + ".opaqueNetwork.type")}
	if id, err := uuid.Parse(r.text(key + ".externalId")); err == nil {
		port.InterfaceID = id.String()
	}
	nic.VirtualPort = &libvirtxml.DomainInterfaceVirtualPort{
		Params: &libvirtxml.DomainInterfaceVirtualPortParams{OpenVSwitch: port},
	}
}
