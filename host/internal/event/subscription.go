package event

import (
	"errors"
	"sync"
	"time"
)

// Sizes of the queues, in events.
const (
	// keep is how many past events can be resumed from.
	keep = 16384
	// backlog is how far one subscription may fall behind before it is lost.
	backlog = 2048
)

// ErrTooOld means that events after the wanted sequence number are no longer kept.
var ErrTooOld = errors.New("events after that sequence number are no longer kept")

// Bus hands every published event to every subscription. It is safe concurrently.
type Bus struct {
	mu   sync.Mutex
	seq  uint64
	ring []Event // the last events, oldest first, at most keep
	subs map[*Subscription]struct{}
}

// NewBus returns a bus whose first event has the number first+1.
func NewBus(first uint64) *Bus {
	return &Bus{seq: first, subs: map[*Subscription]struct{}{}}
}

// Publish numbers the event, fills in a missing time, and hands it to all subscriptions. It never blocks.
func (b *Bus) Publish(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seq++
	e.Seq = b.seq
	if len(b.ring) >= 2*keep {
		b.ring = append(b.ring[:0], b.ring[keep:]...)
	}
	b.ring = append(b.ring, e)
	for s := range b.subs {
		s.offer(e)
	}
}

// Last returns the number of the newest event.
func (b *Bus) Last() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seq
}

// Subscribe returns a subscription to all events from now on.
func (b *Bus) Subscribe() *Subscription {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.subscribe(nil)
}

// SubscribeAfter returns a subscription that starts with the events after the number, or ErrTooOld.
func (b *Bus) SubscribeAfter(after uint64) (*Subscription, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	oldest := b.seq - uint64(len(b.ring))
	if after < oldest || after > b.seq {
		return nil, ErrTooOld
	}
	return b.subscribe(b.ring[after-oldest:]), nil
}

func (b *Bus) subscribe(missed []Event) *Subscription {
	s := &Subscription{bus: b, c: make(chan Event, len(missed)+backlog)}
	for _, e := range missed {
		s.c <- e
	}
	b.subs[s] = struct{}{}
	return s
}

// Subscription is one listener. Its owner must Close it.
type Subscription struct {
	bus  *Bus
	c    chan Event
	lost bool // guarded by bus.mu
}

// C is the channel of events; it is closed by Close and when the subscription is lost.
func (s *Subscription) C() <-chan Event { return s.c }

// Lost reports whether the listener was too slow and has missed events.
func (s *Subscription) Lost() bool {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	return s.lost
}

// Close ends the subscription. It may be called more than once.
func (s *Subscription) Close() {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	s.end()
}

// offer queues an event, or ends the subscription when the queue is full; the bus's lock is held.
func (s *Subscription) offer(e Event) {
	select {
	case s.c <- e:
	default:
		s.lost = true
		s.end()
	}
}

func (s *Subscription) end() {
	if _, ok := s.bus.subs[s]; ok {
		delete(s.bus.subs, s)
		close(s.c)
	}
}
