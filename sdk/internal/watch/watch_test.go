package watch

import (
	"testing"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

func publish(f *Feed, connection string, n int) {
	for range n {
		f.Publish(&pb.WatchEvent{Guest: &pb.Guest{Connection: connection}})
	}
}

// readAll reads until there is no more.
func readAll(t *testing.T, f *Feed, connection string, after uint64) (seqs []uint64, next uint64) {
	t.Helper()
	for {
		events, to, more, ok := f.Read(connection, after)
		if !ok {
			t.Fatalf("events after %d are lost", after)
		}
		for _, e := range events {
			seqs = append(seqs, e.GetSeq())
		}
		after = to
		select {
		case <-more:
		default:
			return seqs, after
		}
	}
}

func TestReaderGetsTheEventsOfItsConnectionInOrder(t *testing.T) {
	f := NewFeed()
	publish(f, "a", 2)
	publish(f, "b", 3)
	publish(f, "a", 1)
	seqs, next := readAll(t, f, "a", 0)
	if len(seqs) != 3 || seqs[0] != 1 || seqs[1] != 2 || seqs[2] != 6 || next != 6 {
		t.Errorf("read %v up to %d", seqs, next)
	}
}

func TestReaderGoesOnWhereItStopped(t *testing.T) {
	f := NewFeed()
	publish(f, "a", 5)
	for _, c := range []struct {
		name         string
		epoch, after uint64
		wantAfter    uint64
		wantResync   bool
	}{
		{"of this epoch", f.Epoch(), 3, 3, false},
		{"that has seen all", f.Epoch(), 5, 5, false},
		{"that has seen nothing", f.Epoch(), 0, 0, false},
		{"that is new", 0, 0, 5, true},
		{"of another epoch", f.Epoch() + 1, 3, 5, true},
		{"from the future", f.Epoch(), 6, 5, true},
	} {
		if after, resync := f.Position(c.epoch, c.after); after != c.wantAfter || resync != c.wantResync {
			t.Errorf("a reader %s starts after %d, resync %v", c.name, after, resync)
		}
	}
}

func TestReaderLearnsThatEventsWereDropped(t *testing.T) {
	f := NewFeed()
	publish(f, "a", MaxEvents+10)
	if _, _, _, ok := f.Read("a", 9); ok {
		t.Error("event 10 is gone, and nobody says so")
	}
	if _, resync := f.Position(f.Epoch(), 9); !resync {
		t.Error("a reader that missed event 10 is not told to resync")
	}
	seqs, _ := readAll(t, f, "a", 10)
	if len(seqs) != MaxEvents || seqs[0] != 11 {
		t.Errorf("%d events are left, the first is %d", len(seqs), seqs[0])
	}
}

func TestLargeEventsAreBoundedByTheirSize(t *testing.T) {
	f := NewFeed()
	xml := string(make([]byte, 1<<20))
	for range 100 {
		f.Publish(&pb.WatchEvent{Guest: &pb.Guest{Connection: "a"}, LiveXml: xml})
	}
	if f.bytes > MaxBytes || f.count == 0 {
		t.Errorf("%d events of %d bytes are kept", f.count, f.bytes)
	}
	f.Publish(&pb.WatchEvent{LiveXml: string(make([]byte, MaxBytes+1))})
	if f.count != 1 {
		t.Errorf("%d events are kept beside one that is too large", f.count)
	}
}

func TestWaitingReaderIsWoken(t *testing.T) {
	f := NewFeed()
	_, next, more, _ := f.Read("a", 0)
	publish(f, "a", 1)
	<-more
	if seqs, _ := readAll(t, f, "a", next); len(seqs) != 1 {
		t.Errorf("read %v", seqs)
	}
}

func BenchmarkPublish(b *testing.B) {
	f := NewFeed()
	e := &pb.WatchEvent{Guest: &pb.Guest{Connection: "a", Uuid: "u"}, Change: &pb.Change{State: pb.State_STATE_RUNNING}}
	for b.Loop() {
		f.Publish(e)
	}
}
