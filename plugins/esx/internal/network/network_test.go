package network_test

import (
	"crypto/md5"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/vmware/govmomi/vim25/types"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
	"github.com/lodgevirt/lodge/sdk/inventory"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
)

// uuidOf is libvirt's rule, written down once more.
func uuidOf(name string) string {
	return uuid.UUID(md5.Sum([]byte("key-vim.host.VirtualSwitch-" + name))).String()
}

func TestFirstReadingShowsSwitchesAndNICs(t *testing.T) {
	for name, vpx := range map[string]bool{"ESX": false, "VPX": true} {
		t.Run(name, func(t *testing.T) {
			r := start(t, vimtest.Options{VPX: vpx})
			want := &pb.NetworkObject{
				Uuid: uuidOf("vSwitch0"), Name: "vSwitch0", Active: true, Persistent: true, Autostart: true,
				Xml: `<network>
  <name>vSwitch0</name>
  <uuid>` + uuidOf("vSwitch0") + `</uuid>
  <forward dev='vmnic0' mode='bridge'>
    <interface dev='vmnic0'/>
  </forward>
  <portgroup name='VM Network'>
  </portgroup>
</network>
`,
			}
			if diff := cmp.Diff(want, r.network("vSwitch0"), protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
			var nics map[string]*pb.InterfaceObject
			r.feed.Look(func(v *inventory.View) {
				nics = map[string]*pb.InterfaceObject{"0": v.Interfaces["vmnic0"], "1": v.Interfaces["vmnic1"]}
			})
			wantNICs := map[string]*pb.InterfaceObject{
				"0": {Name: "vmnic0", Mac: "00:0c:29:81:d8:a0", Active: true, Xml: nicXML("vmnic0", "speed='10000' state='up'", "00:0c:29:81:d8:a0")},
				"1": {Name: "vmnic1", Mac: "00:0c:29:81:d8:aa", Active: true, Xml: nicXML("vmnic1", "speed='10000' state='up'", "00:0c:29:81:d8:aa")},
			}
			if diff := cmp.Diff(wantNICs, nics, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func nicXML(name, link, mac string) string {
	return "<interface type='ethernet' name='" + name + "'>\n  <link " + link + "/>\n  <mac address='" + mac + "'/>\n</interface>\n"
}

func TestLinkThatGoesDownIsFollowed(t *testing.T) {
	r := start(t, vimtest.Options{})
	r.Link("vmnic1", 0)
	r.until("link goes down", func(v *inventory.View) bool { return !v.Interfaces["vmnic1"].GetActive() })
	r.feed.Look(func(v *inventory.View) {
		if got, want := v.Interfaces["vmnic1"].GetXml(), nicXML("vmnic1", "state='down'", "00:0c:29:81:d8:aa"); got != want {
			t.Errorf("document is %s", got)
		}
		if !v.Interfaces["vmnic0"].GetActive() {
			t.Error("the other link is down too")
		}
	})
	r.Link("vmnic1", 1000)
	r.until("link comes up", func(v *inventory.View) bool {
		return v.Interfaces["vmnic1"].GetXml() == nicXML("vmnic1", "speed='1000' state='up'", "00:0c:29:81:d8:aa")
	})
}

func TestNICAndSwitchThatAreTakenOutAreGone(t *testing.T) {
	r := start(t, vimtest.Options{})
	r.EditNetworking(func(info *types.HostNetworkInfo) { info.Pnic, info.Vswitch = info.Pnic[:1], nil })
	r.until("they are gone", func(v *inventory.View) bool { return len(v.Interfaces) == 1 && len(v.Networks) == 0 })
}

// TestOnlyPortGroupsForMachinesAreShown has the hypervisor's own in each of the ways in which it can be known.
func TestOnlyPortGroupsForMachinesAreShown(t *testing.T) {
	r := start(t, vimtest.Options{})
	r.EditNetworking(func(info *types.HostNetworkInfo) {
		group := func(name, kind string) types.HostPortGroup {
			pg := types.HostPortGroup{Key: "key-vim.host.PortGroup-" + name, Spec: types.HostPortGroupSpec{Name: name, VswitchName: "vSwitch0"}}
			if kind != "" {
				pg.Port = []types.HostPortGroupPort{{Type: kind}}
			}
			return pg
		}
		info.Portgroup = append(info.Portgroup, group("vmotion", "host"), group("console", "systemManagement"), group("idle", ""),
			group("busy", "virtualMachine"), group("odd", "unknown"), group("service", ""))
		info.ConsoleVnic = []types.HostVirtualNic{{Device: "vswif0", Portgroup: "service"}}
	})
	r.until("groups are shown", func(v *inventory.View) bool {
		return strings.Contains(v.Networks[uuidOf("vSwitch0")].GetXml(), "busy")
	})
	xml := r.network("vSwitch0").GetXml()
	for name, shown := range map[string]bool{
		"vmotion": false, "console": false, "service": false, "Management Network": false, "idle": true, "busy": true, "odd": true,
		"VM Network": true,
	} {
		if got := strings.Contains(xml, "<portgroup name='"+name+"'"); got != shown {
			t.Errorf("%s is shown: %v", name, got)
		}
	}
}

func TestWhatHappensDuringAnAbsenceIsShownAfterIt(t *testing.T) {
	for name, absence := range map[string]struct{ begin, end func(r *rig) }{
		"cut":     {func(r *rig) { r.Gate.Cut() }, func(r *rig) { r.Gate.Open() }},
		"hangs":   {func(r *rig) { r.Gate.Hang() }, func(r *rig) { r.Gate.Open() }},
		"garbage": {func(r *rig) { r.Spoiler.Garbage("") }, func(r *rig) { r.Spoiler.Off() }},
		"expired": {func(r *rig) { r.ExpireSessions() }, func(*rig) {}},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, vimtest.Options{})
			gone := r.mustDefine(`<network><name>gone</name></network>`)
			absence.begin(r)
			r.EditNetworking(func(info *types.HostNetworkInfo) {
				info.Vswitch = append(info.Vswitch[:1], types.HostVirtualSwitch{Name: "new", Key: "key-vim.host.VirtualSwitch-new"})
			})
			absence.end(r)
			r.until("the change is shown", func(v *inventory.View) bool {
				return v.Networks[gone.GetUuid()] == nil && v.Networks[uuidOf("new")] != nil
			})
			if diff := cmp.Diff([]string{"new", "vSwitch0"}, r.names()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestHostileNamesAreEscaped(t *testing.T) {
	const evil = `</name><ip address='10.0.0.1'/>&'"` + "\x01\u202e"
	r := start(t, vimtest.Options{})
	r.EditNetworking(func(info *types.HostNetworkInfo) {
		info.Vswitch = append(info.Vswitch, types.HostVirtualSwitch{Name: evil, Key: "key"})
		info.Portgroup = append(info.Portgroup, types.HostPortGroup{Spec: types.HostPortGroupSpec{Name: evil, VswitchName: evil}})
	})
	id := uuid.UUID(md5.Sum([]byte("key"))).String()
	r.until("it is shown", func(v *inventory.View) bool { return v.Networks[id] != nil })
	r.feed.Look(func(v *inventory.View) {
		xml := v.Networks[id].GetXml()
		if strings.Contains(xml, "<ip") || strings.Contains(xml, "\x01") || strings.Count(xml, "&lt;/name&gt;&lt;ip address=") != 2 {
			t.Errorf("document is %s", xml)
		}
	})
}
