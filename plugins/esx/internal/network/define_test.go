package network_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// lab is a network with all that a host has.
const lab = `<network connections='3'>
  <name>lab</name>
  <forward mode='bridge'>
    <interface dev='vmnic1'/>
  </forward>
  <mtu size='9000'/>
  <bandwidth>
    <inbound average='1000' peak='5000' burst='1024'/>
    <outbound average='1000' peak='5000' burst='1024'/>
  </bandwidth>
  <portgroup name='red'>
    <vlan>
      <tag id='42'/>
    </vlan>
    <bandwidth>
      <inbound average='512' peak='600' burst='32'/>
      <outbound average='512' peak='600' burst='32'/>
    </bandwidth>
  </portgroup>
  <portgroup name='all'>
    <vlan trunk='yes'>
      <tag id='4095'/>
    </vlan>
  </portgroup>
</network>
`

func TestDefinitionIsMadeAndShownAsItWas(t *testing.T) {
	for name, vpx := range map[string]bool{"ESX": false, "VPX": true} {
		t.Run(name, func(t *testing.T) {
			r := start(t, vimtest.Options{VPX: vpx})
			before := r.truth()
			o := r.mustDefine(lab)
			shown := strings.NewReplacer(" connections='3'", "", "</name>", "</name>\n  <uuid>"+uuidOf("lab")+"</uuid>",
				"<forward mode", "<forward dev='vmnic1' mode").Replace(lab)
			if diff := cmp.Diff(shown, o.GetXml()); diff != "" {
				t.Error(diff)
			}
			want := before + "\n" + `group all vlan 4095 of lab none
group red vlan 42 of lab 4096000/4800000/32768
lab mtu 9000 nics [key-vim.host.PhysicalNic-vmnic1] 8000000/40000000/1048576 groups [key-vim.host.PortGroup-red key-vim.host.PortGroup-all]`
			if diff := cmp.Diff(sorted(want), r.truth()); diff != "" {
				t.Error(diff)
			}
			if err := r.undefine(o.GetUuid()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, r.truth()); diff != "" {
				t.Error(diff)
			}
			// What was shown is a definition too, with its UUID.
			if diff := cmp.Diff(shown, r.mustDefine(shown).GetXml()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNetworkIsEditedInPlace(t *testing.T) {
	const (
		red  = `<portgroup name='red'/>`
		blue = `<portgroup name='blue'><vlan><tag id='7'/></vlan></portgroup>`
		slow = `<bandwidth><inbound average='8' peak='16' burst='4'/><outbound average='8' peak='16' burst='4'/></bandwidth>`
		nic  = `<forward mode='bridge'><interface dev='vmnic1'/></forward>`
	)
	for _, c := range []struct{ name, before, after string }{
		{"nothing changes", nic + slow + red, nic + slow + red},
		{"a port group comes", red, red + blue},
		{"a port group goes", red + blue, blue},
		{"a VLAN changes", blue, `<portgroup name='blue'><vlan><tag id='8'/></vlan></portgroup>`},
		{"a VLAN goes", blue, `<portgroup name='blue'/>`},
		{"a port group is slowed down", red, `<portgroup name='red'>` + slow + `</portgroup>`},
		{"a port group is set free", `<portgroup name='red'>` + slow + `</portgroup>`, red},
		{"the network is slowed down", red, slow + red},
		{"the network is set free", slow + red, red},
		{"a NIC comes", red, nic + red},
		{"a NIC goes", nic + red, red},
		{"the MTU grows", red, `<mtu size='9000'/>` + red},
		{"the MTU is the default again", `<mtu size='9000'/>` + red, red},
		{"all at once", nic + slow + red, `<mtu size='2000'/>` + blue},
	} {
		t.Run(c.name, func(t *testing.T) {
			doc := func(body string) string { return "<network><name>lab</name>" + body + "</network>" }
			r, fresh := start(t, vimtest.Options{}), start(t, vimtest.Options{})
			made := r.mustDefine(doc(c.before))
			changed := r.mustDefine(doc(c.after))
			if changed.GetUuid() != made.GetUuid() {
				t.Error("it is another network")
			}
			want := fresh.mustDefine(doc(c.after))
			if diff := cmp.Diff(want.GetXml(), changed.GetXml()); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(fresh.truth(), r.truth()); diff != "" {
				t.Error(diff)
			}
			if removals := r.Spoiler.Calls("RemoveVirtualSwitch"); removals != 0 {
				t.Error("it was made anew")
			}
		})
	}
}

func TestDefinitionThatChangesNothingCallsNothing(t *testing.T) {
	r := start(t, vimtest.Options{})
	o := r.mustDefine(lab)
	changes := func() (n int) {
		for _, m := range []string{"AddVirtualSwitch", "UpdateVirtualSwitch", "AddPortGroup", "UpdatePortGroup", "RemovePortGroup"} {
			n += r.Spoiler.Calls(m)
		}
		return n
	}
	before := changes()
	r.mustDefine(o.GetXml())
	if now := changes(); now != before {
		t.Errorf("%d changes were made", now-before)
	}
}

// TestEditKeepsWhatADefinitionCannotSay edits the host's first switch, with its management port group.
func TestEditKeepsWhatADefinitionCannotSay(t *testing.T) {
	r := start(t, vimtest.Options{})
	before := r.Networking().Vswitch[0].Spec
	r.mustDefine(`<network><name>vSwitch0</name><forward mode='bridge'><interface dev='vmnic1'/><interface dev='vmnic0'/></forward>` +
		`<portgroup name='VM Network'><vlan><tag id='5'/></vlan></portgroup></network>`)
	info := r.Networking()
	spec := info.Vswitch[0].Spec
	if diff := cmp.Diff([]string{"vmnic0", "vmnic1"}, spec.Policy.NicTeaming.NicOrder.ActiveNic); diff != "" {
		t.Errorf("order of NICs: %s", diff)
	}
	want, _ := before.Bridge.(*types.HostVirtualSwitchBondBridge)
	got, _ := spec.Bridge.(*types.HostVirtualSwitchBondBridge)
	if diff := cmp.Diff(want.Beacon, got.Beacon); diff != "" || got.LinkDiscoveryProtocolConfig == nil {
		t.Errorf("bridge is %+v", got)
	}
	if diff := cmp.Diff(before.Policy.Security, spec.Policy.Security); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(r.truth(), "group Management Network vlan 0 of vSwitch0") {
		t.Errorf("the hypervisor's own port group is gone: %s", r.truth())
	}
	r.mustDefine(`<network><name>vSwitch0</name><portgroup name='VM Network'/></network>`)
	order := r.Networking().Vswitch[0].Spec.Policy.NicTeaming.NicOrder
	if len(order.ActiveNic)+len(order.StandbyNic) != 0 {
		t.Errorf("order of NICs is %+v", order)
	}
}

func TestDefinitionThatClashesIsRefusedByName(t *testing.T) {
	group := func(name string) string { return `<network><name>lab</name><portgroup name='` + name + `'/></network>` }
	nic := func(dev string) string {
		return `<network><name>lab</name><forward mode='bridge'><interface dev='` + dev + `'/></forward></network>`
	}
	for name, c := range map[string]struct {
		xml   string
		code  verr.Code
		words []string
	}{
		"port group of another network": {group("VM Network"), verr.OperationFailed, []string{"VM Network", "vSwitch0"}},
		"the hypervisor's port group":   {group("Management Network"), verr.OperationFailed, []string{"Management Network", "own"}},
		"NIC of another network":        {nic("vmnic0"), verr.ResourceBusy, []string{"vmnic0", "vSwitch0"}},
		"NIC of a distributed switch":   {nic("vmnic1"), verr.ResourceBusy, []string{"vmnic1", "dvs"}},
		"NIC that is not there":         {nic("vmnic7"), verr.NoInterface, []string{"vmnic7"}},
		"UUID of another network": {
			`<network><name>lab</name><uuid>` + uuidOf("vSwitch0") + `</uuid></network>`, verr.OperationFailed, []string{"vSwitch0", "renamed"},
		},
		"UUID that is made up": {
			`<network><name>lab</name><uuid>11111111-2222-3333-4444-555555555555</uuid></network>`, verr.ConfigUnsupported, []string{"uuid", "lab"},
		},
		"name with another UUID": {
			`<network><name>vSwitch0</name><uuid>11111111-2222-3333-4444-555555555555</uuid></network>`, verr.OperationFailed,
			[]string{"vSwitch0", uuidOf("vSwitch0")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, vimtest.Options{})
			r.EditNetworking(func(info *types.HostNetworkInfo) {
				info.ProxySwitch = []types.HostProxySwitch{{DvsName: "dvs", Pnic: []string{info.Pnic[1].Key}}}
			})
			before := r.truth()
			_, err := r.define(c.xml)
			refused(t, err, c.code, c.words...)
			if diff := cmp.Diff(before, r.truth()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPortGroupThatMachinesUseDoesNotGo(t *testing.T) {
	for name, use := range map[string]func(r *rig){
		"active": func(r *rig) { r.Plug("red", "virtualMachine") },
		"off":    func(r *rig) { r.Create("sleeper"); r.Attach("sleeper", "red") },
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, vimtest.Options{})
			o := r.mustDefine(`<network><name>lab</name><portgroup name='red'/><portgroup name='blue'/></network>`)
			use(r)
			before := r.truth()
			_, err := r.define(`<network><name>lab</name><portgroup name='blue'/></network>`)
			refused(t, err, verr.OperationInvalid, "red", "lab", "machine")
			refused(t, r.undefine(o.GetUuid()), verr.OperationInvalid, "red", "lab", "machine")
			if diff := cmp.Diff(before, r.truth()); diff != "" {
				t.Error(diff)
			}
			r.mustDefine(`<network><name>lab</name><portgroup name='red'/></network>`)
		})
	}
}

func TestUndefineRefusesWhatIsNotThereAndWhatTheHypervisorUses(t *testing.T) {
	r := start(t, vimtest.Options{})
	refused(t, r.undefine("11111111-2222-3333-4444-555555555555"), verr.NoNetwork, "11111111")
	refused(t, r.undefine("not a uuid"), verr.NoNetwork)
	refused(t, r.undefine(uuidOf("vSwitch0")), verr.OperationInvalid, "vSwitch0", "Management Network")
	if got := r.Spoiler.Calls("RemoveVirtualSwitch"); got != 0 {
		t.Errorf("%d removals were tried", got)
	}
}

func sorted(lines string) string {
	all := strings.Split(lines, "\n")
	slices.Sort(all)
	return strings.Join(all, "\n")
}
