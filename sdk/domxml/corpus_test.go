package domxml_test

import (
	"encoding/xml"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/sdk/domxml"
)

// corpusDir holds libvirt's test data, where it is present beside the repository.
var corpusDir = filepath.Join("..", "..", "..", "shared", "corpora", "libvirt-9.0.0")

func corpus(t testing.TB) []string {
	names, err := filepath.Glob(filepath.Join(corpusDir, "genericxml2xmlindata", "*.xml"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestCorpus completes and prints every definition of libvirt's hypervisor-neutral corpus: the expected tree must be an ordered
// subset of ours, and completing again must change nothing.
func TestCorpus(t *testing.T) {
	names := corpus(t)
	if len(names) == 0 {
		t.Skip("libvirt's corpora are not here")
	}
	var passed []string
	for _, name := range names {
		base := strings.TrimSuffix(filepath.Base(name), ".xml")
		if why := roundTrip(t, name); why != "" {
			t.Logf("%s: %s", base, why)
			continue
		}
		passed = append(passed, base)
	}
	t.Logf("%d of %d pass: %q", len(passed), len(names), passed)
	for _, base := range corpusFloor {
		if !slices.Contains(passed, base) {
			t.Errorf("%s does not pass any more", base)
		}
	}
}

// roundTrip returns why a definition of the corpus does not come out as expected, or nothing.
func roundTrip(t *testing.T, name string) string {
	in, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	base := filepath.Base(name)
	want := in
	for _, out := range []string{base, strings.TrimSuffix(base, ".xml") + "-inactive.xml"} {
		if b, err := os.ReadFile(filepath.Join(corpusDir, "genericxml2xmloutdata", out)); err == nil {
			want = b
		}
	}
	once, err := define(string(in))
	if err != nil {
		return err.Error()
	}
	twice, err := define(once)
	if err != nil || once != twice {
		t.Errorf("%s: completing twice changes it: %v\n%s\n%s", base, err, once, twice)
	}
	return missing(tree(t, string(want)), tree(t, once), "")
}

func define(doc string) (string, error) {
	d, err := domxml.Parse(doc)
	if err != nil {
		return "", err
	}
	if err := domxml.Complete(d); err != nil {
		return "", err
	}
	return domxml.Format(d)
}

// node is an element for comparing.
type node struct {
	XMLName  xml.Name
	Attrs    []xml.Attr `xml:",any,attr"`
	Text     string     `xml:",chardata"`
	Children []node     `xml:",any"`
}

func tree(t *testing.T, doc string) node {
	var n node
	if err := xml.Unmarshal([]byte(doc), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// missing returns what of want is not in got, in order.
func missing(want, got node, path string) string {
	path += "/" + want.XMLName.Local
	for _, a := range want.Attrs {
		if a.Name.Space == "xmlns" || a.Name.Local == "xmlns" {
			continue
		}
		if !slices.ContainsFunc(got.Attrs, func(b xml.Attr) bool { return a.Name == b.Name && a.Value == b.Value }) {
			return path + "@" + a.Name.Local + "=" + a.Value
		}
	}
	if w := strings.TrimSpace(want.Text); w != "" && w != strings.TrimSpace(got.Text) {
		return path + ": " + w + " is " + strings.TrimSpace(got.Text)
	}
	at := 0
	for _, w := range want.Children {
		why := path + "/" + w.XMLName.Local + " is absent"
		for ; at < len(got.Children); at++ {
			if w.XMLName != got.Children[at].XMLName {
				continue
			}
			if why = missing(w, got.Children[at], path); why == "" {
				break
			}
		}
		if at == len(got.Children) {
			return why
		}
		at++
	}
	return ""
}

// corpusFloor are the definitions that must go on passing.
var corpusFloor = []string{
	"cachetune-cdp", "cachetune-colliding-monitor", "cachetune-colliding-tunes", "cachetune-colliding-types",
	"cachetune-small", "cachetune", "chardev-reconnect-missing-timeout", "chardev-tcp-missing-host",
	"chardev-tcp-missing-service", "chardev-udp-missing-connect-service", "chardev-unix-redirdev-missing-path",
	"chardev-unix-rng-missing-path", "cpu-cache-emulate", "cpu-cache-passthrough", "cpu-phys-bits-emulate",
	"cpu-phys-bits-passthrough", "device-backenddomain", "disk-network-http", "disk-virtio",
	"graphics-listen-back-compat-mismatch", "graphics-listen-network-invalid", "graphics-vnc-autoport-no",
	"graphics-vnc-socket-attr-listen-socket-mismatch", "launch-security-s390-pv", "launch-security-sev",
	"memorytune-colliding-allocs", "memorytune", "network-interface-mac-check", "tseg",
}
