package event

import (
	"errors"
	"testing"
)

func TestSubscriptionSeesEventsInOrder(t *testing.T) {
	b := NewBus(100)
	s := b.Subscribe()
	defer s.Close()
	for range 3 {
		b.Publish(Event{Name: "guest"})
	}
	for want := uint64(101); want <= 103; want++ {
		if got := <-s.C(); got.Seq != want || got.Time.IsZero() {
			t.Fatalf("event %d at %v, want %d with a time", got.Seq, got.Time, want)
		}
	}
}

func TestSlowListenerIsLostAndOthersGoOn(t *testing.T) {
	b := NewBus(0)
	slow, quick := b.Subscribe(), b.Subscribe()
	defer quick.Close()
	for i := range backlog + 1 {
		b.Publish(Event{})
		if got := <-quick.C(); got.Seq != uint64(i+1) {
			t.Fatalf("quick listener got %d, want %d", got.Seq, i+1)
		}
	}
	n := 0
	for range slow.C() {
		n++
	}
	if n != backlog || !slow.Lost() || quick.Lost() {
		t.Fatalf("slow listener got %d events, lost %v; quick lost %v", n, slow.Lost(), quick.Lost())
	}
	slow.Close()
}

func TestResume(t *testing.T) {
	b := NewBus(1 << 32)
	for range 2*keep + 5 {
		b.Publish(Event{})
	}
	last := b.Last()
	tests := map[string]struct {
		after uint64
		want  int
		err   error
	}{
		"from the last event nothing is missed": {last, 0, nil},
		"three events are replayed":             {last - 3, 3, nil},
		"events that are no longer kept":        {last - 2*keep - 1, 0, ErrTooOld},
		"more than one queue holds":             {last - backlog - 1, backlog + 1, nil},
		"a number from the future":              {last + 1, 0, ErrTooOld},
		"a number of an earlier start":          {7, 0, ErrTooOld},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, err := b.SubscribeAfter(tt.after)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if err != nil {
				return
			}
			s.Close()
			n := 0
			for range s.C() {
				n++
			}
			if n != tt.want {
				t.Fatalf("%d events replayed, want %d", n, tt.want)
			}
		})
	}
}
