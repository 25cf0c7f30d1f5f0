package peer_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest/peer"
)

func TestItemsOfArraysGetTheirTypes(t *testing.T) {
	const (
		array = `<val xmlns:i="http://www.w3.org/2001/XMLSchema-instance" i:type="ArrayOf`
		added = ` xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="`
		xsd   = ` xmlns:xsd="http://www.w3.org/2001/XMLSchema"`
	)
	nested := array + `X"><X%s><y i:type="ArrayOfInt"><int%s>1</int></y></X></val>`
	for in, want := range map[string]string{
		"":                    "",
		"no document <":       "no document <",
		"<?xml a?><a>b</a> c": "<?xml a?><a>b</a> c",
		array + `X"></val>`:   array + `X"></val>`,
		array + `X"/><X></X>`: array + `X"/><X></X>`,
		array + `X"><X><X>1</X></X><X/></val><X></X>`: array + `X"><X` + added + `X"><X>1</X></X><X` + added + `X"/></val><X></X>`,
		array + `X"><X type="Y">r</X></val>`:          array + `X"><X` + added + `X" type="Y">r</X></val>`,
		array + `X"><X i:type="Z">r</X></val>`:        array + `X"><X i:type="Z">r</X></val>`,
		array + `String"><string>s</string></val>`:    array + `String"><string` + xsd + added + `xsd:string">s</string></val>`,
		fmt.Sprintf(nested, "", ""):                   fmt.Sprintf(nested, added+`X"`, xsd+added+`xsd:int"`),
	} {
		if got := string(peer.Annotate([]byte(in))); got != want {
			t.Errorf("%s\nbecomes %s\nwant    %s", in, got, want)
		}
	}
}

// TestLibvirtsOwnDriverWorks runs the calls that are compared and measured.
func TestLibvirtsOwnDriverWorks(t *testing.T) {
	s := vimtest.Start(t, vimtest.Options{Peer: true})
	virsh, err := peer.NewVirsh(t.TempDir(), s.Address(), vimtest.User, vimtest.Password)
	if err != nil {
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	name := s.Machines()[0]
	for _, c := range []struct {
		command string
		words   []string
	}{
		{"version", []string{"ESX 6.5.0"}},
		{"list --all --name", s.Machines()},
		{"list --all --title", s.Machines()},
		{"dominfo " + name, []string{s.UUID(name), "running"}},
		{"dumpxml " + name, []string{"<domain type='vmware'", s.UUID(name), "<source bridge='VM Network'/>", "disk1.vmdk"}},
		{"destroy " + name, []string{"destroyed"}},
		{"domstate " + name, []string{"shut off"}},
		{"start " + name, []string{"started"}},
		{"pool-list", []string{"LocalDS_0", "active"}},
		{"pool-dumpxml LocalDS_0", []string{"<pool type='dir'>", "<path>/vmfs/volumes/"}},
		{"net-list", []string{"vSwitch0", "active"}},
		{"net-dumpxml vSwitch0", []string{"<portgroup name='VM Network'>", "<interface dev='vmnic0'/>"}},
	} {
		out, err := virsh.Run(ctx, strings.Fields(c.command)...)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, word := range c.words {
			if !strings.Contains(out, word) {
				t.Errorf("%s does not tell %q: %s", c.command, word, out)
			}
		}
	}
	if _, err := virsh.Run(ctx, "dominfo", "nobody"); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("error is %v", err)
	}
}
