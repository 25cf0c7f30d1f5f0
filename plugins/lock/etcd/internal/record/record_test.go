package record_test

import (
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/record"
	lockv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestResourcesHaveNamesOfTheirOwn(t *testing.T) {
	seen := map[record.ID]*lockv1.Resource{}
	keys := record.Keys{Prefix: "/p/"}
	var dirs []string
	for _, r := range []*lockv1.Resource{
		{Disk: "/a"},
		{Disk: "/a "},
		{Disk: "/a/../a"},
		{Disk: "/a\n"},
		{Disk: "/\x00"},
		{Disk: "/" + strings.Repeat("x", record.MaxPath-1)},
		{Key: "a"},
		{Lockspace: "a", Key: "b"},
		{Lockspace: "a/b", Key: "c"},
		{Lockspace: "a", Key: "b/c"},
		{Lockspace: "a%2Fb", Key: "c"},
		{Lockspace: "..", Key: ".."},
		{Lockspace: "", Key: "/"},
		{Lockspace: "a", Key: "b/h/e"},
		{Key: "\u00e4\u20ac\U0001f600"},
	} {
		id, err := record.NewID(r)
		if err != nil {
			t.Fatalf("resource %v: %v", r, err)
		}
		if other := seen[id]; other != nil {
			t.Errorf("%v and %v are both %q", r, other, id)
		}
		seen[id] = r
		dirs = append(dirs, strings.TrimSuffix(keys.Holders(id), "h/"))
	}
	for i, a := range dirs {
		for j, b := range dirs {
			if i != j && strings.HasPrefix(a, b) {
				t.Errorf("%q lies below %q", a, b)
			}
		}
	}
}

func TestWhatCannotBeLockedIsRefusedByName(t *testing.T) {
	for _, c := range []struct {
		name string
		res  *lockv1.Resource
		says string
	}{
		{"nothing", &lockv1.Resource{}, "no lease's key"},
		{"a lockspace alone", &lockv1.Resource{Lockspace: "a"}, "no lease's key"},
		{"both", &lockv1.Resource{Disk: "/a", Key: "b"}, `disk "/a" and lease "b"`},
		{"a relative path", &lockv1.Resource{Disk: "a.img"}, `disk "a.img"`},
		{"a long path", &lockv1.Resource{Disk: "/" + strings.Repeat("x", record.MaxPath)}, "at most 4096 bytes"},
		{"a long key", &lockv1.Resource{Key: strings.Repeat("k", record.MaxName+1)}, "at most 1024 bytes"},
		{"a long lockspace", &lockv1.Resource{Lockspace: strings.Repeat("k", record.MaxName+1), Key: "k"}, "at most 1024 bytes"},
		{"an offset", &lockv1.Resource{Lockspace: "a", Key: "b", Offset: 512}, `lease "b" in lockspace "a"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := record.NewID(c.res)
			if !verr.Is(err, verr.ConfigUnsupported) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want code 67 and a sentence with %q", err, c.says)
			}
		})
	}
}

func TestHolderComesBack(t *testing.T) {
	h := record.Holder{
		Owner: "u", Generation: 1<<64 - 1, Name: "a \"guest\"\n\x01", URI: "qemu:///system", Host: "h", Instance: "i", Boot: "b",
		PID: 7, StartTime: 8, Since: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Path: "/\u20ac\x00\t", Shared: true,
	}
	got, err := record.Decode[record.Holder]([]byte(record.Encode(h)))
	if err != nil || *got != h {
		t.Errorf("got %+v, %v, want %+v", got, err, h)
	}
	if s := got.String(); strings.ContainsAny(s, "\n\x01") || !strings.Contains(s, "2026-01-02T03:04:05Z") || !strings.Contains(s, "process 7") {
		t.Errorf("a holder is told as %q", s)
	}
	if got.Life().String() != "u.18446744073709551615" {
		t.Errorf("its life is %q", got.Life())
	}
}

func TestHostileValuesAreRefused(t *testing.T) {
	for name, value := range map[string]string{
		"nothing": "", "no JSON": "hello", "another kind": `{"owner": 7}`, "a number too large": `{"generation": 18446744073709551616}`,
		"too much": `{"name": "` + strings.Repeat("x", record.MaxValue) + `"}`, "no time": `{"since": "yesterday"}`,
	} {
		if h, err := record.Decode[record.Holder]([]byte(value)); err == nil {
			t.Errorf("%s: read as %+v", name, h)
		}
	}
	if _, err := record.Decode[record.Holder]([]byte(`{"owner": "u", "of a newer version": {}}`)); err != nil {
		t.Errorf("a key that is not known: %v", err)
	}
}

func TestSuspendedComesBack(t *testing.T) {
	s := &record.Suspended{Version: 1, Epochs: map[string]int64{record.Digest("disk/x"): 42, record.Digest("disk/y"): 0}}
	text, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := record.ParseSuspended(text)
	if err != nil {
		t.Fatal(err)
	}
	if e, ok := got.Epoch("disk/x"); e != 42 || !ok {
		t.Errorf("the epoch is %d, %v", e, ok)
	}
	if _, ok := got.Epoch("disk/z"); ok {
		t.Error("a disk that the guest never had has an epoch")
	}
	if none, err := record.ParseSuspended(nil); none != nil || err != nil {
		t.Errorf("no state is %v, %v", none, err)
	}
	for _, text := range []string{"x", `{"v": 2}`, `{"v": 1, "w": 2}`, strings.Repeat(" ", 1<<17)} {
		if _, err := record.ParseSuspended([]byte(text)); !verr.Is(err, verr.InvalidArg) {
			t.Errorf("state %.20q: %v", text, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(record.Encode(record.Holder{Owner: "u", Name: "n"})))
	f.Add([]byte(`{"since": "2026-01-02T03:04:05Z", "pid": -1}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		if h, err := record.Decode[record.Holder](value); err == nil {
			if len(h.String()) > 16<<10 {
				t.Errorf("a sentence of %d bytes", len(h.String()))
			}
			again, err := record.Decode[record.Holder]([]byte(record.Encode(*h)))
			if err == nil && !again.Since.Equal(h.Since) {
				t.Errorf("%+v became %+v", h, again)
			}
		}
		_, _ = record.Decode[record.Host](value)
		_, _ = record.Decode[record.Last](value)
	})
}

func FuzzParseSuspended(f *testing.F) {
	f.Add([]byte(`{"v":1,"e":{"00":7}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := record.ParseSuspended(text)
		if err != nil || s == nil {
			return
		}
		if _, err := s.Encode(); err != nil {
			t.Errorf("what was read cannot be written: %v", err)
		}
	})
}
