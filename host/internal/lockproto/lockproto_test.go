package lockproto_test

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/xdr"
)

// messages is one of each message.
func messages() []any {
	owner := lockproto.Owner{UUID: [16]byte{1}, Name: "guest", ID: 1, Generation: 2, PID: 3, StartTime: 4}
	resources := []lockproto.Resource{{Lockspace: "/l", Name: "n", Disk: "/d", Shared: true, Temporary: true}, {Name: "/x"}}
	return []any{
		&lockproto.RegisterArgs{UUID: [16]byte{1}, Name: "guest", ID: 1, PID: 2}, &lockproto.RestrictArgs{},
		&lockproto.NewArgs{Path: "/l"}, &lockproto.ResourceArgs{Path: "/l", Name: "n", Flags: 3},
		&lockproto.CreateLockspaceArgs{Path: "/l"}, &lockproto.AcquireArgs{Owner: owner, Resources: resources, First: 1},
		&lockproto.SetProcessArgs{Owner: owner}, &lockproto.ReleaseArgs{Generation: 5, Resources: resources},
		&lockproto.ReleaseRet{Released: 1}, &lockproto.ListArgs{After: 9},
		&lockproto.LeaseList{Leases: []lockproto.Lease{{Number: 1, Owner: owner, Resource: resources[0], Path: "/l/n", State: 1}}, More: true},
		&lockproto.StatusRet{PID: 1, Version: "v", Held: 2},
		&lockproto.LeaseRest{Leases: []lockproto.LeaseMore{{POSIX: true}, {Unknown: true}}}, &lockproto.ForceReleaseArgs{Number: 7},
		&lockproto.Change{Number: 1, State: 3, Ended: true}, &lockproto.Change{Missed: true},
	}
}

func TestMessagesComeBackAsTheyWent(t *testing.T) {
	for _, m := range messages() {
		b, err := xdr.Append(nil, m)
		if err != nil {
			t.Fatal(err)
		}
		back := reflect.New(reflect.TypeOf(m).Elem()).Interface()
		rest, err := xdr.Unmarshal(b, back)
		if err != nil || len(rest) != 0 || !reflect.DeepEqual(m, back) {
			t.Errorf("%T: %+v became %+v, %d bytes left, error %v", m, m, back, len(rest), err)
		}
	}
}

func TestRegisterIsEncodedAsLibvirtDoes(t *testing.T) {
	b, err := xdr.Append(nil, &lockproto.RegisterArgs{UUID: [16]byte{0xaa, 15: 0xbb}, Name: "vm1", ID: 7, PID: 258})
	want := []byte{
		0xaa, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xbb, // no length
		0, 0, 0, 3, 'v', 'm', '1', 0, 0, 0, 0, 7, 0, 0, 1, 2, 0, 0, 0, 0,
	}
	if err != nil || !bytes.Equal(b, want) {
		t.Errorf("encoded % x, error %v, want % x", b, err, want)
	}
}

func FuzzDecode(f *testing.F) {
	for i, m := range messages() {
		b, err := xdr.Append(nil, m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), b)
	}
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		all := messages()
		m := reflect.New(reflect.TypeOf(all[int(kind)%len(all)]).Elem()).Interface()
		rest, err := xdr.Unmarshal(b, m)
		if r, ok := m.(*lockproto.ResourceArgs); ok {
			var fast lockproto.ResourceArgs
			if failed := fast.Decode(b); (failed == nil) != (err == nil) || (err == nil && fast != *r) {
				t.Fatalf("decoded in another way it is %+v (%v), not %+v (%v)", fast, failed, *r, err)
			}
		}
		if err != nil {
			return
		}
		// What was understood can be said again in as many bytes.
		again, err := xdr.Append(nil, m)
		if err != nil || len(again) != len(b)-len(rest) {
			t.Fatalf("%T took %d bytes and needs %d, error %v", m, len(b)-len(rest), len(again), err)
		}
	})
}
