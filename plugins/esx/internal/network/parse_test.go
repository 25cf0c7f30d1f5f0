package network

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestDefinitionIsRead(t *testing.T) {
	got, err := parse(`<?xml version='1.0'?>
<!-- a comment -->
<network xmlns:x='urn:x'>
  <name>a &amp; b</name>
  <uuid>AB0C1D2E-0000-1111-2222-333344445555</uuid>
  <forward mode='bridge' dev='vmnic3'/>
  <bridge stp='off' delay='0'/>
  <bandwidth/>
  <portgroup name=' x ' default='no'><vlan><tag id='4095'/></vlan></portgroup>
  <portgroup name='y'><vlan trunk='no'><tag id='0'/></vlan><bandwidth>
    <inbound average='1'/><outbound average='1' peak='0' burst='0'/></bandwidth></portgroup>
</network>`)
	if err != nil {
		t.Fatal(err)
	}
	want := vswitch{
		name: "a & b", uuid: "ab0c1d2e-0000-1111-2222-333344445555", nics: []string{"vmnic3"}, mtu: 1500,
		groups: []group{{name: " x ", vlan: 4095}, {name: "y", shaping: shaping{average: 1}}},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(vswitch{}, group{}, shaping{})); diff != "" {
		t.Error(diff)
	}
}

func TestWhatAHostDoesNotHaveIsRefusedByName(t *testing.T) {
	for body, word := range map[string]string{
		`<ip address='10.0.0.1' netmask='255.0.0.0'><dhcp><range start='10.0.0.2' end='10.0.0.9'/></dhcp></ip>`: "<ip>",
		`<dns><host ip='10.0.0.1'><hostname>a</hostname></host></dns>`:                                          "<dns>",

		`<domain name='example.org'/>`:                                                   "<domain>",
		`<mac address='52:54:00:00:00:01'/>`:                                             "<mac>",
		`<route address='10.0.0.0' prefix='8' gateway='10.0.0.1'/>`:                      "<route>",
		`<virtualport type='openvswitch'/>`:                                              "<virtualport>",
		`<vlan><tag id='3'/></vlan>`:                                                     "<vlan>",
		`<port isolated='yes'/>`:                                                         "<port>",
		`<metadata><a xmlns='urn:a'/></metadata>`:                                        "<metadata>",
		`<title>t</title>`:                                                               "<title>",
		`<bridge name='virbr0'/>`:                                                        "'name' of <bridge>",
		`<bridge zone='public'/>`:                                                        "'zone' of <bridge>",
		`<forward/>`:                                                                     "'nat'",
		`<forward mode='nat'/>`:                                                          "'nat'",
		`<forward mode='route'/>`:                                                        "'route'",
		`<forward mode='hostdev' managed='yes'/>`:                                        "managed",
		`<forward mode='bridge'><pf dev='vmnic0'/></forward>`:                            "<pf>",
		`<forward mode='nat'><nat><port start='1' end='2'/></nat></forward>`:             "<nat>",
		`<forward mode='bridge'><driver name='vfio'/></forward>`:                         "<driver>",
		`<bandwidth><inbound average='1'/><outbound average='2'/></bandwidth>`:           "inbound and outbound",
		`<bandwidth><inbound average='1'/></bandwidth>`:                                  "inbound and outbound",
		`<bandwidth><inbound average='1' floor='1'/><outbound average='1'/></bandwidth>`: "floor",
		`<portgroup name='p' default='yes'/>`:                                            "default",
		`<portgroup name='p' trustGuestRxFilters='yes'/>`:                                "trustGuestRxFilters",
		`<portgroup name='p'><virtualport type='802.1Qbg'/></portgroup>`:                 "<virtualport>",
		`<portgroup name='p'><vlan><tag id='1'/><tag id='2'/></vlan></portgroup>`:        "<tag>",
		`<portgroup name='p'><vlan trunk='yes'><tag id='1'/></vlan></portgroup>`:         "trunk",
		`<portgroup name='p'><vlan trunk='no'><tag id='4095'/></vlan></portgroup>`:       "trunk",
		`<portgroup name='p'><vlan><tag id='1' nativeMode='tagged'/></vlan></portgroup>`: "nativeMode",

		`<o:options xmlns:o='http://libvirt.org/schemas/network/dnsmasq/1.0'><o:option value='x'/></o:options>`: "<options>",
		`<name xmlns='urn:other'>y</name>`: "<name>",
	} {
		_, err := parse(`<network><name>n</name>` + body + `</network>`)
		if !verr.Is(err, verr.ConfigUnsupported) || !strings.Contains(err.Error(), word) || verr.From(err).Domain != verr.FromNetwork {
			t.Errorf("%s: error is %v", body, err)
		}
	}
	for _, root := range []string{`<network ipv6='yes'>`, `<network trustGuestRxFilters='yes'>`} {
		if _, err := parse(root + `<name>n</name></network>`); !verr.Is(err, verr.ConfigUnsupported) {
			t.Errorf("%s: error is %v", root, err)
		}
	}
}

func TestWhatIsNoNetworkIsRefused(t *testing.T) {
	name := func(n string) string { return `<network><name>` + n + `</name></network>` }
	body := func(b string) string { return `<network><name>n</name>` + b + `</network>` }
	group := func(attrs, b string) string { return body(`<portgroup ` + attrs + `>` + b + `</portgroup>`) }
	rate := func(r string) string { return body(`<bandwidth><inbound ` + r + `/><outbound ` + r + `/></bandwidth>`) }
	for _, doc := range []string{
		"", "network", "<network>", "<domain/>", "<network/>", "\x00", "<network><name>n</name></network><network/>",
		"<!DOCTYPE network [<!ENTITY a 'b'>]><network><name>&a;</name></network>",
		name(""), name(strings.Repeat("x", 33)), name("a/b"), name("a\nb"), name("a&#10;b"), body("<name>m</name>"),
		body("<uuid>x</uuid>"), body("<uuid/><uuid/>"), body("<mtu size='x'/>"), body("<mtu size='-1'/>"), body("<mtu/>"),
		body("<mtu size='99999999999'/>"),
		body("<forward mode='bridge'><interface/></forward>"), body("<forward mode='bridge'><interface dev=''/></forward>"),
		body("<forward mode='bridge'><interface dev='a'/><interface dev='a'/></forward>"),
		body("<forward mode='bridge' dev='b'><interface dev='a'/></forward>"), body("<forward mode='bridge'/><forward mode='bridge'/>"),
		group("", ""), group("name=''", ""), group("name='"+strings.Repeat("x", 81)+"'", ""), group("name='a&#9;'", ""),
		body("<portgroup name='a'/><portgroup name='a'/>"),
		group("name='a'", "<vlan/>"), group("name='a'", "<vlan><tag/></vlan>"), group("name='a'", "<vlan><tag id='4096'/></vlan>"),
		group("name='a'", "<vlan><tag id='0x10'/></vlan>"), group("name='a'", "<vlan trunk='maybe'><tag id='4095'/></vlan>"),
		group("name='a'", "<vlan><tag id='1'/></vlan><vlan><tag id='2'/></vlan>"),
		rate("average='x'"), rate("average='-1'"), rate("peak='1'"), rate("average='1' burst='1.5'"),
		rate("average='18446744073709551615'"), rate("average='1152921504606847'"),
		body(strings.Repeat("<portgroup name='a'/>", maxGroups+1)),
	} {
		if _, err := parse(doc); !verr.Is(err, verr.XMLError) {
			t.Errorf("%.200s: error is %v", doc, err)
		}
	}
}

func TestBandwidthIsPrintedAsItWasRead(t *testing.T) {
	for _, s := range []shaping{{}, {average: 1}, {average: 1, peak: 2, burst: 3}, {average: maxRate, peak: maxRate, burst: 1 << 40}} {
		if got := ofPolicy(s.policy()); got != s {
			t.Errorf("%+v comes back as %+v", s, got)
		}
	}
}

func TestUpdateThatIsNoWholeConfigurationEndsTheWatch(t *testing.T) {
	whole := types.HostNetworkInfo{Vswitch: []types.HostVirtualSwitch{{Name: "a"}}}
	s := &source{}
	apply := func(name string, value any) error {
		return s.Apply(types.ObjectUpdate{ChangeSet: []types.PropertyChange{{Name: name, Val: value}}})
	}
	if err := apply(configuration, whole); err != nil || s.info.Vswitch[0].Name != "a" {
		t.Errorf("a whole configuration: %+v, %v", s.info, err)
	}
	if err := apply(configuration, nil); err != nil || s.info == nil {
		t.Errorf("a host that tells none any more: %+v, %v", s.info, err)
	}
	if err := apply(configuration+`.vswitch["key"]`, nil); err == nil || !strings.Contains(err.Error(), "vswitch") {
		t.Errorf("a part of one: error is %v", err)
	}
	if err := apply(configuration, "text"); err == nil || !strings.Contains(err.Error(), "string") {
		t.Errorf("another type: error is %v", err)
	}
}

// FuzzParse checks that whatever is accepted is printed so that it reads the same.
func FuzzParse(f *testing.F) {
	f.Add(`<network><name>n</name></network>`)
	f.Add(`<network><name>n</name><forward mode='bridge' dev='a'/><mtu size='9000'/><portgroup name='p'><vlan><tag id='4095'/></vlan>` +
		`<bandwidth><inbound average='1' burst='2'/><outbound average='1' burst='2'/></bandwidth></portgroup></network>`)
	f.Add(`<network xmlns='a'><name>n</name></network>`)
	f.Add("<network><name>\u2028</name><portgroup name='&lt;&#x85;'/></network>")
	f.Fuzz(func(t *testing.T, doc string) {
		v, err := parse(doc)
		if err != nil {
			return
		}
		text, err := print(v.document())
		if err != nil {
			t.Fatal(err)
		}
		again, err := parse(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if a, b := fmt.Sprintf("%+v", v), fmt.Sprintf("%+v", again); a != b {
			t.Errorf("%s comes back as %s", a, b)
		}
	})
}
