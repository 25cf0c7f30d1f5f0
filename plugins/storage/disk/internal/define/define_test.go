package define

import (
	"testing"

	"github.com/lodgevirt/lodge/plugins/storage/internal/corpustest"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func complete(text string) (string, error) {
	p, err := ParsePool(text)
	if err != nil {
		return "", err
	}
	return p.XML()
}

// TestPoolCorpus compares with what libvirt makes of its definitions of disks.
func TestPoolCorpus(t *testing.T) { corpustest.Pools(t, complete, "disk") }

// TestVolumeCorpus reads libvirt's definition of a partition.
func TestVolumeCorpus(t *testing.T) {
	for _, name := range corpustest.Files(t, "storagevolxml2xmlin", "vol-partition.xml") {
		v, err := ParseVolume(corpustest.Read(t, name), nil)
		if err != nil || v.Name != "sda1" || v.CapacityBytes != 106896384 || v.Target.Format.Type != "none" {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
}

func TestPoolsAreCompletedOrRefused(t *testing.T) {
	const device = "<source><device path='/dev/sda'/></source>"
	for name, c := range map[string]struct {
		more string
		want verr.Code
	}{
		"a device is enough":   {device, verr.OK},
		"no device":            {"", verr.XMLError},
		"two devices":          {"<source><device path='/dev/sda'/><device path='/dev/sdb'/></source>", verr.XMLError},
		"a relative device":    {"<source><device path='sda'/></source>", verr.XMLError},
		"an odd separator":     {"<source><device path='/dev/sda' part_separator='x'/></source>", verr.XMLError},
		"a format of fantasy":  {"<source><device path='/dev/sda'/><format type='foo'/></source>", verr.ConfigUnsupported},
		"a target without way": {device + "<target><path>dev</path></target>", verr.XMLError},
	} {
		p, err := ParsePool("<pool type='disk'><name>p</name>" + c.more + "</pool>")
		if c.want != verr.OK {
			if !verr.Is(err, c.want) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || p.Target.Path != "/dev" || p.Format() != Unknown || p.Label() != "msdos" || !p.Takes("gpt") || p.Takes("loop") {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

func TestVolumesThatAreRefused(t *testing.T) {
	size := uint64(1)
	for name, c := range map[string]struct {
		xml  string
		from *uint64
		want verr.Code
	}{
		"an encrypted one":     {"<name>a</name><capacity>1</capacity><target><encryption format='luks'/></target>", nil, verr.ConfigUnsupported},
		"one on another":       {"<name>a</name><capacity>1</capacity><backingStore><path>/x</path></backingStore>", nil, verr.ConfigUnsupported},
		"one with an image":    {"<name>a</name><capacity>1</capacity><target><format type='qcow2'/></target>", nil, verr.ConfigUnsupported},
		"one of nothing":       {"<name>a</name><capacity>0</capacity>", nil, verr.InvalidArg},
		"an extended copy":     {"<name>a</name><capacity>1</capacity><target><format type='extended'/></target>", &size, verr.ConfigUnsupported},
		"a path":               {"<name>../a</name><capacity>1</capacity>", nil, verr.XMLError},
		"a format of no sense": {"<name>a</name><capacity>1</capacity><target><format type='x'/></target>", nil, verr.XMLError},
	} {
		if _, err := ParseVolume("<volume>"+c.xml+"</volume>", c.from); !verr.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParsePool(f *testing.F) {
	f.Add("<pool type='disk'><name>a</name><source><device path='/dev/a' part_separator='no'/><format type='gpt'/></source></pool>")
	f.Fuzz(func(t *testing.T, text string) {
		first, err := complete(text)
		if err != nil {
			return
		}
		if second, err := complete(first); err != nil || second != first {
			t.Errorf("%q came back as %q, error %v", first, second, err)
		}
	})
}
