package lockd

import (
	"testing"

	"github.com/lodgevirt/lodge/tests/wire"
)

// page encodes leases as a daemon does.
func page(leases []Lease, more bool) []byte {
	b := wire.Uint32(nil, uint32(len(leases)))
	for _, l := range leases {
		b = appendOwner(wire.Uint64(b, l.Number), l.Owner)
		b = wire.String(wire.String(wire.String(wire.Bool(b, l.Classic), l.Space), l.Name), "/disk")
		b = wire.String(wire.Bool(wire.Bool(b, l.Shared), l.Temporary), l.Path)
		b = wire.Uint64(wire.String(wire.Uint32(b, l.State), l.Detail), 7)
	}
	return wire.Bool(b, more)
}

func TestAPageOfLeasesIsRead(t *testing.T) {
	want := Lease{
		Number: 9, Owner: Owner{UUID: [16]byte{1}, Name: "guest", ID: 2, PID: 3, Generation: 4, Start: 5}, Classic: true,
		Resource: Resource{Space: "/space", Name: "name", Shared: true}, Path: "/space/name", State: 2, Detail: "not found",
	}
	got, more, err := parseLeases(append(page([]Lease{want, {}}, true), "what comes later"...))
	if err != nil || !more || len(got) != 2 || got[0] != want {
		t.Errorf("the page is %+v, more %v (%v), want %+v and another", got, more, err, want)
	}
	if _, _, err := parseLeases(page([]Lease{want}, false)[:90]); err == nil {
		t.Error("a page that ends too soon was read")
	}
}

func FuzzParseLeases(f *testing.F) {
	f.Add(page(nil, false))
	f.Add(page([]Lease{{Number: 1, Path: "/a"}}, true))
	f.Fuzz(func(t *testing.T, payload []byte) {
		got, _, err := parseLeases(payload)
		if err == nil && len(got) > len(payload)/leaseSize {
			t.Errorf("%d leases in %d bytes", len(got), len(payload))
		}
	})
}
