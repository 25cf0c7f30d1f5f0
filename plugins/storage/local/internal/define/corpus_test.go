package define

import (
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// corpusDir holds libvirt's test data, where it is present beside the repository.
var corpusDir = filepath.Join("..", "..", "..", "..", "..", "..", "shared", "corpora", "libvirt-9.0.0")

func corpus(t *testing.T, folder, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(corpusDir, folder, pattern))
	if err != nil {
		t.Fatal(err)
	}
	if len(names) == 0 {
		t.Skip("libvirt's corpora are not here")
	}
	return names
}

// node is an element with its attributes, text and children.
type node struct {
	XMLName  xml.Name
	Attrs    []xml.Attr `xml:",any,attr"`
	Text     string     `xml:",chardata"`
	Children []node     `xml:",any"`
}

// describe lists paths, attributes and texts of a tree in order, without the sizes that the core puts in.
func describe(t *testing.T, text []byte) []string {
	t.Helper()
	var root node
	if err := xml.Unmarshal(text, &root); err != nil {
		t.Fatal(err)
	}
	var out []string
	var walk func(string, node)
	walk = func(path string, n node) {
		if slices.Contains([]string{"capacity", "allocation", "available"}, n.XMLName.Local) && path == "pool/" {
			return
		}
		path += n.XMLName.Local
		var attrs []string
		for _, a := range n.Attrs {
			if a.Name.Space != "xmlns" && a.Name.Local != "xmlns" {
				attrs = append(attrs, a.Name.Local+"="+a.Value)
			}
		}
		slices.Sort(attrs)
		out = append(out, fmt.Sprint(path, " ", attrs, " ", strings.TrimSpace(n.Text)))
		for _, c := range n.Children {
			walk(path+"/", c)
		}
	}
	walk("", root)
	return out
}

// TestPoolCorpus completes each of libvirt's definitions of this driver's types, and compares with what libvirt makes of it: its lines must
// be among ours in their order.
func TestPoolCorpus(t *testing.T) {
	for _, name := range corpus(t, "storagepoolxml2xmlin", "pool-*.xml") {
		base := filepath.Base(name)
		in, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		p, err := ParsePool(string(in))
		if verr.Is(err, verr.ConfigUnsupported) && !strings.HasPrefix(base, "pool-dir") && !strings.HasPrefix(base, "pool-fs") && !strings.Contains(base, "netfs") {
			continue // another driver's
		}
		if strings.Contains(base, "mpath") || strings.Contains(base, "logical-nopath") || strings.Contains(base, "rbd") ||
			strings.Contains(base, "gluster-sub") || strings.Contains(base, "zfs") || strings.Contains(base, "iscsi-direct") {
			continue // pools of other drivers, which have no path
		}
		if err != nil {
			t.Errorf("%s: %v", base, err)
			continue
		}
		text, err := p.XML()
		if err != nil {
			t.Fatal(err)
		}
		out, err := os.ReadFile(filepath.Join(corpusDir, "storagepoolxml2xmlout", base))
		if err != nil {
			t.Fatal(err)
		}
		ours := describe(t, []byte(text))
		for _, line := range describe(t, out) {
			at := slices.Index(ours, line)
			if at < 0 {
				t.Errorf("%s: %q is missing in %q", base, line, ours)
				break
			}
			ours = ours[at+1:]
		}
	}
}

// TestVolumeCorpus reads each of libvirt's definitions of volumes that are files; those that are refused are refused by name.
func TestVolumeCorpus(t *testing.T) {
	refused := map[string]string{
		"vol-qcow2-encryption.xml": "encryption of format",
		"vol-qcow2-nocapacity.xml": "capacity",
		"vol-file-backing.xml":     "no backing store", // libvirt reads it, and refuses to make it
		"vol-partition.xml":        "cannot be made",   // another driver's
	}
	for _, name := range corpus(t, "storagevolxml2xmlin", "vol-*.xml") {
		base := filepath.Base(name)
		in, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		_, err = ParseVolume(string(in), nil)
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
