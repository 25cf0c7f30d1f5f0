package network_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest/peer"
	"github.com/lodgevirt/lodge/sdk/inventory"
)

// TestNetworksAreThoseOfLibvirtsOwnDriver has each define what the other shows. Names are plain: libvirt's driver escapes them neither in its XML
// nor in its calls.
func TestNetworksAreThoseOfLibvirtsOwnDriver(t *testing.T) {
	r := start(t, vimtest.Options{Peer: true})
	virsh, err := peer.NewVirsh(t.TempDir(), r.Address(), vimtest.User, vimtest.Password)
	if err != nil {
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const fast = `<bandwidth><inbound average='1000' peak='5000' burst='1024'/>` +
		`<outbound average='1000' peak='5000' burst='1024'/></bandwidth>`
	docs := map[string]string{
		"inner": `<network><name>inner</name></network>`,
		"outer": `<network><name>outer</name><forward mode='bridge'><interface dev='vmnic1'/></forward>` + fast +
			`<portgroup name='red'>` + fast + `</portgroup><portgroup name='blue'/></network>`,
	}
	same := func(uuid string) {
		t.Helper()
		theirs, err := virsh.Run(ctx, "net-dumpxml", uuid)
		if err != nil {
			t.Error(err)
		}
		r.until("it is shown", func(v *inventory.View) bool { return v.Networks[uuid] != nil })
		var ours string
		r.feed.Look(func(v *inventory.View) { ours = v.Networks[uuid].GetXml() })
		if diff := cmp.Diff(strings.TrimSpace(theirs), strings.TrimSpace(ours)); diff != "" {
			t.Error(diff)
		}
	}
	same(uuidOf("vSwitch0"))
	for name, doc := range docs {
		o := r.mustDefine(doc)
		same(o.GetUuid())
		if err := r.undefine(o.GetUuid()); err != nil {
			t.Error(err)
		}
		file := filepath.Join(t.TempDir(), "network.xml")
		if err := os.WriteFile(file, []byte(doc), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := virsh.Run(ctx, "net-define", file); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		r.until("theirs is shown", func(v *inventory.View) bool {
			return strings.Count(v.Networks[o.GetUuid()].GetXml(), "<portgroup") == strings.Count(doc, "<portgroup")
		})
		same(o.GetUuid())
	}
}
