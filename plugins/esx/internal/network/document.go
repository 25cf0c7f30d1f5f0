package network

import (
	"encoding/xml"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"

	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// The documents have those parts of libvirt's that a host has. Numbers are text, so that reading one can say which is wrong.
type (
	networkDoc struct {
		XMLName   xml.Name      `xml:"network"`
		Name      string        `xml:"name"`
		UUID      string        `xml:"uuid,omitempty"`
		Forward   *forwardDoc   `xml:"forward"`
		Bridge    *bridgeDoc    `xml:"bridge"`
		MTU       *mtuDoc       `xml:"mtu"`
		Bandwidth *bandwidthDoc `xml:"bandwidth"`
		Groups    []groupDoc    `xml:"portgroup"`
	}
	forwardDoc struct {
		Dev  string   `xml:"dev,attr,omitempty"`
		Mode string   `xml:"mode,attr,omitempty"`
		NICs []nicDoc `xml:"interface"`
	}
	bridgeDoc struct {
		STP   string `xml:"stp,attr,omitempty"`
		Delay string `xml:"delay,attr,omitempty"`
	}
	nicDoc struct {
		Dev string `xml:"dev,attr"`
	}
	mtuDoc struct {
		Size string `xml:"size,attr"`
	}
	bandwidthDoc struct {
		In  *rateDoc `xml:"inbound"`
		Out *rateDoc `xml:"outbound"`
	}
	rateDoc struct {
		Average string `xml:"average,attr,omitempty"`
		Peak    string `xml:"peak,attr,omitempty"`
		Burst   string `xml:"burst,attr,omitempty"`
	}
	groupDoc struct {
		Name      string        `xml:"name,attr"`
		Default   string        `xml:"default,attr,omitempty"`
		VLAN      *vlanDoc      `xml:"vlan"`
		Bandwidth *bandwidthDoc `xml:"bandwidth"`
	}
	vlanDoc struct {
		Trunk string   `xml:"trunk,attr,omitempty"`
		Tags  []tagDoc `xml:"tag"`
	}
	tagDoc struct {
		ID string `xml:"id,attr"`
	}
	interfaceDoc struct {
		XMLName xml.Name `xml:"interface"`
		Type    string   `xml:"type,attr"`
		Name    string   `xml:"name,attr"`
		Link    linkDoc  `xml:"link"`
		MAC     *macDoc  `xml:"mac"`
	}
	linkDoc struct {
		Speed string `xml:"speed,attr,omitempty"`
		State string `xml:"state,attr"`
	}
	macDoc struct {
		Address string `xml:"address,attr"`
	}
)

// objects shows a configuration. One that can't be printed is left out, and named in the error.
func objects(info *types.HostNetworkInfo) (*pb.Objects, error) {
	o := &pb.Objects{}
	var failed error
	for _, vs := range info.Vswitch {
		object, err := networkObject(ofSwitch(info, vs))
		if err != nil {
			failed = err
			continue
		}
		o.Networks = append(o.Networks, object)
	}
	for _, nic := range info.Pnic {
		object, err := interfaceObject(nic)
		if err != nil {
			failed = err
			continue
		}
		o.Interfaces = append(o.Interfaces, object)
	}
	return o, failed
}

func networkObject(v vswitch) (*pb.NetworkObject, error) {
	text, err := print(v.document())
	if err != nil {
		return nil, verr.New(verr.Internal, "print network %q: %w", v.name, err).In(verr.FromNetwork)
	}
	return &pb.NetworkObject{Uuid: v.uuid, Name: v.name, Xml: text, Active: true, Persistent: true, Autostart: true}, nil
}

func interfaceObject(nic types.PhysicalNic) (*pb.InterfaceObject, error) {
	doc := interfaceDoc{Type: "ethernet", Name: nic.Device, Link: linkDoc{State: "down"}}
	mac := strings.ToLower(nic.Mac)
	if mac != "" {
		doc.MAC = &macDoc{Address: mac}
	}
	if nic.LinkSpeed != nil {
		doc.Link.State = "up"
		if nic.LinkSpeed.SpeedMb > 0 {
			doc.Link.Speed = strconv.Itoa(int(nic.LinkSpeed.SpeedMb))
		}
	}
	text, err := print(doc)
	if err != nil {
		return nil, verr.New(verr.Internal, "print interface %q: %w", nic.Device, err).In(verr.FromInterface)
	}
	return &pb.InterfaceObject{Name: nic.Device, Mac: mac, Xml: text, Active: nic.LinkSpeed != nil}, nil
}

func print(doc any) (string, error) {
	text, err := xml.Marshal(doc)
	if err != nil {
		return "", err
	}
	return domxml.Reformat(string(text))
}

// document writes a switch.
func (v vswitch) document() networkDoc {
	doc := networkDoc{Name: v.name, UUID: v.uuid, Bandwidth: v.shaping.document()}
	if v.mtu != defaultMTU {
		doc.MTU = &mtuDoc{Size: strconv.Itoa(int(v.mtu))}
	}
	if len(v.nics) > 0 {
		doc.Forward = &forwardDoc{Dev: v.nics[0], Mode: "bridge"}
		for _, nic := range v.nics {
			doc.Forward.NICs = append(doc.Forward.NICs, nicDoc{Dev: nic})
		}
	} else {
		doc.Bridge = &bridgeDoc{STP: "off", Delay: "0"} // means nothing; libvirt prints it
	}
	for _, g := range v.groups {
		group := groupDoc{Name: g.name, Bandwidth: g.shaping.document()}
		if g.vlan != 0 {
			group.VLAN = &vlanDoc{Tags: []tagDoc{{ID: strconv.Itoa(int(g.vlan))}}}
			if g.vlan == trunk {
				group.VLAN.Trunk = "yes"
			}
		}
		doc.Groups = append(doc.Groups, group)
	}
	return doc
}

func (s shaping) document() *bandwidthDoc {
	if s == (shaping{}) {
		return nil
	}
	text := func(n uint64) string {
		if n == 0 {
			return ""
		}
		return strconv.FormatUint(n, 10)
	}
	rate := &rateDoc{Average: text(s.average), Peak: text(s.peak), Burst: text(s.burst)}
	return &bandwidthDoc{In: rate, Out: rate}
}
