package door

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/host/internal/event"
	"github.com/lodgevirt/lodge/host/internal/xdr"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// What tests ask about: networks, guests and snapshots of fakeMirror.
var (
	isolated = libvirt.Network{Name: "isolated", UUID: libvirt.UUID(fakeID(1))}
	lan      = libvirt.Network{Name: "lan", UUID: libvirt.UUID(fakeID(2))}
	spare    = libvirt.Network{Name: "spare", UUID: libvirt.UUID(fakeID(3))}
	noNet    = libvirt.Network{Name: "lan", UUID: libvirt.UUID(fakeID(99))}
	vmk0     = libvirt.Interface{Name: "vmk0", Mac: "00:50:56:00:00:01"}
	vmk2     = libvirt.Interface{Name: "vmk2", Mac: "00:50:56:00:00:02"}
	runs     = libvirt.Domain{Name: "runs", UUID: libvirt.UUID(fakeID(11)), ID: 5}
	bare     = libvirt.Domain{Name: "bare", UUID: libvirt.UUID(fakeID(12)), ID: -1}
	young    = libvirt.Domain{Name: "young", UUID: libvirt.UUID(fakeID(13)), ID: -1}
	nobody   = libvirt.Domain{Name: "runs", UUID: libvirt.UUID(fakeID(99))}
)

// snap is a snapshot of the guest that has some.
func snap(name string) libvirt.DomainSnapshot { return libvirt.DomainSnapshot{Name: name, Dom: runs} }

// answered is a call, what it must answer, and what the fake must have been asked.
type answered struct {
	name string
	proc int32
	args any
	want any
	said string
}

func testAnswers(t *testing.T, tests []answered) {
	t.Helper()
	t.Run("answers", func(t *testing.T) { // so that its bench ends before another is looked at for leaks
		b := newBench(t, Limits{})
		c := b.openURI(b.path, mirrorURI)
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				c.t = t
				var got any
				if tt.want != nil {
					got = reflect.New(reflect.TypeOf(tt.want).Elem()).Interface()
				}
				c.must(tt.proc, tt.args, got)
				if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", tt.want); g != w {
					t.Errorf("answer %s, want %s", g, w)
				}
				if said := b.mirror.said(); said != tt.said {
					t.Errorf("asked %q, want %q", said, tt.said)
				}
			})
		}
	})
}

// refused is a call and the error that it must get.
type refused struct {
	name string
	uri  string // mirrorURI if empty
	ro   bool
	proc int32
	args any
	code int32
	says string
	// domain is the error's, the driver's if 0.
	domain int32
}

func testRefusals(t *testing.T, tests []refused) {
	t.Helper()
	t.Run("refusals", func(t *testing.T) { // so that its bench ends before another is looked at for leaks
		b := newBench(t, Limits{})
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				path, uri := b.path, tt.uri
				if tt.ro {
					path = b.ro
				}
				if uri == "" {
					uri = mirrorURI
				}
				c := b.openURI(path, uri)
				defer func() { _ = c.conn.Close() }()
				e := c.call(tt.proc, tt.args, nil)
				if e == nil || e.Code != tt.code || !strings.Contains(*e.Message, tt.says) {
					t.Fatalf("error %+v, want code %d with %q", e, tt.code, tt.says)
				}
				if want := cmp.Or(tt.domain, int32(verr.FromESX)); tt.uri == "" && tt.code != 3 && e.Domain != want {
					t.Errorf("error of domain %d, want %d", e.Domain, want)
				}
				if said := b.mirror.said(); said != "" {
					t.Errorf("asked %q all the same", said)
				}
			})
		}
	})
}

func TestNetworksOverTheWire(t *testing.T) {
	testAnswers(t, []answered{
		{"how many are up", procConnectNumOfNetworks, &void{}, &libvirt.ConnectNumOfNetworksRet{Num: 3}, ""},
		{"how many are not", procConnectNumOfDefinedNetworks, &void{}, &libvirt.ConnectNumOfDefinedNetworksRet{Num: 1}, ""},
		{"names of two", procConnectListNetworks, &libvirt.ConnectListNetworksArgs{Maxnames: 2}, &libvirt.ConnectListNetworksRet{Names: []string{"isolated", "lan"}}, ""},
		{"names of those that are down", procConnectListDefinedNetworks, &libvirt.ConnectListDefinedNetworksArgs{Maxnames: 9}, &libvirt.ConnectListDefinedNetworksRet{Names: []string{"spare"}}, ""},
		{"a count of a list", procConnectListAllNetworks, &libvirt.ConnectListAllNetworksArgs{}, &libvirt.ConnectListAllNetworksRet{Ret: 4}, ""},
		{"by name", procNetworkLookupByName, &libvirt.NetworkLookupByNameArgs{Name: "lan"}, &libvirt.NetworkLookupByNameRet{Net: lan}, ""},
		{"by identity", procNetworkLookupByUuid, &libvirt.NetworkLookupByUUIDArgs{UUID: lan.UUID}, &libvirt.NetworkLookupByUUIDRet{Net: lan}, ""},
		{"description", procNetworkGetXmlDesc, &libvirt.NetworkGetXMLDescArgs{Net: lan, Flags: 1}, &libvirt.NetworkGetXMLDescRet{XML: "<network lan 1>"}, ""},
		{"bridge", procNetworkGetBridgeName, &libvirt.NetworkGetBridgeNameArgs{Net: lan}, &libvirt.NetworkGetBridgeNameRet{Name: "br0"}, ""},
		{"starts with the host", procNetworkGetAutostart, &libvirt.NetworkGetAutostartArgs{Net: lan}, &libvirt.NetworkGetAutostartRet{Autostart: 1}, ""},
		{"is up", procNetworkIsActive, &libvirt.NetworkIsActiveArgs{Net: spare}, &libvirt.NetworkIsActiveRet{}, ""},
		{"is defined", procNetworkIsPersistent, &libvirt.NetworkIsPersistentArgs{Net: spare}, &libvirt.NetworkIsPersistentRet{Persistent: 1}, ""},
		{"to start with the host as it does", procNetworkSetAutostart, &libvirt.NetworkSetAutostartArgs{Net: lan, Autostart: 1}, nil, ""},
		{"define", procNetworkDefineXml, &libvirt.NetworkDefineXMLArgs{XML: "<a>"}, &libvirt.NetworkDefineXMLRet{Net: isolated}, `define "<a>"`},
		{"define with a check", procNetworkDefineXmlFlags, &libvirt.NetworkDefineXMLFlagsArgs{XML: "<b>", Flags: 1}, &libvirt.NetworkDefineXMLFlagsRet{Net: isolated}, `define "<b>"`},
		{"undefine", procNetworkUndefine, &libvirt.NetworkUndefineArgs{Net: lan}, nil, `undefine "lan"`},
	})
}

func TestNetworkRefusals(t *testing.T) {
	testRefusals(t, []refused{
		{name: "unknown flags of the list", proc: procConnectListAllNetworks, args: &libvirt.ConnectListAllNetworksArgs{Flags: 64}, code: 8, says: "unsupported flags (0x40) in function virConnectListAllNetworks"},
		{name: "too many names", proc: procConnectListNetworks, args: &libvirt.ConnectListNetworksArgs{Maxnames: 16385}, code: 39},
		{name: "fewer than no names", proc: procConnectListDefinedNetworks, args: &libvirt.ConnectListDefinedNetworksArgs{Maxnames: -1}, code: 39},
		{name: "no such name", proc: procNetworkLookupByName, args: &libvirt.NetworkLookupByNameArgs{Name: "x"}, code: 43},
		{name: "no such network to describe", proc: procNetworkGetXmlDesc, args: &libvirt.NetworkGetXMLDescArgs{Net: noNet}, code: 43},
		{name: "no such network to ask about", proc: procNetworkIsActive, args: &libvirt.NetworkIsActiveArgs{Net: noNet}, code: 43},
		{name: "unknown flags of a description", proc: procNetworkGetXmlDesc, args: &libvirt.NetworkGetXMLDescArgs{Net: lan, Flags: 2}, code: 8},
		{name: "unknown flags of a definition", proc: procNetworkDefineXmlFlags, args: &libvirt.NetworkDefineXMLFlagsArgs{Flags: 2}, code: 8},
		{name: "no bridge", proc: procNetworkGetBridgeName, args: &libvirt.NetworkGetBridgeNameArgs{Net: isolated}, code: 1, says: "network 'isolated' does not have a bridge name."},
		{name: "not to start with the host", proc: procNetworkSetAutostart, args: &libvirt.NetworkSetAutostartArgs{Net: lan}, code: 3, says: "network 'lan'"},
		{name: "start one that is up", proc: procNetworkCreate, args: &libvirt.NetworkCreateArgs{Net: lan}, code: 55, says: "network is already active"},
		{name: "start one that is down", proc: procNetworkCreate, args: &libvirt.NetworkCreateArgs{Net: spare}, code: 3},
		{name: "start one that is not there", proc: procNetworkCreate, args: &libvirt.NetworkCreateArgs{Net: noNet}, code: 43},
		{name: "stop", proc: procNetworkDestroy, args: &libvirt.NetworkDestroyArgs{Net: lan}, code: 3},
		{name: "another kind of event", proc: procConnectNetworkEventRegisterAny, args: &libvirt.ConnectNetworkEventRegisterAnyArgs{EventID: 1}, code: 1, domain: 7},
		{name: "a connection without networks", uri: here, proc: procConnectNumOfNetworks, args: &void{}, code: 3, says: "connect_num_of_networks"},
	})
}

func TestListsOfNetworksAndInterfaces(t *testing.T) {
	b := newBench(t, Limits{})
	c := b.openURI(b.ro, mirrorURI)
	for flags, want := range map[libvirt.ConnectListAllNetworksFlags]string{
		0:                                   "isolated lan spare transient",
		libvirt.ConnectListNetworksActive:   "isolated lan transient",
		libvirt.ConnectListNetworksInactive: "spare",
		libvirt.ConnectListNetworksActive | libvirt.ConnectListNetworksInactive:     "isolated lan spare transient",
		libvirt.ConnectListNetworksPersistent:                                       "isolated lan spare",
		libvirt.ConnectListNetworksTransient:                                        "transient",
		libvirt.ConnectListNetworksAutostart:                                        "isolated lan",
		libvirt.ConnectListNetworksNoAutostart | libvirt.ConnectListNetworksActive:  "transient",
		libvirt.ConnectListNetworksTransient | libvirt.ConnectListNetworksAutostart: "",
	} {
		var ret libvirt.ConnectListAllNetworksRet
		c.must(procConnectListAllNetworks, &libvirt.ConnectListAllNetworksArgs{NeedResults: 1, Flags: flags}, &ret)
		names := make([]string, len(ret.Nets))
		for i, n := range ret.Nets {
			names[i] = n.Name
		}
		if got := strings.Join(names, " "); got != want || int(ret.Ret) != len(names) {
			t.Errorf("flags %d list %q (%d), want %q", flags, got, ret.Ret, want)
		}
	}
	for flags, want := range map[libvirt.ConnectListAllInterfacesFlags]string{0: "vmk0 vmk1 vmk2", 1: "vmk2", 2: "vmk0 vmk1", 3: "vmk0 vmk1 vmk2"} {
		var ret libvirt.ConnectListAllInterfacesRet
		c.must(procConnectListAllInterfaces, &libvirt.ConnectListAllInterfacesArgs{NeedResults: 1, Flags: flags}, &ret)
		names := make([]string, len(ret.Ifaces))
		for i, n := range ret.Ifaces {
			names[i] = n.Name
		}
		if got := strings.Join(names, " "); got != want || int(ret.Ret) != len(names) {
			t.Errorf("flags %d list %q (%d), want %q", flags, got, ret.Ret, want)
		}
	}
}

func TestInterfacesOverTheWire(t *testing.T) {
	testAnswers(t, []answered{
		{"how many are up", procConnectNumOfInterfaces, &void{}, &libvirt.ConnectNumOfInterfacesRet{Num: 2}, ""},
		{"how many are not", procConnectNumOfDefinedInterfaces, &void{}, &libvirt.ConnectNumOfDefinedInterfacesRet{Num: 1}, ""},
		{"names", procConnectListInterfaces, &libvirt.ConnectListInterfacesArgs{Maxnames: 9}, &libvirt.ConnectListInterfacesRet{Names: []string{"vmk0", "vmk1"}}, ""},
		{"names of those that are down", procConnectListDefinedInterfaces, &libvirt.ConnectListDefinedInterfacesArgs{Maxnames: 9}, &libvirt.ConnectListDefinedInterfacesRet{Names: []string{"vmk2"}}, ""},
		{"by name", procInterfaceLookupByName, &libvirt.InterfaceLookupByNameArgs{Name: "vmk2"}, &libvirt.InterfaceLookupByNameRet{Iface: vmk2}, ""},
		{"by address", procInterfaceLookupByMacString, &libvirt.InterfaceLookupByMacStringArgs{Mac: "00:50:56:00:00:01"}, &libvirt.InterfaceLookupByMacStringRet{Iface: vmk0}, ""},
		{"description", procInterfaceGetXmlDesc, &libvirt.InterfaceGetXMLDescArgs{Iface: vmk0, Flags: 1}, &libvirt.InterfaceGetXMLDescRet{XML: "<interface vmk0 1>"}, ""},
		{"is up", procInterfaceIsActive, &libvirt.InterfaceIsActiveArgs{Iface: vmk0}, &libvirt.InterfaceIsActiveRet{Active: 1}, ""},
		{"is down", procInterfaceIsActive, &libvirt.InterfaceIsActiveArgs{Iface: vmk2}, &libvirt.InterfaceIsActiveRet{}, ""},
	})
	testRefusals(t, []refused{
		{name: "unknown flags of the list", proc: procConnectListAllInterfaces, args: &libvirt.ConnectListAllInterfacesArgs{Flags: 4}, code: 8},
		{name: "too many names", proc: procConnectListInterfaces, args: &libvirt.ConnectListInterfacesArgs{Maxnames: 16385}, code: 39},
		{name: "no such name", proc: procInterfaceLookupByName, args: &libvirt.InterfaceLookupByNameArgs{Name: "x"}, code: 57},
		{name: "no such address", proc: procInterfaceLookupByMacString, args: &libvirt.InterfaceLookupByMacStringArgs{Mac: "x"}, code: 57},
		{name: "an address of two", proc: procInterfaceLookupByMacString, args: &libvirt.InterfaceLookupByMacStringArgs{Mac: vmk2.Mac}, code: 59},
		{name: "no such interface", proc: procInterfaceIsActive, args: &libvirt.InterfaceIsActiveArgs{Iface: libvirt.Interface{Name: "x"}}, code: 57},
		{name: "unknown flags of a description", proc: procInterfaceGetXmlDesc, args: &libvirt.InterfaceGetXMLDescArgs{Iface: vmk0, Flags: 2}, code: 8},
		{name: "a definition", proc: procInterfaceDefineXml, args: &libvirt.InterfaceDefineXMLArgs{}, code: 3, says: "interface_define_xml"},
		{name: "a transaction", proc: procInterfaceChangeBegin, args: &libvirt.InterfaceChangeBeginArgs{}, code: 3},
		{name: "a connection without interfaces", uri: here, proc: procConnectListAllInterfaces, args: &libvirt.ConnectListAllInterfacesArgs{}, code: 3},
	})
}

func TestNetworkEventsOverTheWire(t *testing.T) {
	b := newBench(t, Limits{})
	c := b.openURI(b.ro, mirrorURI)
	var all, one libvirt.ConnectNetworkEventRegisterAnyRet
	c.must(procConnectNetworkEventRegisterAny, &libvirt.ConnectNetworkEventRegisterAnyArgs{}, &all)
	c.must(procConnectNetworkEventRegisterAny, &libvirt.ConnectNetworkEventRegisterAnyArgs{Net: libvirt.OptNetwork{spare}}, &one)
	for _, ev := range []event.Event{
		{URI: here, Name: "of another connection", UUID: fakeID(2), Network: &event.Network{}},
		{URI: mirrorURI, Name: "lan", UUID: fakeID(2), Network: &event.Network{Lifecycle: 1}},
		{URI: mirrorURI, Name: "spare", UUID: fakeID(3), Network: &event.Network{Lifecycle: 2}},
	} {
		b.bus.Publish(ev)
	}
	var got []string
	for range 3 {
		f := c.recv()
		var msg libvirt.NetworkEventLifecycleMsg
		if rest, err := xdr.Unmarshal(f.Payload, &msg); err != nil || len(rest) != 0 || f.Procedure != procNetworkEventLifecycle {
			t.Fatalf("message %+v, %d bytes too many, error %v", f.Header, len(rest), err)
		}
		got = append(got, fmt.Sprintf("%s %d/%d for one: %v", msg.Net.Name, msg.Event, msg.Detail, msg.CallbackID == one.CallbackID))
	}
	slices.Sort(got)
	if want := []string{"lan 1/0 for one: false", "spare 2/0 for one: false", "spare 2/0 for one: true"}; !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
	c.must(procConnectNetworkEventDeregisterAny, &libvirt.ConnectNetworkEventDeregisterAnyArgs{CallbackID: all.CallbackID}, nil)
	if e := c.call(procConnectNetworkEventDeregisterAny, &libvirt.ConnectNetworkEventDeregisterAnyArgs{CallbackID: all.CallbackID}, nil); e == nil || e.Code != 1 {
		t.Errorf("a second end: %+v", e)
	}
}
