package hardware

import (
	"net"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// card is a model of network cards.
type card struct {
	// model is the name in .vmx files; features tells two with one name apart.
	model, features string
	make            func(types.VirtualEthernetCard) types.BaseVirtualDevice
	is              func(types.BaseVirtualEthernetCard) bool
}

// cards are the models of network cards.
var cards = []card{
	{"e1000", "", func(c types.VirtualEthernetCard) types.BaseVirtualDevice {
		return &types.VirtualE1000{VirtualEthernetCard: c}
	}, is[*types.VirtualE1000]},
	{"e1000e", "", func(c types.VirtualEthernetCard) types.BaseVirtualDevice {
		return &types.VirtualE1000e{VirtualEthernetCard: c}
	}, is[*types.VirtualE1000e]},
	{"vlance", "", func(c types.VirtualEthernetCard) types.BaseVirtualDevice {
		return &types.VirtualPCNet32{VirtualEthernetCard: c}
	}, is[*types.VirtualPCNet32]},
	{"vmxnet3", "", func(c types.VirtualEthernetCard) types.BaseVirtualDevice {
		return &types.VirtualVmxnet3{VirtualVmxnet: types.VirtualVmxnet{VirtualEthernetCard: c}}
	}, is[*types.VirtualVmxnet3]},
	{"vmxnet", "15", func(c types.VirtualEthernetCard) types.BaseVirtualDevice {
		return &types.VirtualVmxnet2{VirtualVmxnet: types.VirtualVmxnet{VirtualEthernetCard: c}}
	}, is[*types.VirtualVmxnet2]},
	{"vmxnet", "", func(c types.VirtualEthernetCard) types.BaseVirtualDevice {
		return &types.VirtualVmxnet{VirtualEthernetCard: c}
	}, is[*types.VirtualVmxnet]},
}

// is says whether a card is of a type.
func is[T types.BaseVirtualEthernetCard](c types.BaseVirtualEthernetCard) bool {
	_, ok := c.(T)
	return ok
}

// addressTypes are the API's names for those of .vmx files.
var addressTypes = map[string]string{
	"generated": string(types.VirtualEthernetCardMacTypeGenerated),
	"static":    string(types.VirtualEthernetCardMacTypeManual),
	"vpx":       string(types.VirtualEthernetCardMacTypeAssigned),
}

func readNIC(d *device, v types.BaseVirtualEthernetCard) {
	d.set("present", true)
	for _, c := range cards {
		if c.is(v) {
			d.set("virtualDev", c.model)
			if c.features != "" {
				d.set("features", c.features)
			}
			break
		}
	}
	nic := v.GetVirtualEthernetCard()
	switch b := nic.Backing.(type) {
	case *types.VirtualEthernetCardNetworkBackingInfo:
		d.set("connectionType", "bridged")
		d.set("networkName", b.DeviceName)
	case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
		d.set("dvs.switchId", b.Port.SwitchUuid)
		d.set("dvs.portgroupId", b.Port.PortgroupKey)
		if _, err := strconv.Atoi(b.Port.PortKey); err == nil {
			d.set("dvs.portId", b.Port.PortKey)
		}
		d.set("dvs.connectionId", b.Port.ConnectionCookie)
	case *types.VirtualEthernetCardOpaqueNetworkBackingInfo:
		d.set("opaqueNetwork.id", b.OpaqueNetworkId)
		d.set("opaqueNetwork.type", b.OpaqueNetworkType)
		if nic.ExternalId != "" {
			d.set("externalId", nic.ExternalId)
		}
	}
	kind := "generated"
	for ours, theirs := range addressTypes {
		if strings.EqualFold(nic.AddressType, theirs) {
			kind = ours
		}
	}
	d.set("addressType", kind)
	if nic.MacAddress == "" {
		return
	}
	key := "generatedAddress"
	if kind == "static" {
		key = "address"
	}
	if _, err := net.ParseMAC(nic.MacAddress); err == nil {
		d.set(key, strings.ToLower(nic.MacAddress))
	}
}

// macOf is the MAC address in a card's entries, or empty.
func macOf(e entries) string {
	if e["addressType"] == "static" {
		return e["address"]
	}
	return e["generatedAddress"]
}

// makeNIC makes a card, or changes what the entries say of the present one.
func makeNIC(e entries, key int32) (types.BaseVirtualDevice, error) {
	backing, err := connection(e)
	if err != nil {
		return nil, err
	}
	nic := types.VirtualEthernetCard{
		VirtualDevice: types.VirtualDevice{
			Key: key, Backing: backing,
			Connectable: &types.VirtualDeviceConnectInfo{StartConnected: true, AllowGuestControl: true, Connected: true},
		},
		AddressType: addressTypes[e["addressType"]], MacAddress: macOf(e), ExternalId: e["externalId"],
	}
	for _, c := range cards {
		if c.model == e["virtualDev"] && (c.features == "" || c.features == e["features"]) {
			return c.make(nic), nil
		}
	}
	return cards[0].make(nic), nil
}

// connection is what a card is connected to.
func connection(e entries) (types.BaseVirtualDeviceBackingInfo, error) {
	switch kind := e["connectionType"]; {
	case e["dvs.portgroupId"] != "":
		port := types.DistributedVirtualSwitchPortConnection{SwitchUuid: e["dvs.switchId"], PortgroupKey: e["dvs.portgroupId"]}
		if e["dvs.portId"] != "0" {
			port.PortKey = e["dvs.portId"]
		}
		if n, err := strconv.ParseInt(e["dvs.connectionId"], 10, 32); err == nil {
			port.ConnectionCookie = int32(n)
		}
		return &types.VirtualEthernetCardDistributedVirtualPortBackingInfo{Port: port}, nil
	case e["opaqueNetwork.id"] != "":
		return &types.VirtualEthernetCardOpaqueNetworkBackingInfo{
			OpaqueNetworkId: e["opaqueNetwork.id"], OpaqueNetworkType: e["opaqueNetwork.type"],
		}, nil
	case kind == "nat", kind == "custom":
		return nil, verr.New(verr.ConfigUnsupported, "element <interface>: ESX has no networks of type '%s', use type 'bridge' with the name "+
			"of a port group", kind)
	case e["networkName"] == "":
		return nil, verr.New(verr.ConfigUnsupported, "element <interface>: ESX has no network cards without a network, use type 'bridge' "+
			"with the name of a port group")
	}
	return &types.VirtualEthernetCardNetworkBackingInfo{
		VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: e["networkName"]},
	}, nil
}
