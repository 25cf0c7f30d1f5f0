package kernel

import (
	"slices"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/plugins/storage/internal/command"
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

func TestWordsOfISCSIAdm(t *testing.T) {
	for words, want := range map[string]string{
		"Failed to connect to bus: Host is down\niscsiadm: can not connect to iSCSI daemon (111)!\niscsiadm: can not connect to iSCSI daemon (111)!\n" +
			"iscsiadm: Could not log into all portals": "iscsid does not run, or this kernel has no iSCSI: x: exit status 20: can not connect to iSCSI daemon (111)!; Could not log into all portals",
		"another's\n words": "iscsid does not run, or this kernel has no iSCSI: x: exit status 20: another's words",
	} {
		err := explain(&command.Error{Program: "x", Status: noDaemon, Words: words})
		if err.Error() != want || status(err) != noDaemon {
			t.Errorf("%q, want %q", err, want)
		}
	}
	err := explain(&command.Error{Program: "x", Status: 7, Words: "iscsiadm: Could not insert module tcp. Kmod error -2"})
	if !strings.HasPrefix(err.Error(), hints[noTransport]) {
		t.Errorf("no module: %v", err)
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
