package driver

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/lodgevirt/lodge/plugins/test/internal/fault"
	"github.com/lodgevirt/lodge/plugins/test/internal/record"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// guest is one life that this process is in charge of. It ends once: by Stop, by itself, or because its record is gone.
type guest struct {
	identity *pb.Guest
	ended    chan struct{} // closed when the life is over, or this process no longer in charge

	mu     sync.Mutex // guards all below; taken before the driver's
	record record.Record
	leases []*os.File
	// plugged are the descriptors of locks of devices that were attached, by what tells the devices apart.
	plugged  map[string][]*os.File
	timers   []*time.Timer
	consoles map[string]*console
	saving   *saving // nil while nothing is saved
	over     bool
}

// takeCharge makes this process the one in charge of a life. If it is already, that guest is returned and leases are not taken.
func (d *Driver) takeCharge(identity *pb.Guest, r *record.Record, leases []*os.File) *guest {
	g := &guest{identity: identity, ended: make(chan struct{}), record: *r, leases: leases}
	d.mu.Lock()
	old := d.guests[identity.GetUuid()]
	if old != nil && old.identity.GetGeneration() == identity.GetGeneration() {
		d.mu.Unlock()
		return old
	}
	d.guests[identity.GetUuid()] = g
	d.mu.Unlock()
	if old != nil {
		old.release()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, act := range r.Acts {
		due := r.Started.Add(time.Duration(act.After) * time.Millisecond)
		g.timers = append(g.timers, time.AfterFunc(time.Until(due), func() { d.act(g, act.Does) }))
	}
	return g
}

// find returns the life that is meant, or an error of code OperationInvalid if it is over. A life that only its record tells of is
// taken charge of, so that no call depends on another having come first.
func (d *Driver) find(identity *pb.Guest) (*guest, error) {
	d.mu.Lock()
	g := d.guests[identity.GetUuid()]
	d.mu.Unlock()
	if g == nil {
		r, err := d.records.Load(identity.GetUuid())
		if err != nil {
			return nil, err
		}
		if r != nil && r.Generation == identity.GetGeneration() {
			g = d.takeCharge(identity, r, nil)
		}
	}
	if g == nil || g.identity.GetGeneration() != identity.GetGeneration() {
		return nil, notRunning()
	}
	return g, nil
}

func notRunning() error { return verr.New(verr.OperationInvalid, "domain is not running") }

// end ends a life: its record goes first, then all that hangs on it. It says whether the life was not over before.
func (d *Driver) end(g *guest) (ended bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return false, nil
	}
	if err := d.records.Remove(g.identity.GetUuid()); err != nil {
		return false, err
	}
	g.letGo()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.guests[g.identity.GetUuid()] == g {
		delete(d.guests, g.identity.GetUuid())
	}
	return true, nil
}

// release lets go of a life that goes on without this process, or is over already.
func (g *guest) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.over {
		g.letGo()
	}
}

// letGo makes waiting calls fail, and closes consoles and the descriptors of locks. Called with the mutex held.
func (g *guest) letGo() {
	g.over = true
	close(g.ended)
	for _, t := range g.timers {
		t.Stop()
	}
	for _, c := range g.consoles {
		c.shut()
	}
	closeAll(g.leases)
	for _, files := range g.plugged {
		closeAll(files)
	}
}

// snapshot returns the guest's record as it is now.
func (g *guest) snapshot() record.Record {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.record
}

// during returns a context that ends with the life, too.
func (g *guest) during(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() { // ends with the context, which the caller ends
		select {
		case <-g.ended:
			cancel(notRunning())
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(context.Canceled) }
}

// pass passes a guest's point; a fault that makes it wait is broken off when the life ends.
func (d *Driver) pass(ctx context.Context, g *guest, point string) error {
	ctx, cancel := g.during(ctx)
	defer cancel()
	return d.hit(ctx, g.identity.GetUuid(), point)
}

// act is the guest doing something by itself, which the core learns from the watch stream.
func (d *Driver) act(g *guest, does string) {
	change, err := d.acted(g, does)
	if err != nil {
		d.log.Warn("guest could not act", "guest", g.identity.GetName(), "does", does, "error", err)
		return
	}
	if change != nil {
		d.core.Publish(&pb.WatchEvent{Guest: g.identity, Change: change})
	}
}

// acted does it, and returns nothing if the life was over before.
func (d *Driver) acted(g *guest, does string) (*pb.Change, error) {
	how := poweredOff
	switch does {
	case fault.Reboot:
		return &pb.Change{Events: []*pb.Event{{Event: &pb.Event_Reboot{Reboot: &pb.RebootEvent{}}}}}, nil
	case fault.Crash:
		how = crashed
	}
	if ended, err := d.end(g); err != nil || !ended {
		return nil, err
	}
	return how.change(), nil
}
