package define_test

import (
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/plugins/test/internal/define"
	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// domain is a definition with something before and within its devices.
func domain(before, devices string) string {
	return "<domain type='test'><name>x</name><memory>8192</memory><os><type>hvm</type></os>" + before +
		"<devices>" + devices + "</devices></domain>"
}

func complete(doc string) (string, error) {
	d, err := domxml.Parse(doc)
	if err != nil {
		return "", err
	}
	if err := define.Complete(d); err != nil {
		return "", err
	}
	return domxml.Format(d)
}

func TestCompletesDevicesAsLibvirtDoes(t *testing.T) {
	for name, c := range map[string]struct{ devices, want string }{
		"a disk's device and bus": {
			"<disk type='file'><source file='/x'/><target dev='vda'/></disk>",
			"<disk type='file' device='disk'>\n      <source file='/x'/>\n      <target dev='vda' bus='virtio'/>",
		},
		"a cdrom is read-only": {
			"<disk type='file' device='cdrom'><target dev='hdc'/></disk>",
			"<target dev='hdc' bus='ide'/>\n      <readonly/>",
		},
		"disks of one bus are ordered": {
			"<disk type='file'><target dev='sdaa'/></disk><disk type='file'><target dev='sdb'/></disk>",
			"<target dev='sdb' bus='scsi'/>\n    </disk>\n    <disk type='file' device='disk'>\n      <target dev='sdaa' bus='scsi'/>",
		},
		"a card's name on the host": {
			"<interface type='user'><mac address='52:54:00:00:00:01'/></interface>",
			"<mac address='52:54:00:00:00:01'/>\n      <target dev='testnet0'/>",
		},
		"a second card's name": {
			"<interface type='user'><target dev='testnet0'/></interface><interface type='user'/>",
			"<target dev='testnet1'/>",
		},
		"a serial port is a console": {
			"<serial type='pty'/>",
			"<serial type='pty'>\n      <target port='0'/>\n    </serial>\n    <console type='pty'>\n      <target type='serial' port='0'/>",
		},
		"an input's bus": {"<input type='mouse'/>", "<input type='mouse' bus='ps2'/>"},
		"a display's port and video card": {
			"<graphics type='vnc'/>",
			"<graphics type='vnc' port='-1' autoport='yes'>\n      <listen type='address'/>\n    </graphics>\n    <video>\n" +
				"      <model type='cirrus' heads='1' vram='16384' primary='yes'/>",
		},
	} {
		t.Run(name, func(t *testing.T) {
			once, err := complete(domain("", c.devices))
			if err != nil || !strings.Contains(once, c.want) {
				t.Fatalf("got %v\n%s\nwithout\n%s", err, once, c.want)
			}
			if twice, err := complete(once); err != nil || once != twice {
				t.Errorf("completing twice changes it: %v\n%s\n%s", err, once, twice)
			}
		})
	}
}

func TestRefusesByName(t *testing.T) {
	for name, c := range map[string]struct {
		doc, says string
		code      verr.Code
	}{
		"an unknown type": {
			strings.Replace(domain("", ""), "type='test'", "type='foo'", 1), "invalid domain type foo", verr.ConfigUnsupported,
		},
		"an unknown architecture": {
			strings.Replace(domain("", ""), "<type>", "<type arch='pdp11'>", 1), "Unknown architecture pdp11", verr.ConfigUnsupported,
		},
		"a disk without a target": {domain("", "<disk type='file'/>"), "target", verr.XMLError},
		"a disk of unknown bus":   {domain("", "<disk type='file'><target dev='zz'/></disk>"), "zz", verr.XMLError},
		"one target twice": {
			domain("", strings.Repeat("<disk type='file'><target dev='vda'/></disk>", 2)), "'vda' duplicated", verr.XMLError,
		},
		"a malformed address": {
			domain("", "<interface type='user'><mac address='foo'/></interface>"), "unable to parse mac", verr.XMLError,
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := complete(c.doc)
			if !verr.Is(err, c.code) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want code %d that says %q", err, c.code, c.says)
			}
		})
	}
}

func TestShape(t *testing.T) {
	d, err := domxml.Parse(domain("<on_poweroff>restart</on_poweroff><vcpu current='1'>2</vcpu>",
		"<disk type='file'><source file='/x'/><target dev='vda'/></disk><serial type='pty'/><interface type='user'/>"+
			"<channel type='unix'><target type='virtio' name='a'/></channel>"))
	if err != nil {
		t.Fatal(err)
	}
	if err := define.Complete(d); err != nil {
		t.Fatal(err)
	}
	s := define.ShapeOf(d)
	switch {
	case s.VCPUs != 1 || s.MaxVCPUs != 2 || s.MemoryKiB != 8192:
		t.Errorf("sizes: %+v", s)
	case !s.RestartsOnPoweroff || !s.RestartsOnReboot:
		t.Errorf("actions: %+v", s)
	case len(s.Disks) != 1 || s.Disks[0] != define.Disk{Target: "vda", Path: "/x"} || s.Interfaces[0] != "testnet0":
		t.Errorf("devices: %+v", s)
	case strings.Join(s.Consoles, " ") != "serial0 console0" || strings.Join(s.Channels, " ") != "channel0":
		t.Errorf("consoles: %+v", s)
	}
}
