package domxml_test

import (
	"fmt"
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// furnished is a domain with several devices of each kind.
const furnished = `<domain type='test'><name>x</name><memory>2048</memory><os><type>hvm</type></os><devices>
<disk type='file' device='disk'><source file='/a'/><target dev='vda' bus='virtio'/><alias name='virtio-disk0'/></disk>
<disk type='block' device='disk'><source dev='/dev/b'/><target dev='vdb' bus='virtio'/><alias name='virtio-disk1'/></disk>
<controller type='usb' index='0'/><controller type='scsi' index='0'/>
<lease><lockspace>ls</lockspace><key>k</key><target path='/l'/></lease>
<interface type='user'><mac address='52:54:00:00:00:01'/><alias name='net0'/></interface>
<interface type='user'><mac address='52:54:00:00:00:02'/><alias name='net1'/><address type='pci' domain='0' bus='0' slot='5' function='0'/></interface>
<interface type='user'><mac address='52:54:00:00:00:02'/><alias name='net2'/><address type='pci' domain='0' bus='0' slot='6' function='0'/></interface>
<input type='mouse' bus='ps2'/><input type='tablet' bus='usb'/>
<memballoon model='virtio'><alias name='balloon0'/></memballoon>
</devices></domain>`

func devices(t *testing.T) *libvirtxml.DomainDeviceList {
	t.Helper()
	d, err := domxml.Parse(furnished)
	if err != nil {
		t.Fatal(err)
	}
	return d.Devices
}

func TestDeviceIsFoundAsLibvirtFindsIt(t *testing.T) {
	for name, c := range map[string]struct {
		like string
		// want is a part of what is found, or of the error.
		want string
		code verr.Code
	}{
		"a disk by its target":          {"<disk type='file'><target dev='vdb'/></disk>", "/dev/b", 0},
		"a disk by another source":      {"<disk type='file'><source file='/z'/><target dev='vda'/></disk>", "/a", 0},
		"a disk that is not there":      {"<disk type='file'><target dev='vdc'/></disk>", "disk vdc not found", verr.DeviceMissing},
		"a disk without a target":       {"<disk type='file'/>", "not found", verr.DeviceMissing},
		"a card by its MAC":             {"<interface type='user'><mac address='52:54:00:00:00:01'/></interface>", "net0", 0},
		"a MAC in capitals":             {"<interface type='user'><mac address='52:54:00:00:00:0a'/></interface>", "52:54:00:00:00:0a found", verr.DeviceMissing},
		"one of two cards with a MAC":   {"<interface type='user'><mac address='52:54:00:00:00:02'/></interface>", "multiple", verr.OperationFailed},
		"such a card by its address":    {"<interface type='user'><mac address='52:54:00:00:00:02'/><address type='pci' slot='6'/></interface>", "net2", 0},
		"such a card by its alias":      {"<interface type='user'><mac address='52:54:00:00:00:02'/><alias name='net1'/></interface>", "net1", 0},
		"a controller":                  {"<controller type='scsi' index='0' model='virtio-scsi'/>", "scsi", 0},
		"a controller of another index": {"<controller type='scsi' index='1'/>", "controller", verr.DeviceMissing},
		"a lease":                       {"<lease><lockspace>ls</lockspace><key>k</key></lease>", "/l", 0},
		"a lease of another key":        {"<lease><lockspace>ls</lockspace><key>j</key></lease>", "Lease j", verr.DeviceMissing},
		"an input":                      {"<input type='tablet' bus='usb'/>", "tablet", 0},
		"an input of another bus":       {"<input type='tablet' bus='virtio'/>", "input", verr.DeviceMissing},
		"the only device of its kind":   {"<memballoon model='virtio'/>", "balloon0", 0},
	} {
		t.Run(name, func(t *testing.T) {
			like, err := domxml.ParseDevice(c.like)
			if err != nil {
				t.Fatal(err)
			}
			found, err := domxml.FindDevice(devices(t), like)
			got := fmt.Sprint(err)
			if err == nil {
				got, err = found.XML()
			}
			if c.code == 0 && err != nil || c.code != 0 && !verr.Is(err, c.code) || !strings.Contains(got, c.want) {
				t.Errorf("got %s (%v), want %s", got, err, c.want)
			}
		})
	}
}

func TestDeviceByAlias(t *testing.T) {
	list := devices(t)
	d, err := domxml.FindAlias(list, "virtio-disk1")
	if err != nil || d.Value != &list.Disks[1] {
		t.Errorf("found %v, %v", d, err)
	}
	for _, alias := range []string{"", "virtio-disk2"} {
		if _, err := domxml.FindAlias(list, alias); !verr.Is(err, verr.DeviceMissing) {
			t.Errorf("alias %q: %v", alias, err)
		}
	}
}

func TestDevicesComeAndGo(t *testing.T) {
	list := devices(t)
	before := len(domxml.Devices(list))
	for _, text := range []string{
		"<disk type='file' device='disk'>\n  <source file='/n'/>\n  <target dev='vdn' bus='virtio'/>\n</disk>\n",
		"<lease>\n  <lockspace>n</lockspace>\n  <key>n</key>\n  <target path='/n'/>\n</lease>\n",
		"<rng model='virtio'>\n  <backend model='random'>/dev/urandom</backend>\n</rng>\n",
	} {
		d, err := domxml.ParseDevice(text)
		if err != nil {
			t.Fatal(err)
		}
		added, err := domxml.AddDevice(list, d)
		if err != nil {
			t.Fatal(err)
		}
		if printed, err := added.XML(); err != nil || printed != text {
			t.Errorf("prints %s, %v, want %s", printed, err, text)
		}
		if n := len(domxml.Devices(list)); n != before+1 {
			t.Errorf("%d devices after one was added to %d", n, before)
		}
		found, err := domxml.FindDevice(list, d)
		if err != nil || found.Value != added.Value {
			t.Errorf("what was added is not found: %v", err)
		}
		domxml.RemoveDevice(list, found)
		if _, err := domxml.FindDevice(list, d); !verr.Is(err, verr.DeviceMissing) || len(domxml.Devices(list)) != before {
			t.Errorf("what was removed is still there: %v", err)
		}
	}
	balloon, err := domxml.ParseDevice("<memballoon model='virtio'/>")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := domxml.AddDevice(list, balloon); !verr.Is(err, verr.OperationInvalid) {
		t.Errorf("a second balloon: %v", err)
	}
	domxml.RemoveDevice(list, balloon)
	if _, err := domxml.AddDevice(list, balloon); err != nil || list.MemBalloon == nil || list.MemBalloon.Alias != nil {
		t.Errorf("another balloon: %v", err)
	}
}

func TestNoDevice(t *testing.T) {
	for name, text := range map[string]string{
		"nothing": "", "no XML": "hello", "no device": "<fish/>", "the emulator": "<emulator>/x</emulator>", "two": "<disk/><disk/>",
		"an entity": "<!DOCTYPE a [<!ENTITY b 'c'>]><disk/>", "an open element": "<disk>", "a broken value": "<controller type='usb' index='x'/>",
		"a way out": "</devices><devices>",
	} {
		if d, err := domxml.ParseDevice(text); !verr.Is(err, verr.XMLError) && !verr.Is(err, verr.ConfigUnsupported) {
			t.Errorf("%s: %v, %v", name, d, err)
		}
	}
	if _, err := domxml.ParseDevice("<fish/>"); !verr.Is(err, verr.ConfigUnsupported) {
		t.Errorf("a fish: %v", err)
	}
}

func TestTextsAreKept(t *testing.T) {
	title := strings.Replace(minimal, "<memory>", "<title>T</title><metadata><a xmlns='u:a'>1 <b/></a></metadata><memory>", 1)
	from, err := domxml.Reformat(title)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := domxml.Reformat(strings.Replace(minimal, "2048", "4096", 1))
	if err != nil {
		t.Fatal(err)
	}
	got, err := domxml.KeepTexts(from, plain)
	if want := strings.Replace(from, "2048", "4096", 1); err != nil || got != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	if got, err = domxml.KeepTexts(plain, got); err != nil || got != plain {
		t.Errorf("without them again: %s, %v", got, err)
	}
}

func FuzzParseDevice(f *testing.F) {
	f.Add("<disk type='file' device='disk'><source file='/a'/><target dev='vda'/></disk>")
	f.Add("<interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/></interface>")
	f.Add("<lease><lockspace>n</lockspace><key>n</key><target path='/n'/></lease>")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := domxml.ParseDevice(text)
		if err != nil {
			return
		}
		list := &libvirtxml.DomainDeviceList{}
		added, err := domxml.AddDevice(list, d)
		if err != nil {
			t.Fatal(err)
		}
		domxml.MatchDevices(list, d)
		domxml.RemoveDevice(list, added)
		if n := len(domxml.Devices(list)); n != 0 {
			t.Fatalf("%d devices are left", n)
		}
	})
}
