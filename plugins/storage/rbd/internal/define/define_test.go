package define

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/plugins/storage/internal/corpustest"
)

// TestPoolCorpus compares with what libvirt makes of its definitions of this driver's type.
func TestPoolCorpus(t *testing.T) {
	corpustest.Pools(t, func(text string) (string, error) {
		p, err := ParsePool(text)
		if err != nil {
			return "", err
		}
		return p.XML()
	}, Type)
}

// TestVolumeCorpus reads each of libvirt's definitions of volumes; what no image of Ceph can be is refused by name.
func TestVolumeCorpus(t *testing.T) {
	raw := []string{"vol-file.xml", "vol-logical.xml", "vol-file-naming.xml"}
	for _, name := range corpustest.Files(t, "storagevolxml2xmlin", "vol-*.xml") {
		base := filepath.Base(name)
		_, err := ParseVolume(corpustest.Read(t, name), nil)
		if want := slices.Contains(raw, base); want != (err == nil) {
			t.Errorf("%s: error %v, want one %v", base, err, !want)
		}
	}
}

const source = `<pool type='rbd' xmlns:rbd='http://libvirt.org/schemas/storagepool/rbd/1.0'>
  <name>p</name>
  <uuid>47c1faee-0207-e741-f5ae-d9b019b98fe2</uuid>
  <source>
    <host name='a' port='6789'/>
    <host name='2001:db8::1'/>
    <host name='2001:db8::2' port='3300'/>
    <name>images</name>
    <auth type='ceph' username='libvirt'>
      <secret usage='ceph pool'/>
    </auth>
  </source>
  <refresh>
    <volume allocation='capacity'/>
  </refresh>
  <rbd:config_opts>
    <rbd:option name='client_mount_timeout' value='45'/>
  </rbd:config_opts>
</pool>
`

func TestADefinitionComesBackAsLibvirtPrintsIt(t *testing.T) {
	p, err := ParsePool(strings.Replace(source, "</pool>", "<target><path>/x</path></target></pool>", 1))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := p.XML(); err != nil || text != source {
		t.Errorf("printed %s, error %v", text, err)
	}
	if got, want := p.Monitors(), []string{"a:6789", "[2001:db8::1]", "[2001:db8::2]:3300"}; !slices.Equal(got, want) {
		t.Errorf("monitors %q, want %q", got, want)
	}
	if ref := p.Source.Auth.Ref("ceph"); len(ref) != 1 || ref[0].Usage != "ceph pool" || ref[0].UsageType != "ceph" || p.User() != "libvirt" {
		t.Errorf("secret %v of %q", ref, p.User())
	}
	if got := p.Exclusive(); len(got) != 3 || got[2] != "rbd a:6789/images" || !p.Whole() {
		t.Errorf("exclusive %q, whole %v", got, p.Whole())
	}
}

func TestRefusedPools(t *testing.T) {
	for name, text := range map[string]string{
		"no Ceph pool":        "<pool type='rbd'><name>p</name><source/></pool>",
		"a name with a slash": "<pool type='rbd'><name>p</name><source><name>a/b</name></source></pool>",
		"a host that is none": "<pool type='rbd'><name>p</name><source><name>a</name><host name='x y'/></source></pool>",
		"a port that is none": "<pool type='rbd'><name>p</name><source><name>a</name><host name='x' port='0'/></source></pool>",
		"another auth":        "<pool type='rbd'><name>p</name><source><name>a</name><auth type='chap' username='u'><secret usage='x'/></auth></source></pool>",
		"no secret":           "<pool type='rbd'><name>p</name><source><name>a</name><auth type='ceph' username='u'/></source></pool>",
		"an empty option":     "<pool type='rbd' xmlns:r='http://libvirt.org/schemas/storagepool/rbd/1.0'><name>p</name><source><name>a</name></source><r:config_opts><r:option name='x'/></r:config_opts></pool>",
		"an odd refresh":      "<pool type='rbd'><name>p</name><source><name>a</name></source><refresh><volume allocation='x'/></refresh></pool>",
	} {
		if p, err := ParsePool(text); err == nil {
			t.Errorf("%s is taken: %+v", name, p.Source)
		}
	}
}

func TestRefusedVolumes(t *testing.T) {
	for _, name := range []string{"", ".", "a/b", "a@b", "a&#10;b", Hidden + "x"} {
		if _, err := ParseVolume("<volume><name>"+name+"</name><capacity>1</capacity></volume>", nil); err == nil {
			t.Errorf("the name %q is taken", name)
		}
	}
	for _, text := range []string{
		"<volume><name>a</name><capacity>0</capacity></volume>",
		"<volume><name>a</name><capacity>1</capacity><target><format type='qcow2'/></target></volume>",
		"<volume><name>a</name><capacity>1</capacity><backingStore><path>/x</path></backingStore></volume>",
	} {
		if _, err := ParseVolume(text, nil); err == nil {
			t.Errorf("%s is taken", text)
		}
	}
}

func FuzzParsePool(f *testing.F) {
	f.Add(source)
	f.Add("<pool type='rbd'><name>a</name><source><name>rbd</name></source></pool>")
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
