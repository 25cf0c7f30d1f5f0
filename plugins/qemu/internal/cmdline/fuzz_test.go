package cmdline_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/define"
	"github.com/lodgevirt/lodge/sdk/domxml"
)

// FuzzDefinition looks for definitions that make completing or building panic, and for ones that are completed differently
// the second time.
func FuzzDefinition(f *testing.F) {
	inputs, err := filepath.Glob("../define/testdata/*.xml")
	if err != nil || len(inputs) == 0 {
		f.Fatal("no definitions", err)
	}
	for _, in := range inputs {
		text, err := os.ReadFile(in)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add(distant)
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := corpusBuild(text); err != nil {
			return
		}
		first, err := completed(text)
		if err != nil {
			return
		}
		second, err := completed(first)
		if err != nil {
			t.Fatalf("a completed definition is refused: %v\n%s", err, first)
		}
		if first != second {
			t.Errorf("completed again, it is another:\n%s\n%s", first, second)
		}
	})
}

// distant is a guest with images elsewhere and secrets.
var distant = guest("pc", "", `<disk type='network' device='disk'><driver name='qemu' type='qcow2'/>
	<source protocol='rbd' name='p/i@s'><host name='h' port='1'/><host name='::1'/><snapshot name='s'/><config file='/c'/>
	<auth username='u'><secret type='ceph' uuid='5a1c42ac-7f0c-4de9-8c24-2a1d1a1b2c3d'/></auth>
	<encryption format='luks' engine='librbd'><secret type='passphrase' usage='u'/></encryption></source>
	<backingStore type='network'><format type='raw'/><source protocol='nbd' name='x'><host transport='unix' socket='/s'/>
	<reconnect delay='3'/></source><backingStore/></backingStore><target dev='vda' bus='virtio'/></disk>
	<disk type='network' device='disk'><driver name='qemu' type='raw'/><auth username='u'><secret type='iscsi' usage='t'/></auth>
	<source protocol='iscsi' name='iqn/1'><host name='h' port='2' transport='rdma'/><initiator><iqn name='me'/></initiator></source>
	<target dev='vdb' bus='virtio'/><encryption format='luks'><secret type='passphrase' usage='u'/></encryption></disk>
	<disk type='network' device='cdrom'><driver name='qemu' type='raw'/><source protocol='https' name='a' query='q'><host name='h'/>
	<ssl verify='no'/><cookies><cookie name='c'>v</cookie></cookies><readahead size='9'/><timeout seconds='9'/></source>
	<target dev='hda' bus='ide'/></disk>
	<disk type='network' device='disk'><source protocol='sheepdog' name='v'><host name='h' port='7'/></source><target dev='vdc' bus='virtio'/></disk>
	<disk type='volume' device='cdrom'><source/><target dev='hdb' bus='ide'/></disk>`)

func completed(text string) (string, error) {
	d, err := domxml.Parse(text)
	if err != nil {
		return "", err
	}
	if err := domxml.Complete(d); err != nil {
		return "", err
	}
	if err := define.Complete(d, plainEnv()); err != nil {
		return "", err
	}
	return domxml.Format(d)
}

// part is an attribute, an empty element or an element with text.
var part = regexp.MustCompile(`( [a-zA-Z_]+=)(?:'[^']*'|"[^"]*")|<[a-z][^<>]*/>|<([a-z]+)[^<>/]*>[^<>]*</[a-z]+>`)

// Each part of a definition is left out, emptied or made too large in turn: what is left may be refused, but must not panic.
func TestPartsThatAreMissingOrTooLarge(t *testing.T) {
	inputs, err := filepath.Glob("../define/testdata/*.xml")
	if err != nil || len(inputs) == 0 {
		t.Fatal("no definitions", err)
	}
	if _, err := corpusBuild(distant); err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{"images elsewhere": distant}
	for _, in := range inputs {
		b, err := os.ReadFile(in)
		if err != nil {
			t.Fatal(err)
		}
		texts[filepath.Base(in)] = string(b)
	}
	for name, text := range texts {
		for _, at := range part.FindAllStringSubmatchIndex(text, -1) {
			variants := []string{""}
			if at[2] >= 0 {
				attribute := text[at[2]:at[3]]
				variants = append(variants, attribute+"''", attribute+"'4294967295'", attribute+"'x'")
			}
			for _, v := range variants {
				changed := text[:at[0]] + v + text[at[1]:]
				if !survives(changed) {
					t.Errorf("%s: %q instead of %q panics", name, v, text[at[0]:at[1]])
				}
			}
		}
	}
}

func survives(text string) (ok bool) {
	defer func() { ok = recover() == nil }()
	_, _ = corpusBuild(text)
	return true
}
