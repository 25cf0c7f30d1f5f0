package door

import (
	"strings"
	"testing"

	libvirt "github.com/digitalocean/go-libvirt"
)

func TestDevicesOfADefinition(t *testing.T) {
	b := newBench(t, Limits{})
	c := b.open(b.path)
	var found libvirt.DomainDefineXMLFlagsRet
	c.must(procDomainDefineXmlFlags, &libvirt.DomainDefineXMLFlagsArgs{XML: guestXML("guest")}, &found)
	const drive = "<disk type='file' device='cdrom'><source file='/a.iso'/><target dev='hdc' bus='ide'/><alias name='ua-drive'/></disk>"
	has := func(text string) bool {
		var xml libvirt.DomainGetXMLDescRet
		c.must(procDomainGetXmlDesc, &libvirt.DomainGetXMLDescArgs{Dom: found.Dom}, &xml)
		return strings.Contains(xml.XML, text)
	}
	for _, step := range []struct {
		name string
		proc int32
		args any
		text string
		want bool
	}{
		{"attach", procDomainAttachDeviceFlags, &libvirt.DomainAttachDeviceFlagsArgs{Dom: found.Dom, XML: drive, Flags: 2}, "/a.iso", true},
		{
			"update", procDomainUpdateDeviceFlags,
			&libvirt.DomainUpdateDeviceFlagsArgs{Dom: found.Dom, XML: strings.Replace(drive, "a.iso", "b.iso", 1), Flags: 6}, "/b.iso", true,
		},
		{"detach", procDomainDetachDeviceFlags, &libvirt.DomainDetachDeviceFlagsArgs{Dom: found.Dom, XML: drive}, "/b.iso", false},
		{"attach what is current", procDomainAttachDeviceFlags, &libvirt.DomainAttachDeviceFlagsArgs{Dom: found.Dom, XML: drive}, "/a.iso", true},
		{"detach by alias", procDomainDetachDeviceAlias, &libvirt.DomainDetachDeviceAliasArgs{Dom: found.Dom, Alias: "ua-drive", Flags: 2}, "/a.iso", false},
	} {
		c.must(step.proc, step.args, nil)
		if got := has(step.text); got != step.want {
			t.Errorf("%s: the definition has %s: %v", step.name, step.text, got)
		}
	}
	for name, tc := range map[string]struct {
		proc int32
		args any
		code int32
	}{
		"without flags the guest is meant":          {procDomainAttachDevice, &libvirt.DomainAttachDeviceArgs{Dom: found.Dom, XML: drive}, 55},
		"and in detaching":                          {procDomainDetachDevice, &libvirt.DomainDetachDeviceArgs{Dom: found.Dom, XML: drive}, 55},
		"force is for updates":                      {procDomainAttachDeviceFlags, &libvirt.DomainAttachDeviceFlagsArgs{Dom: found.Dom, XML: drive, Flags: 4}, 8},
		"unknown flags of detach":                   {procDomainDetachDeviceFlags, &libvirt.DomainDetachDeviceFlagsArgs{Dom: found.Dom, XML: drive, Flags: 8}, 8},
		"unknown flags of update":                   {procDomainUpdateDeviceFlags, &libvirt.DomainUpdateDeviceFlagsArgs{Dom: found.Dom, XML: drive, Flags: 8}, 8},
		"unknown flags of detach by alias":          {procDomainDetachDeviceAlias, &libvirt.DomainDetachDeviceAliasArgs{Dom: found.Dom, Alias: "x", Flags: 4}, 8},
		"an alias that is not there":                {procDomainDetachDeviceAlias, &libvirt.DomainDetachDeviceAliasArgs{Dom: found.Dom, Alias: "x"}, 99},
		"a device that is not there":                {procDomainDetachDeviceFlags, &libvirt.DomainDetachDeviceFlagsArgs{Dom: found.Dom, XML: drive}, 99},
		"what is no device":                         {procDomainAttachDeviceFlags, &libvirt.DomainAttachDeviceFlagsArgs{Dom: found.Dom, XML: "<domain/>", Flags: 2}, 67},
		"a device for a domain that does not exist": {procDomainAttachDevice, &libvirt.DomainAttachDeviceArgs{XML: drive}, 42},
	} {
		t.Run(name, func(t *testing.T) {
			if e := c.call(tc.proc, tc.args, nil); e == nil || e.Code != tc.code {
				t.Errorf("error %+v, want code %d", e, tc.code)
			}
		})
	}
}
