package poolxml_test

import (
	"math"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/sdk/poolxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const id = "12345678-0000-4000-8000-000000000001"

// full is a definition with most of what a pool can have, as libvirt prints it.
const full = `<pool type='a'>
  <name>p</name>
  <uuid>` + id + `</uuid>
  <features>
    <cow state='yes'/>
  </features>
  <source>
    <host name='h1' port='1'/>
    <host name='::1'/>
    <device path='/dev/a' part_separator='yes'/>
    <dir path='/x'/>
    <name>source</name>
    <initiator>
      <iqn name='iqn.2012-11.test:a'/>
    </initiator>
    <format type='ext4'/>
    <auth type='chap' username='me'>
      <secret uuid='` + id + `'/>
    </auth>
    <vendor name='v'/>
    <product name='w'/>
  </source>
  <target>
    <path>/t</path>
    <permissions>
      <mode>0711</mode>
      <owner>1</owner>
      <group>2</group>
    </permissions>
  </target>
</pool>
`

func TestADefinitionIsPrintedAsLibvirtDoes(t *testing.T) {
	p, err := poolxml.Parse(full, "b", "a")
	if err != nil {
		t.Fatal(err)
	}
	if text, err := p.XML(); err != nil || text != full {
		t.Errorf("printed as\n%s, error %v", text, err)
	}
	rsp, err := p.Validated([]string{"x"}, "iscsi")
	if err != nil || rsp.GetXml() != full || rsp.GetTargetPath() != "/t" || len(rsp.GetSecrets()) != 1 || rsp.GetSecrets()[0].GetUsageType() != "iscsi" {
		t.Errorf("validated as %v, error %v", rsp, err)
	}
	if mode, owner, group := p.Target.Permissions.Values(0); mode != 0o711 || owner != 1 || group != 2 {
		t.Errorf("permissions are %o, %d, %d", mode, owner, group)
	}
}

func TestNameAndUUIDAreCompleted(t *testing.T) {
	p, err := poolxml.Parse("<pool type='a'><source><name> s </name></source></pool>", "a")
	if err != nil || p.Name != "s" || len(p.UUID) != 36 || p.Target != nil {
		t.Errorf("pool %+v, error %v", p, err)
	}
}

func TestRefusedDefinitions(t *testing.T) {
	replace := func(old, with string) string { return strings.Replace(full, old, with, 1) }
	for name, c := range map[string]struct {
		text string
		want verr.Code
	}{
		"nothing":                      {"", verr.XMLError},
		"another type":                 {replace("type='a'", "type='c'"), verr.ConfigUnsupported},
		"no name":                      {"<pool type='a'/>", verr.XMLError},
		"a UUID that is none":          {replace("<uuid>"+id, "<uuid>x"), verr.XMLError},
		"a mode that is none":          {replace("0711", "0788"), verr.XMLError},
		"an owner that is none":        {replace("<owner>1", "<owner>x"), verr.XMLError},
		"an unknown authentication":    {replace("'chap'", "'magic'"), verr.XMLError},
		"an authentication of nobody":  {replace("'me'", "''"), verr.XMLError},
		"a secret of nothing":          {replace("<secret uuid='"+id+"'/>", "<secret/>"), verr.XMLError},
		"a secret by two names":        {replace("<secret uuid='"+id+"'/>", "<secret uuid='"+id+"' usage='x'/>"), verr.XMLError},
		"a secret's UUID that is none": {replace("<secret uuid='"+id+"'/>", "<secret uuid='x'/>"), verr.XMLError},
	} {
		if _, err := poolxml.Parse(c.text, "a"); !verr.Is(err, c.want) {
			t.Errorf("%s: %v, want code %d", name, err, c.want)
		}
	}
}

func TestWhatAPoolNeeds(t *testing.T) {
	p := &poolxml.Pool{}
	if p.NeedTarget() == nil || p.NeedHost(1) == nil || p.NeedDevices(1) == nil {
		t.Error("nothing is enough")
	}
	p.Target = &poolxml.Target{Path: "/a/../b/"}
	p.Source.Hosts = []poolxml.Host{{Name: "h"}, {Name: "i"}}
	p.Source.Devices = []poolxml.Device{{Path: "/dev/a"}}
	if err := p.NeedTarget(); err != nil || p.Target.Path != "/b" {
		t.Errorf("target %q, error %v", p.Target.Path, err)
	}
	if p.NeedHost(2) != nil || p.NeedHost(1) == nil || p.NeedDevices(1) != nil {
		t.Error("counts are not kept")
	}
	if err := p.NeedFormat("x", "y"); err != nil || p.Source.Format.Type != "x" {
		t.Errorf("format %v, error %v", p.Source.Format, err)
	}
	if err := p.NeedFormat("y"); !verr.Is(err, verr.ConfigUnsupported) {
		t.Errorf("an unknown format: %v", err)
	}
	for _, h := range []poolxml.Host{
		{Name: "-o"},
		{Name: "a b"},
		{Name: "a/b"},
		{Name: "a,b"},
		{Name: ""},
		{Name: "a\x00"},
		{Name: strings.Repeat("a", 256)},
		{Name: "a", Port: "0"},
		{Name: "a", Port: "65536"},
		{Name: "a", Port: "http"},
	} {
		if h.Check() == nil {
			t.Errorf("host %+v is taken", h)
		}
	}
	if h := (poolxml.Host{Name: "::1", Port: "70"}); h.Check() != nil || h.Number(1) != 70 || (poolxml.Host{}).Number(1) != 1 {
		t.Error("a good host is refused, or has another port")
	}
}

func TestVolumes(t *testing.T) {
	v, err := poolxml.ParseVolume("<volume><name>v</name><capacity unit='G'>1</capacity></volume>", nil, "raw")
	if err != nil || v.CapacityBytes != 1<<30 || v.AllocationBytes != 1<<30 || !v.Whole || v.Target.Format.Type != "raw" {
		t.Errorf("volume %+v, error %v", v, err)
	}
	from := uint64(5)
	if v, err = poolxml.ParseVolume("<volume><name>v</name></volume>", &from, "raw"); err != nil || v.CapacityBytes != 5 {
		t.Errorf("a copy is %+v, error %v", v, err)
	}
	encrypted := "<volume><name>v</name><capacity>1</capacity><target><encryption format='luks'><secret uuid='" + id + "'/></encryption></target></volume>"
	if v, err = poolxml.ParseVolume(encrypted, nil, "raw"); err != nil || v.NeedImage() != nil || !verr.Is(v.NeedPlain(), verr.ConfigUnsupported) {
		t.Errorf("an encrypted one is %+v, error %v", v, err)
	}
	big := "<volume><name>v</name><capacity unit='EiB'>8</capacity></volume>"
	if v, err = poolxml.ParseVolume(big, nil, "raw"); !verr.Is(err, verr.Overflow) {
		t.Errorf("a volume of more than %d bytes is %+v, error %v", math.MaxInt64, v, err)
	}
	if _, err = poolxml.ParseVolume("<volume><name>a/b</name><capacity>1</capacity></volume>", nil, "raw"); !verr.Is(err, verr.XMLError) {
		t.Errorf("a name with a slash: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(full)
	f.Add("<pool type='a'><source><name>s</name></source></pool>")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := poolxml.Parse(text, "a")
		if err != nil {
			return
		}
		first, err := p.XML()
		if err != nil {
			t.Fatal(err)
		}
		again, err := poolxml.Parse(first, "a")
		if err != nil {
			t.Fatalf("%q cannot be read again: %v", first, err)
		}
		if second, err := again.XML(); err != nil || second != first {
			t.Errorf("%q came back as %q, error %v", first, second, err)
		}
	})
}
