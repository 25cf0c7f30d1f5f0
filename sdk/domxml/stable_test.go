package domxml

import (
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/sdk/verr"
)

const saved = `<domain type='qemu'>
  <name>guest</name>
  <uuid>21604e7e-b2f2-401f-82f0-79a621cee369</uuid>
  <memory unit='KiB'>98304</memory>
  <vcpu placement='static'>1</vcpu>
  <os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type><boot dev='hd'/></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='/images/a.img'/>
      <target dev='vda' bus='virtio'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x05' function='0x0'/>
    </disk>
    <interface type='network'>
      <mac address='52:54:00:00:00:01'/>
      <source network='default'/>
      <model type='virtio'/>
    </interface>
    <serial type='pty'><target type='isa-serial' port='0'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <graphics type='vnc' port='-1' autoport='yes'/>
  </devices>
</domain>`

func TestCheckStable(t *testing.T) {
	for name, c := range map[string]struct {
		from, to string
		// want is a part of the error, or empty.
		want string
	}{
		"nothing":              {},
		"an image":             {from: "/images/a.img", to: "/images/b.qcow2"},
		"the format of one":    {from: "type='raw'", to: "type='qcow2' cache='none'"},
		"a kind of image":      {from: "<disk type='file' device='disk'>\n      <driver name='qemu' type='raw'/>\n      <source file='/images/a.img'/>", to: "<disk type='block' device='disk'><source dev='/dev/sdz'/>"},
		"a network":            {from: "network='default'", to: "network='other'"},
		"where a console goes": {from: "<serial type='pty'>", to: "<serial type='null'>"},
		"a password":           {from: "autoport='yes'", to: "autoport='yes' passwd='x'"},
		"a description":        {from: "<memory", to: "<title>Hello</title><memory"},
		"the memory":           {from: "98304", to: "131072", want: "131072"},
		"the processors":       {from: ">1</vcpu>", to: ">2</vcpu>", want: ">2</vcpu>"},
		"the machine":          {from: "pc-i440fx-7.2", to: "pc-i440fx-7.1", want: "pc-i440fx-7.1"},
		"the name":             {from: ">guest<", to: ">host<", want: "domain name host does not match source guest"},
		"the uuid":             {from: "21604e7e", to: "21604e70", want: "uuid 21604e70"},
		"the type":             {from: "type='qemu'>", to: "type='kvm'>", want: "type kvm"},
		"a disk's target":      {from: "dev='vda'", to: "dev='vdb'", want: "vdb"},
		"a disk's place":       {from: "slot='0x05'", to: "slot='0x06'", want: "slot='0x06'"},
		"a card's address":     {from: "00:00:01", to: "00:00:02", want: "52:54:00:00:00:02"},
		"a device fewer":       {from: "<serial type='pty'><target type='isa-serial' port='0'/></serial>", want: "<serial>"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.from != "" && !strings.Contains(saved, c.from) {
				t.Fatalf("the definition has no %q", c.from)
			}
			err := CheckStable(saved, strings.Replace(saved, c.from, c.to, 1))
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !verr.Is(err, verr.ConfigUnsupported) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want one about %s", err, c.want)
			}
		})
	}
	if err := CheckStable(saved, "<domain"); !verr.Is(err, verr.XMLError) {
		t.Errorf("a definition that is none: %v", err)
	}
}
