package manager

import (
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/client"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

func sampleOwner() *owner {
	return &owner{
		who: newOwner("guest"), onFailure: pb.Action_ACTION_PAUSE,
		leases: []*held{{
			resource: disk("/images/a"), since: time.Unix(77, 0).UTC(),
			lease: client.Resource{Lockspace: diskSpace, Name: diskName("/images/a"), Version: 5, Disks: []client.Disk{{Path: "/leases/a"}}},
		}},
		asleep: []suspendedLease{{Lockspace: diskSpace, Name: diskName("/images/b"), Version: 7}},
	}
}

func TestRecordIsReadAsItWasWritten(t *testing.T) {
	o := sampleOwner()
	text, err := o.format()
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseRecord(text)
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got.who, o.who) || got.onFailure != o.onFailure || len(got.leases) != 1 || !reflect.DeepEqual(got.asleep, o.asleep) {
		t.Fatalf("read %+v", got)
	}
	if h, want := got.leases[0], o.leases[0]; !proto.Equal(h.resource, want.resource) || !reflect.DeepEqual(h.lease, want.lease) || !h.since.Equal(want.since) {
		t.Errorf("read %+v, not %+v", h, want)
	}
	k := keyOf(o.who)
	if got, ok := parseKey(k.String()); !ok || got != k {
		t.Errorf("key %q is read as %v", k, got)
	}
}

func TestNameOfAnOwnerIsCutBetweenCharacters(t *testing.T) {
	for name, want := range map[string]string{
		"guest": "guest",
		"ääääääääääääääääääääääää":  "ääääääääääääääääääääääää",
		"aääääääääääääääääääääääää": "aäääääääääääääääääääääää",
	} {
		if got := ownerName(&pb.Owner{Name: name}); got != want || len(got) > client.MaxName {
			t.Errorf("%q is called %q", name, got)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	text, err := sampleOwner().format()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"owner":{},"leases":[{}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		o, err := parseRecord(text)
		if err != nil {
			return
		}
		for _, h := range o.leases {
			_ = h.tell(o.who) // has a place
		}
		if _, err := o.format(); err != nil {
			t.Errorf("%q is read and not written: %v", text, err)
		}
	})
}

func FuzzParseSuspended(f *testing.F) {
	f.Add([]byte(`{"version":1,"leases":[{"lockspace":"LS","name":"a","lease_version":5}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(_ *testing.T, text []byte) { _, _ = parseSuspended(text) })
}
