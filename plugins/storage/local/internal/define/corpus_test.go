package define

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/plugins/storage/internal/corpustest"
)

// TestPoolCorpus compares with what libvirt makes of its definitions of this driver's types.
func TestPoolCorpus(t *testing.T) {
	corpustest.Pools(t, func(text string) (string, error) {
		p, err := ParsePool(text)
		if err != nil {
			return "", err
		}
		return p.XML()
	}, "dir", "fs", "netfs")
}

// TestVolumeCorpus reads each of libvirt's definitions of volumes that are files; those that are refused are refused by name.
func TestVolumeCorpus(t *testing.T) {
	refused := map[string]string{
		"vol-qcow2-encryption.xml": "encryption of format",
		"vol-qcow2-nocapacity.xml": "capacity",
		"vol-file-backing.xml":     "no backing store", // libvirt reads it, and refuses to make it
		"vol-partition.xml":        "cannot be made",   // another driver's
	}
	for _, name := range corpustest.Files(t, "storagevolxml2xmlin", "vol-*.xml") {
		base := filepath.Base(name)
		_, err := ParseVolume(corpustest.Read(t, name), nil)
		want := refused[base]
		switch {
		case err == nil && want == "":
		case err != nil && want != "" && strings.Contains(err.Error(), want):
		default:
			t.Errorf("%s: error %v, want %q", base, err, want)
		}
	}
}

func FuzzParsePool(f *testing.F) {
	f.Add("<pool type='dir'><name>a</name><target><path>/a</path></target></pool>")
	f.Add("<pool type='netfs'><name>a</name><source><host name='h'/><dir path='/x'/></source><target><path>/a</path></target></pool>")
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

func FuzzParseVolume(f *testing.F) {
	f.Add("<volume><name>a</name><capacity unit='G'>1</capacity></volume>")
	f.Fuzz(func(t *testing.T, text string) {
		v, err := ParseVolume(text, nil)
		if err == nil && (v.Name == "" || strings.Contains(v.Name, "/") || v.CapacityBytes > 1<<63) {
			t.Errorf("%q is read as %+v", text, v)
		}
	})
}
