package define

import (
	"slices"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/sdk/verr"
)

func definition(source string) string {
	return "<pool type='sheepdog'><name>p</name><source>" + source + "</source></pool>"
}

func TestDefinitionsAreCompleted(t *testing.T) {
	p, err := ParsePool(definition("<host name='localhost'/>"))
	if err != nil {
		t.Fatal(err)
	}
	if p.Source.Name != "p" || p.Port() != 7000 || p.Key("v") != "p/v" || !slices.Equal(p.Exclusive(), []string{"sheepdog localhost 7000"}) {
		t.Errorf("pool %+v, exclusive %q", p, p.Exclusive())
	}
	if n := p.Network("v"); n.Protocol != "sheepdog" || n.Name != "v" || n.Hosts[0].Name != "localhost" || n.Hosts[0].Port != 7000 {
		t.Errorf("network source %v", n)
	}
	text, err := p.XML()
	if err != nil || strings.Contains(text, "target") || !strings.Contains(text, "<host name='localhost'/>\n    <name>p</name>") {
		t.Errorf("definition %s, error %v", text, err)
	}
	for name, c := range map[string]struct {
		source string
		want   verr.Code
	}{
		"no host":        {"<name>a</name>", verr.XMLError},
		"two hosts":      {"<host name='a'/><host name='b'/>", verr.XMLError},
		"an option":      {"<host name='-a'/>", verr.XMLError},
		"a port":         {"<host name='a' port='x'/>", verr.XMLError},
		"a name":         {"<host name='a'/><name>a/b</name>", verr.XMLError},
		"authentication": {"<host name='a'/><auth type='ceph' username='a'><secret usage='u'/></auth>", verr.ConfigUnsupported},
	} {
		if _, err := ParsePool(definition(c.source)); !verr.Is(err, c.want) {
			t.Errorf("%s: %v, want code %d", name, err, c.want)
		}
	}
}

func TestNamesOfVolumes(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "with space": true, strings.Repeat("n", 255): true, strings.Repeat("n", 256): false, "-a": false, "": false, "a/b": false, "a\nb": false,
	} {
		if err := CheckName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
	for text, want := range map[string]verr.Code{
		"<volume><name>a</name><capacity>0</capacity></volume>":                                                          verr.NoSupport,
		"<volume><name>-a</name><capacity>1</capacity></volume>":                                                         verr.XMLError,
		"<volume><name>a</name><capacity>1</capacity><target><format type='qcow2'/></target></volume>":                   verr.ConfigUnsupported,
		"<volume><name>a</name><capacity>1</capacity><target><encryption format='luks'/></target></volume>":              verr.ConfigUnsupported,
		"<volume><name>a</name><capacity>1</capacity><backingStore><path>/a</path></backingStore></volume>":              verr.ConfigUnsupported,
		"<volume type='network'><name>a</name><capacity unit='MiB'>1</capacity><target><path>x</path></target></volume>": verr.OK,
	} {
		_, err := ParseVolume(text, nil)
		if want == verr.OK && err != nil || want != verr.OK && !verr.Is(err, want) {
			t.Errorf("%s: %v, want code %d", text, err, want)
		}
	}
}

func FuzzParsePool(f *testing.F) {
	f.Add(definition("<host name='a' port='7000'/><name>x</name>"))
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
