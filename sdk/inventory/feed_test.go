package inventory

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func guest(name string) *pb.GuestObject { return &pb.GuestObject{Uuid: "uuid-of-" + name, Name: name} }

// read reads messages until one that is neither objects.
func read(t *testing.T, w *Follower) (names, gone []string, last *pb.FollowResponse) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		m, err := w.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if m.GetObjects() == nil {
			return names, gone, m
		}
		for _, g := range m.GetObjects().GetGuests() {
			names = append(names, g.GetName())
		}
		gone = append(gone, m.GetObjects().GetGoneGuests()...)
	}
}

func TestAFollowerIsToldThePictureAndThenChanges(t *testing.T) {
	f := NewFeed()
	f.Apply(&pb.Objects{Guests: []*pb.GuestObject{guest("a"), guest("b")}, Events: []*pb.GuestEvent{{Name: "a"}}})
	f.Synced()
	w := f.Follow()
	defer w.Close()
	names, _, last := read(t, w)
	if strings.Join(names, " ") != "a b" || last.GetSynced() == nil || last.GetSeq() != f.Seq() {
		t.Fatalf("told of %v, then %v, want a and b, then synced at %d", names, last, f.Seq())
	}
	f.Apply(&pb.Objects{Guests: []*pb.GuestObject{guest("a")}}) // nothing new: not told
	f.Apply(&pb.Objects{Guests: []*pb.GuestObject{guest("c")}, GoneGuests: []string{"uuid-of-b", "uuid-of-nobody"}})
	f.Stale(time.Now(), verr.New(verr.OperationFailed, "the host is gone"))
	names, gone, last := read(t, w)
	if strings.Join(names, " ") != "c" || strings.Join(gone, " ") != "uuid-of-b" || last.GetStale().GetCause().GetMessage() != "the host is gone" {
		t.Fatalf("told of %v, without %v, then %v", names, gone, last)
	}
}

func TestAPictureThatWasTrueOnceIsToldAsStale(t *testing.T) {
	f := NewFeed()
	f.Synced()
	f.Stale(time.Now(), errors.New("away"))
	w := f.Follow()
	defer w.Close()
	if _, _, m := read(t, w); m.GetSynced() == nil {
		t.Fatalf("told %v, want synced", m)
	}
	if _, _, m := read(t, w); m.GetStale() == nil {
		t.Fatalf("told %v, want stale", m)
	}
}

func TestAwaitReturnsTheMessageThatHasTheChange(t *testing.T) {
	f := NewFeed()
	go f.Apply(&pb.Objects{Guests: []*pb.GuestObject{guest("a")}})
	seq, err := f.Await(t.Context(), func(v *View) bool { return v.Guests["uuid-of-a"] != nil })
	if err != nil || seq != 1 {
		t.Fatalf("message %d, %v, want 1", seq, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := f.Await(ctx, func(*View) bool { return false }); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v, want a deadline", err)
	}
}

func TestAFollowerThatIsTooSlowBeginsAnew(t *testing.T) {
	f := NewFeed()
	slow := f.Follow()
	defer slow.Close()
	for range backlog + 1 {
		f.Synced()
	}
	for {
		_, err := slow.Next(t.Context())
		if verr.Is(err, verr.OperationAborted) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestALargePictureIsToldInPieces(t *testing.T) {
	f := NewFeed()
	o := &pb.Objects{}
	for _, name := range []string{"a", "b", "c", "d"} {
		g := guest(name)
		g.Xml = strings.Repeat("x", batchBytes/2+1)
		o.Guests = append(o.Guests, g)
	}
	f.Apply(o)
	f.Synced()
	w := f.Follow()
	defer w.Close()
	pieces := 0
	for {
		m, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if m.GetObjects() == nil {
			break
		}
		pieces++
	}
	if pieces != 4 {
		t.Fatalf("%d pieces, want 4", pieces)
	}
}
