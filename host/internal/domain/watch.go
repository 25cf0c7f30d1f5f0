package domain

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// Watcher follows what guests do by themselves. It remembers how far it got, so that a driver that the core has lost for a moment goes on
// where it was. Its methods are called by one goroutine at a time.
type Watcher struct {
	inv   *Inventory
	epoch uint64
	seq   uint64
}

// Watcher returns a watcher of the connection.
func (i *Inventory) Watcher() *Watcher { return &Watcher{inv: i} }

// Open starts the stream and waits for its first message; resync says that events were missed, so that every guest must be recovered
// before Follow.
func (w *Watcher) Open(ctx context.Context, driver pb.DriverServiceClient) (stream WatchStream, resync bool, err error) {
	stream, err = driver.Watch(ctx, &pb.WatchRequest{Connection: w.inv.cfg.Connection, Epoch: w.epoch, AfterSeq: w.seq})
	if err != nil {
		return nil, false, fmt.Errorf("watch guests of %q: %w", w.inv.cfg.URI, err)
	}
	first, err := stream.Recv()
	if err != nil {
		return nil, false, fmt.Errorf("watch guests of %q: %w", w.inv.cfg.URI, err)
	}
	hello := first.GetHello()
	if hello == nil {
		return nil, false, fmt.Errorf("watch guests of %q: driver began without a hello", w.inv.cfg.URI)
	}
	if hello.Epoch != w.epoch {
		w.epoch, w.seq = hello.Epoch, 0
		return stream, true, nil
	}
	return stream, hello.Resync, nil
}

// WatchStream is the stream of a driver's events.
type WatchStream interface {
	Recv() (*pb.WatchResponse, error)
}

// Follow hands events to their guests until the stream ends.
func (w *Watcher) Follow(stream WatchStream) error {
	for {
		msg, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("watch guests of %q: %w", w.inv.cfg.URI, err)
		}
		e := msg.GetEvent()
		if e == nil {
			continue
		}
		w.seq = e.Seq
		w.inv.deliver(e)
	}
}

// maxInbox is how many events wait for one guest.
const maxInbox = 1024

// deliver queues an event for its guest.
func (i *Inventory) deliver(e *pb.WatchEvent) {
	id, err := uuid.Parse(e.GetGuest().GetUuid())
	if err != nil {
		i.cfg.Log.Warn("driver sent an event of no guest", "error", err)
		return
	}
	i.mu.RLock()
	d := i.byUUID[id]
	i.mu.RUnlock()
	if d == nil {
		return
	}
	d.mu.Lock()
	if len(d.inbox) < maxInbox {
		d.inbox = append(d.inbox, e)
	} else {
		d.overdue = true // the guest is recovered in place of what was dropped
	}
	idle := !d.busy
	d.busy = true
	d.mu.Unlock()
	if idle {
		go d.drain()
	}
}

// drain applies queued events in order, between jobs. At most one runs for a domain; it ends when the inbox is empty.
func (d *Domain) drain() {
	for {
		d.slot <- struct{}{} // every job ends by the deadlines of its calls
		j, err := d.hold(context.Background(), "event")
		d.mu.Lock()
		events, overdue := d.inbox, d.overdue
		d.inbox, d.overdue = nil, false
		d.busy = (len(events) > 0 || overdue) && err == nil
		done := !d.busy
		d.mu.Unlock()
		if err != nil {
			return
		}
		for _, e := range events {
			d.take(j, e)
		}
		if overdue && d.state.Load().phase != catalog.Inactive {
			if err := j.recover(d.inv.driver); err != nil {
				d.inv.cfg.Log.Warn("guest could not be looked at again", "error", err)
			}
		}
		j.end()
		if done {
			return
		}
	}
}

// take applies one event if it concerns the guest's present life.
func (d *Domain) take(j *job, e *pb.WatchEvent) {
	s := d.state.Load()
	if s.phase != catalog.Active || s.Generation != e.GetGuest().GetGeneration() {
		return
	}
	err := j.applyEvent(e)
	if err != nil {
		d.inv.cfg.Log.Error("event could not be applied", "guest", s.Name, "gen", s.Generation, "error", err)
	}
}

// applyEvent makes an event of the driver's true. An event about devices only says that they have changed: the answer of a call that was made
// after it may have come before it, so the driver is asked for the present live definition, which tells which devices came and went.
func (j *job) applyEvent(e *pb.WatchEvent) error {
	if e.LiveXml == "" {
		return j.apply(e.Change, "")
	}
	if err := j.recover(j.d.inv.driver); err != nil {
		return err
	}
	if j.d.state.Load().phase != catalog.Active {
		return nil
	}
	change := &pb.Change{State: e.GetChange().GetState(), Reason: e.GetChange().GetReason()}
	for _, told := range e.GetChange().GetEvents() {
		if told.GetDeviceAdded() == nil && told.GetDeviceRemoved() == nil {
			change.Events = append(change.Events, told)
		}
	}
	return j.apply(change, "")
}
