package define

import (
	"slices"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/plugins/storage/internal/corpustest"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// TestPoolCorpus compares with what libvirt makes of its definitions of this driver's types.
func TestPoolCorpus(t *testing.T) {
	corpustest.Pools(t, func(text string) (string, error) {
		p, err := ParsePool(text)
		if err != nil {
			return "", err
		}
		return p.XML()
	}, "iscsi")
}

func definition(kind, source, more string) string {
	return "<pool type='" + kind + "'><name>p</name><source>" + source + "</source>" + more + "</pool>"
}

const (
	host      = "<host name='127.0.0.1' port='13260'/>"
	device    = "<device path='iqn.2012-11.test:disks'/>"
	initiator = "<initiator><iqn name='iqn.2012-11.test:self'/></initiator>"
	chap      = "<auth type='chap' username='me'><secret usage='disks'/></auth>"
	target    = "<target><path>/dev/disk/by-path</path></target>"
)

func TestDefinitions(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want verr.Code
	}{
		"kernel":                    {definition(Kernel, host+device, target), verr.OK},
		"direct":                    {definition(Direct, host+device+initiator, ""), verr.OK},
		"direct with a password":    {definition(Direct, host+device+initiator+chap, ""), verr.OK},
		"direct with a target":      {definition(Direct, host+device+initiator, target), verr.OK},
		"no host":                   {definition(Direct, device+initiator, ""), verr.XMLError},
		"two hosts":                 {definition(Direct, host+host+device+initiator, ""), verr.XMLError},
		"no device":                 {definition(Direct, host+initiator, ""), verr.XMLError},
		"two devices":               {definition(Direct, host+device+device+initiator, ""), verr.XMLError},
		"a target like an option":   {definition(Kernel, host+"<device path='--op=delete'/>", target), verr.XMLError},
		"a target that leads out":   {definition(Kernel, host+"<device path='../x'/>", target), verr.XMLError},
		"a target with a space":     {definition(Kernel, host+"<device path='a b'/>", target), verr.XMLError},
		"direct without initiator":  {definition(Direct, host+device, ""), verr.XMLError},
		"an empty initiator":        {definition(Direct, host+device+"<initiator><iqn name=''/></initiator>", ""), verr.XMLError},
		"kernel without target":     {definition(Kernel, host+device, ""), verr.XMLError},
		"another's authentication":  {definition(Direct, host+device+initiator+strings.Replace(chap, "chap", "ceph", 1), ""), verr.ConfigUnsupported},
		"another's pool":            {definition("rbd", host, ""), verr.ConfigUnsupported},
		"a port that is none":       {definition(Direct, "<host name='h' port='99999'/>"+device+initiator, ""), verr.XMLError},
		"an initiator with a quote": {definition(Direct, host+device+"<initiator><iqn name='a&quot;b'/></initiator>", ""), verr.XMLError},
	} {
		_, err := ParsePool(c.text)
		if e := verr.From(err); (e == nil) != (c.want == verr.OK) || e != nil && e.Code != c.want {
			t.Errorf("%s: %v, want code %d", name, err, c.want)
		}
	}
}

func TestNames(t *testing.T) {
	p, err := ParsePool(definition(Direct, "<host name='::1'/>"+device+initiator+chap, ""))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.Link(3), "ip-[::1]:3260-iscsi-iqn.2012-11.test:disks-lun-3"; got != want {
		t.Errorf("key %q, want %q", got, want)
	}
	n := p.Network(3)
	if n.Protocol != "iscsi" || n.Name != "iqn.2012-11.test:disks/3" || n.User != "me" || n.Secret.GetUsage() != "disks" || n.Hosts[0].Port != 3260 {
		t.Errorf("network source %v", n)
	}
	if want := []string{"iscsi-direct [::1]:3260 iqn.2012-11.test:disks iqn.2012-11.test:self"}; !slices.Equal(p.Exclusive(), want) {
		t.Errorf("exclusive %q", p.Exclusive())
	}
	for name, want := range map[string]int{"unit:0:0:0": 0, "unit:0:0:255": 255, "unit:0:0:16684": 16684} {
		if lun, ok := Unit(name); !ok || lun != want || VolumeName(lun) != name {
			t.Errorf("%q is unit %d, %v", name, lun, ok)
		}
	}
	for _, name := range []string{"", "unit:0:0:", "unit:0:0:-1", "unit:0:0:01", "unit:0:1:1", "unit:0:0:99999", "a"} {
		if _, ok := Unit(name); ok {
			t.Errorf("%q is a unit", name)
		}
	}
}

func FuzzParsePool(f *testing.F) {
	f.Add(definition(Kernel, host+device, target))
	f.Add(definition(Direct, host+device+initiator+chap, ""))
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePool(text)
		if err != nil {
			return
		}
		first, err := p.XML()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParsePool(first)
		if err != nil {
			t.Fatalf("%q cannot be read again: %v", first, err)
		}
		if second, err := again.XML(); err != nil || second != first {
			t.Errorf("%q came back as %q, error %v", first, second, err)
		}
	})
}
