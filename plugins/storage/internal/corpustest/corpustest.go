// Package corpustest compares definitions of pools with what libvirt makes of them, by libvirt's own test data where that is present
// beside the repository.
package corpustest

import (
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// Files returns the files of a folder of the corpora that match, or skips the test if they are not here.
func Files(t *testing.T, folder, pattern string) []string {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(here), "..", "..", "..", "..", "..", "shared", "corpora", "libvirt-9.0.0")
	names, err := filepath.Glob(filepath.Join(root, folder, pattern))
	if err != nil {
		t.Fatal(err)
	}
	if len(names) == 0 {
		t.Skip("libvirt's corpora are not here")
	}
	return names
}

// Pools completes each of libvirt's definitions of pools that has one of the prefixes, and compares with what libvirt makes of it: its lines must
// be among ours in their order.
func Pools(t *testing.T, complete func(text string) (string, error), prefixes ...string) {
	t.Helper()
	n := 0
	for _, name := range Files(t, "storagepoolxml2xmlin", "pool-*.xml") {
		base := filepath.Base(name)
		if !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(base, "pool-"+p) }) {
			continue
		}
		n++
		text, err := complete(Read(t, name))
		if err != nil {
			t.Errorf("%s: %v", base, err)
			continue
		}
		ours := describe(t, text)
		for _, line := range describe(t, Read(t, filepath.Join(filepath.Dir(name), "..", "storagepoolxml2xmlout", base))) {
			at := slices.Index(ours, line)
			if at < 0 {
				t.Errorf("%s: %q is missing in %q", base, line, ours)
				break
			}
			ours = ours[at+1:]
		}
	}
	if n == 0 {
		t.Error("no definition has these prefixes")
	}
}

// Read returns a file's content.
func Read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// node is an element with its attributes, text and children.
type node struct {
	XMLName  xml.Name
	Attrs    []xml.Attr `xml:",any,attr"`
	Text     string     `xml:",chardata"`
	Children []node     `xml:",any"`
}

// describe lists paths, attributes and texts of a tree in order, without the sizes that the core puts in.
func describe(t *testing.T, text string) []string {
	t.Helper()
	var root node
	if err := xml.Unmarshal([]byte(text), &root); err != nil {
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
