package storage_test

import (
	"encoding/xml"
	"reflect"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest/peer"
	"github.com/lodgevirt/lodge/sdk/inventory"
	"github.com/lodgevirt/lodge/sdk/poolxml"
)

// libvirt is libvirt's own ESX driver, which is in its client library.
type libvirt struct {
	*bench
	client *peer.Virsh
}

func newLibvirt(b *bench) *libvirt {
	b.Helper()
	client, err := peer.NewVirsh(b.TempDir(), b.server.ForLibvirt(), vimtest.User, vimtest.Password)
	if err != nil {
		b.Skip(err)
	}
	return &libvirt{bench: b, client: client}
}

// virsh runs a command and returns what it prints.
func (p *libvirt) virsh(args ...string) string {
	p.Helper()
	out, err := p.client.Run(p.ctx(), append([]string{"-q"}, args...)...)
	if err != nil {
		p.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// pool reads a pool's definition, without what libvirt makes up.
func (p *libvirt) pool(text string) *poolxml.Pool {
	p.Helper()
	def := &poolxml.Pool{}
	if err := xml.Unmarshal([]byte(text), def); err != nil {
		p.Fatalf("%v in %s", err, text)
	}
	if def.Target != nil {
		def.Target.Permissions = nil
	}
	if def.Target != nil && def.Target.Path == "" {
		def.Target = nil
	}
	return def
}

// volume is what libvirt prints of a volume.
type volume struct {
	Type       string          `xml:"type,attr"`
	Name       string          `xml:"name"`
	Key        string          `xml:"key"`
	Capacity   uint64          `xml:"capacity"`
	Allocation uint64          `xml:"allocation"`
	Path       string          `xml:"target>path"`
	Format     *poolxml.Format `xml:"target>format"`
}

// TestAllIsCalledAsLibvirtsOwnDriverCallsIt compares names, UUIDs, keys, paths, sizes and definitions with those that libvirt's own driver
// prints of the same host.
func TestAllIsCalledAsLibvirtsOwnDriverCallsIt(t *testing.T) {
	b := open(t, vimtest.Options{})
	p := newLibvirt(b)
	pool, dir := b.vmfs("ds1")
	b.server.AddDatastore("nfs1", vimtest.NFS)
	b.server.AddDatastore("local1", vimtest.Local)
	b.server.AddTarget("iqn.2012-11.example:disks", "10.0.0.7", 3260, vimtest.Unit{Name: "naa.600a", Blocks: 2048})
	b.until("all pools", func(v *inventory.View) bool {
		for _, o := range v.Pools {
			if o.GetName() == "nfs1" && o.GetType() != "netfs" {
				return false
			}
		}
		return len(v.Pools) == 5
	})
	b.create(pool, "a/thick.vmdk", mib, "")
	b.create(pool, "a/deep/er/thin.vmdk", 3*mib, thin)
	put(t, dir, "iso/a.iso", make([]byte, 5000))
	put(t, dir, "iso/a.flp", make([]byte, 1000))

	names := strings.Fields(p.virsh("pool-list", "--all", "--name"))
	if len(names) != 5 {
		t.Errorf("libvirt has the pools %q", names)
	}
	for _, name := range names {
		ours, theirs := p.pool(b.object(name).GetXml()), p.pool(p.virsh("pool-dumpxml", name))
		if !reflect.DeepEqual(ours, theirs) {
			t.Errorf("pool %s is %+v, libvirt has %+v", name, ours, theirs)
		}
	}
	for _, name := range []string{"ds1", "iqn.2012-11.example:disks"} {
		all := b.volumes(b.pool(name))
		listed := strings.Split(p.virsh("vol-list", name), "\n")
		if len(listed) != len(all) {
			t.Errorf("pool %s has %d volumes, libvirt lists %q", name, len(all), listed)
		}
		for _, v := range all {
			var theirs volume
			if err := xml.Unmarshal([]byte(p.virsh("vol-dumpxml", v.GetName(), "--pool", name)), &theirs); err != nil {
				t.Fatal(err)
			}
			ours := volume{
				Type: strings.ToLower(strings.TrimPrefix(v.GetType().String(), "VOLUME_TYPE_")), Name: v.GetName(), Key: v.GetKey(),
				Capacity: v.GetCapacity(), Allocation: v.GetAllocation(), Path: v.GetPath(),
			}
			if v.GetFormat() != "" {
				ours.Format = &poolxml.Format{Type: v.GetFormat()}
			}
			if !reflect.DeepEqual(ours, theirs) {
				t.Errorf("volume %+v is for libvirt %+v", ours, theirs)
			}
			if key := p.virsh("vol-key", v.GetName(), "--pool", name); key != v.GetKey() {
				t.Errorf("volume %s has the key %s, for libvirt %s", v.GetName(), v.GetKey(), key)
			}
		}
	}
}
