package kernel

import (
	"slices"
	"strings"
	"testing"
)

func TestRecordsAreEdited(t *testing.T) {
	const before = "# BEGIN RECORD 2.1.8\nnode.startup = automatic\nnode.session.auth.authmethod = None\nnode.conn[0].address = ::1\n# END RECORD\n"
	const after = "# BEGIN RECORD 2.1.8\nnode.session.auth.authmethod = None\nnode.conn[0].address = ::1\nnode.startup = manual\nnew = a = b\n# END RECORD\n"
	if got := edit(before, []setting{{"node.startup", "manual"}, {"new", "a = b"}}); got != after {
		t.Errorf("the record is\n%s", got)
	}
}

func TestTargetsOfADiscovery(t *testing.T) {
	got := parseTargets("10.0.0.1:3260,1 iqn.a\n10.0.0.2:3260,1 iqn.a\n[fe80::1]:3260,1 iqn.b\nsome warning\n\nNo records\n")
	if want := []string{"iqn.a", "iqn.b"}; !slices.Equal(got, want) {
		t.Errorf("targets %q, want %q", got, want)
	}
}

func TestInterfacesAreKnownByTheirNames(t *testing.T) {
	a, b := ifaceFor("iqn.2012-11.test:a"), ifaceFor("iqn.2012-11.test:b")
	if a == b || len(a) != len("lodge-12345678") || ifaceFor("") != "lodge" {
		t.Errorf("interfaces %q, %q, %q", a, b, ifaceFor(""))
	}
}

func FuzzEdit(f *testing.F) {
	f.Add("node.startup = automatic\n# END RECORD\n", "manual")
	f.Fuzz(func(t *testing.T, text, value string) {
		if value == "" || strings.ContainsAny(value, "\n\r") || value != strings.TrimSpace(value) {
			return
		}
		if got := edit(text, []setting{{"node.startup", value}}); !hasLine(got, "node.startup = "+value) {
			t.Errorf("%q is not in %q", value, got)
		}
		_ = parseTargets(text)
	})
}
