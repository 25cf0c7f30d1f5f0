package define

import (
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/plugins/storage/internal/corpustest"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// TestPoolCorpus compares with what libvirt makes of its definitions of volume groups.
func TestPoolCorpus(t *testing.T) {
	corpustest.Pools(t, func(text string) (string, error) {
		p, err := ParsePool(text)
		if err != nil {
			return "", err
		}
		return p.XML()
	}, "logical")
}

func pool(t *testing.T, more string) (*Pool, error) {
	t.Helper()
	return ParsePool("<pool type='logical'><name>p</name>" + more + "</pool>")
}

func TestNamesAndPathsAreCompleted(t *testing.T) {
	p, err := pool(t, "<source><name>vg-0.a+b_c</name><device path='/dev/sdb'/></source>")
	if err != nil {
		t.Fatal(err)
	}
	if p.Group() != "vg-0.a+b_c" || p.Target.Path != "/dev/vg-0.a+b_c" || p.Path("a") != "/dev/vg-0.a+b_c/a" || p.Source.Format.Type != "lvm2" {
		t.Errorf("completed to %+v", p)
	}
	if p, err = pool(t, "<source><format type='unknown'/></source>"); err != nil || p.Group() != "p" || p.Source.Format.Type != "unknown" {
		t.Errorf("completed to %+v, %v", p, err)
	}
}

func TestPoolsThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		more string
		want verr.Code
	}{
		"a group like an option":   {"<source><name>-f</name></source>", verr.XMLError},
		"a group that leads out":   {"<source><name>..</name></source>", verr.XMLError},
		"a group with a slash":     {"<source><name>a/b</name></source>", verr.XMLError},
		"a group with a space":     {"<source><name>a b</name></source>", verr.XMLError},
		"a group too long":         {"<source><name>" + strings.Repeat("a", 128) + "</name></source>", verr.XMLError},
		"a relative device":        {"<source><device path='sdb'/></source>", verr.XMLError},
		"a format that is none":    {"<source><format type='lvm1'/></source>", verr.ConfigUnsupported},
		"a target that is no path": {"<target><path>vg</path></target>", verr.XMLError},
	} {
		if _, err := pool(t, c.more); !verr.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVolumes(t *testing.T) {
	p, err := pool(t, "<target><path>/dev/p</path></target>")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		xml    string
		sparse bool
		origin string
		want   verr.Code
	}{
		"a whole one":          {"<name>a</name><capacity>1000</capacity>", false, "", 0},
		"a sparse one":         {"<name>a</name><capacity unit='M'>10</capacity><allocation>0</allocation>", true, "", 0},
		"a snapshot":           {"<name>a</name><capacity>1</capacity><backingStore><path>/dev/p/b</path></backingStore>", false, "b", 0},
		"of another pool":      {"<name>a</name><capacity>1</capacity><backingStore><path>/dev/q/b</path></backingStore>", false, "", verr.ConfigUnsupported},
		"of an option":         {"<name>a</name><capacity>1</capacity><backingStore><path>/dev/p/-f</path></backingStore>", false, "", verr.ConfigUnsupported},
		"an option":            {"<name>-f</name><capacity>1</capacity>", false, "", verr.XMLError},
		"a name with a space":  {"<name>a b</name><capacity>1</capacity>", false, "", verr.XMLError},
		"an encrypted one":     {"<name>a</name><capacity>1</capacity><target><encryption format='luks'/></target>", false, "", verr.ConfigUnsupported},
		"one with an image":    {"<name>a</name><capacity>1</capacity><target><format type='qcow2'/></target>", false, "", verr.ConfigUnsupported},
		"one without capacity": {"<name>a</name>", false, "", verr.XMLError},
	} {
		v, err := p.ParseVolume("<volume>"+c.xml+"</volume>", nil)
		if c.want != 0 {
			if !verr.Is(err, c.want) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || v.Sparse != c.sparse || v.Origin != c.origin || v.CapacityBytes%sector != 0 {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
}

func FuzzParsePool(f *testing.F) {
	f.Add("<pool type='logical'><name>a</name></pool>")
	f.Add("<pool type='logical'><source><name>a</name><device path='/x'/></source><target><path>/dev/a</path></target></pool>")
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
