package qmp

import (
	"encoding/json"
	"sync"
	"time"
)

// Event is something that happened in a guest by itself.
type Event struct {
	// Name is QEMU's, for example "SHUTDOWN".
	Name string
	// Time is when it happened by QEMU's clock, or zero where QEMU does not know.
	Time time.Time
	// Data is the event's JSON object, or nil.
	Data json.RawMessage
	// Lost counts the events directly before this one that were dropped because the reader was slow.
	Lost uint64
}

// eventQueue is an unblocking bounded queue: when it is full the oldest event makes room.
type eventQueue struct {
	mu     sync.Mutex
	events []Event
	bytes  int
	lost   uint64
	ended  bool
	// more holds a token while the pump has something to look at.
	more chan struct{}
}

func newEventQueue() *eventQueue { return &eventQueue{more: make(chan struct{}, 1)} }

func (q *eventQueue) push(e Event) {
	q.mu.Lock()
	q.events = append(q.events, e)
	q.bytes += len(e.Data)
	for len(q.events) > maxQueuedEvents || (q.bytes > maxQueuedEventBytes && len(q.events) > 1) {
		q.bytes -= len(q.events[0].Data)
		q.events = q.events[1:]
		q.lost++
	}
	q.mu.Unlock()
	q.wake()
}

// end says that no event will follow.
func (q *eventQueue) end() {
	q.mu.Lock()
	q.ended = true
	q.mu.Unlock()
	q.wake()
}

func (q *eventQueue) wake() {
	select {
	case q.more <- struct{}{}:
	default:
	}
}

// pop returns the oldest event; ok false means that there is none yet, ended that none will come.
func (q *eventQueue) pop() (e Event, ok, ended bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.events) == 0 {
		q.events = nil
		return Event{}, false, q.ended
	}
	e = q.events[0]
	q.events = q.events[1:]
	q.bytes -= len(e.Data)
	e.Lost, q.lost = q.lost, 0
	return e, true, false
}

// pump hands queued events to out until the queue has ended or quit is closed, and closes out.
func (q *eventQueue) pump(out chan<- Event, quit <-chan struct{}) {
	defer close(out)
	for {
		e, ok, ended := q.pop()
		switch {
		case ok:
			select {
			case out <- e:
			case <-quit:
				return
			}
		case ended:
			return
		default:
			select {
			case <-q.more:
			case <-quit:
				return
			}
		}
	}
}
