// Package watch keeps a plugin's latest events for the core's watch streams, so that a core that comes back reads on where it
// stopped.
//
// A Feed numbers events ascending from 1 within an epoch, which is another one for each process. It keeps at most MaxEvents
// events and MaxBytes bytes; beyond these the oldest go, and a reader that had not seen them is told that it missed something.
// Publish never blocks and never calls out. All methods are safe concurrently; events are shared and must not be changed.
package watch

import (
	"crypto/rand"
	"encoding/binary"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// Limits of a feed.
const (
	// MaxEvents is how many events are kept.
	MaxEvents = 65536
	// MaxBytes is how many bytes of encoded events are kept.
	MaxBytes = 32 << 20
	// maxBatch is how many events one Read returns at most.
	maxBatch = 1024
)

// Feed is the events of one process.
type Feed struct {
	epoch uint64

	mu      sync.Mutex // guards all below
	ring    []item     // grows up to MaxEvents, then goes round
	head    int        // index of the oldest
	count   int
	bytes   int
	last    uint64        // number of the newest event ever published
	changed chan struct{} // closed and replaced by each Publish
}

type item struct {
	event *pb.WatchEvent
	size  int
}

// NewFeed returns an empty feed with a random epoch.
func NewFeed() *Feed {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return &Feed{epoch: binary.LittleEndian.Uint64(b[:])>>1 + 1, changed: make(chan struct{})}
}

// Epoch identifies this feed's numbers; it is never 0.
func (f *Feed) Epoch() uint64 { return f.epoch }

// Publish numbers an event and keeps it. The event is copied, and a missing time is filled in.
func (f *Feed) Publish(event *pb.WatchEvent) {
	e, ok := proto.Clone(event).(*pb.WatchEvent)
	if !ok || e == nil {
		return
	}
	if e.Time == nil {
		e.Time = timestamppb.Now()
	}
	size := proto.Size(e)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last++
	e.Seq = f.last
	f.push(item{event: e, size: size})
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *Feed) push(it item) {
	for f.count > 0 && (f.count == MaxEvents || f.bytes+it.size > MaxBytes) {
		f.bytes -= f.ring[f.head].size
		f.ring[f.head] = item{}
		f.head = (f.head + 1) % len(f.ring)
		f.count--
	}
	if f.count == len(f.ring) {
		f.grow()
	}
	f.ring[(f.head+f.count)%len(f.ring)] = it
	f.count++
	f.bytes += it.size
}

// grow doubles the ring, oldest first.
func (f *Feed) grow() {
	bigger := make([]item, min(max(64, 2*len(f.ring)), MaxEvents))
	for i := range f.count {
		bigger[i] = f.ring[(f.head+i)%len(f.ring)]
	}
	f.ring, f.head = bigger, 0
}

// Position says where a reader starts that has last seen event afterSeq of an epoch. Where that is not possible without a gap,
// resync is true and the position is the present.
func (f *Feed) Position(epoch, afterSeq uint64) (after uint64, resync bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if epoch != f.epoch || afterSeq > f.last || afterSeq < f.last-uint64(f.count) {
		return f.last, true
	}
	return afterSeq, false
}

// Read returns events after a number that concern a connection, at most 1024, the number to go on from, and a channel that is
// closed when there is more to read. It is not ok if events after that number were dropped.
func (f *Feed) Read(connection string, after uint64) (events []*pb.WatchEvent, next uint64, more <-chan struct{}, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	oldest := f.last - uint64(f.count) + 1
	if after+1 < oldest {
		return nil, 0, nil, false
	}
	next = after
	for next < f.last && len(events) < maxBatch {
		next++
		e := f.ring[(f.head+int(next-oldest))%len(f.ring)].event
		if e.GetGuest().GetConnection() == connection {
			events = append(events, e)
		}
	}
	if next < f.last {
		return events, next, ready, true
	}
	return events, next, f.changed, true
}

// ready is a channel for readers that need not wait.
var ready = func() <-chan struct{} {
	ch := make(chan struct{})
	close(ch)
	return ch
}()
