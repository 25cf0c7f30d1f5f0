package guests

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"
	"google.golang.org/protobuf/proto"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	"github.com/lodgevirt/lodge/plugins/esx/internal/inventory"
	"github.com/lodgevirt/lodge/plugins/esx/internal/vmx"
	sdk "github.com/lodgevirt/lodge/sdk/inventory"
	hv "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Options say what is followed.
type Options struct {
	// Product is the endpoint's.
	Product endpoint.Product
	// Path leads to a host of a vCenter server; empty is all of it.
	Path []string
	// Server is the endpoint's host, for URIs of migrations.
	Server string
	// AutoAnswer has questions of machines answered with their defaults.
	AutoAnswer bool
	// Ready waits until what others put into the feed is there, so that the feed can be told to be synced; it is called whenever the
	// machines are. An error is no obstacle. Nil waits for nothing.
	Ready func(ctx context.Context) error
	// Mirror is how the endpoint is followed.
	Mirror inventory.Options
}

// Guests are the machines of a connection.
type Guests struct {
	endpoint *endpoint.Endpoint
	options  Options
	feed     *sdk.Feed
	log      hclog.Logger
	mirror   *inventory.Mirror
	place    atomic.Pointer[place]
	// wake has the background look for what is to be read or answered.
	wake chan struct{}
	// life ends with Close.
	life    context.Context
	cancel  context.CancelFunc
	stopped chan struct{}
	syncing sync.WaitGroup
	meter   *meter

	// telling is held from a look at shown to the feed's Apply, so that nothing old is told after something new. It is taken before mu.
	telling sync.Mutex

	mu sync.Mutex // guards all below; not held across calls
	// shown is the snapshot that is in the feed.
	shown *inventory.Snapshot
	// changed is closed and replaced when shown is replaced.
	changed     chan struct{}
	definitions map[types.ManagedObjectReference]definition
	answered    map[string]bool
	// ending counts the calls that switch a machine off.
	ending map[types.ManagedObjectReference]int
}

// Start begins to follow. It ends with Close. The only error is that of an endpoint that is closed already.
func Start(e *endpoint.Endpoint, o Options, feed *sdk.Feed, log hclog.Logger) (*Guests, error) {
	ctx, cancel := context.WithCancel(context.Background())
	g := &Guests{
		endpoint: e, options: o, feed: feed, log: log.With("endpoint", e.Name()),
		wake: make(chan struct{}, 1), life: ctx, cancel: cancel, stopped: make(chan struct{}), meter: newMeter(e),
		shown: &inventory.Snapshot{}, changed: make(chan struct{}),
		definitions: map[types.ManagedObjectReference]definition{}, answered: map[string]bool{},
		ending: map[types.ManagedObjectReference]int{},
	}
	g.options.Mirror.Locate = g.locate
	mirror, err := inventory.Start(e, g.options.Mirror, log, g.told)
	if err != nil {
		cancel()
		return nil, err
	}
	g.mirror = mirror
	go g.work(ctx)
	return g, nil
}

// Close ends the following, waits for it, and leaves the feed as it is.
func (g *Guests) Close() {
	g.cancel()
	g.mirror.Close()
	g.syncing.Wait()
	<-g.stopped
}

// Host returns the host of the connection, once it has been found.
func (g *Guests) Host(ctx context.Context) (*object.HostSystem, error) {
	p, err := g.placed(ctx)
	if err != nil {
		return nil, err
	}
	s, err := g.endpoint.Session(ctx)
	if err != nil {
		return nil, err
	}
	return object.NewHostSystem(s.Client, p.host), nil
}

// placed waits until the place has been found, which needs a host.
func (g *Guests) placed(ctx context.Context) (*place, error) {
	for {
		g.mu.Lock()
		changed, shown := g.changed, g.shown
		g.mu.Unlock()
		if p := g.place.Load(); p != nil {
			if p.host.Value == "" {
				return nil, failed(verr.OperationUnsupported, "the connection is to all hosts of a vCenter server: open vpx://SERVER/DATACENTER/HOST")
			}
			return p, nil
		}
		if shown.Cause != nil {
			return nil, shown.Cause
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, failed(verr.OperationTimeout, "host of endpoint %q is not known yet: %w", g.endpoint.Name(), ctx.Err())
		case <-g.stopped:
			return nil, failed(verr.InvalidConn, "connection to endpoint %q is closed", g.endpoint.Name())
		}
	}
}

// told takes in what the mirror tells.
func (g *Guests) told(c inventory.Change) {
	g.forget(c)
	g.tell(c)
	if c.Kind == inventory.Resynchronised {
		g.syncing.Go(func() { g.sync(c.Snapshot) })
	}
	g.poke()
}

// readyTimeout bounds the wait for what others put into the feed.
const readyTimeout = 10 * time.Second

// sync tells that the picture is true, once all of it is there and unless it was lost again meanwhile.
func (g *Guests) sync(read *inventory.Snapshot) {
	if g.options.Ready != nil {
		ctx, cancel := context.WithTimeout(g.life, readyTimeout)
		defer cancel()
		if err := g.options.Ready(ctx); err != nil {
			g.log.Warn("storage or networks are not there", "error", err)
		}
	}
	g.telling.Lock()
	defer g.telling.Unlock()
	g.mu.Lock()
	shown := g.shown
	g.mu.Unlock()
	if g.life.Err() == nil && (shown == read || shown.StaleSince.IsZero()) {
		g.feed.Synced()
	}
}

// tell puts a change into the feed.
func (g *Guests) tell(c inventory.Change) {
	g.telling.Lock()
	defer g.telling.Unlock()
	switch c.Kind {
	case inventory.Stale:
		g.feed.Stale(c.Snapshot.StaleSince, c.Snapshot.Cause)
	case inventory.Resynchronised:
		g.refresh(c.Snapshot)
	case inventory.HostChanged:
		g.feed.Apply(&pb.Objects{Host: g.probe(c.Snapshot.Host)})
	case inventory.Added, inventory.Changed, inventory.Removed:
		g.one(c)
	}
	g.mu.Lock()
	g.shown = c.Snapshot
	close(g.changed)
	g.changed = make(chan struct{})
	g.mu.Unlock()
}

// forget drops what is known of a machine that is gone.
func (g *Guests) forget(c inventory.Change) {
	if c.Kind != inventory.Removed {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, still := c.Snapshot.Ref(c.Old.Ref); !still {
		delete(g.definitions, c.Old.Ref)
		g.meter.forget(c.Old.Ref)
	}
}

// poke wakes the background.
func (g *Guests) poke() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// batch is about how many bytes of machines are put into the feed in one message.
const batch = 256 << 10

// refresh puts all machines into the feed.
func (g *Guests) refresh(s *inventory.Snapshot) {
	var gone []string
	g.feed.Look(func(v *sdk.View) {
		for id := range v.Guests {
			if _, still := s.UUID(id); !still {
				gone = append(gone, id)
			}
		}
	})
	g.feed.Apply(&pb.Objects{Host: g.probe(s.Host), GoneGuests: gone})
	g.put(s, s.All())
}

// put puts machines into the feed, in messages of a bounded size. Of several with one UUID one is shown.
func (g *Guests) put(s *inventory.Snapshot, vms []inventory.VM) {
	objects, size := &pb.Objects{}, 0
	for _, vm := range vms {
		if first, _ := s.UUID(vm.UUID); first.Ref != vm.Ref {
			continue
		}
		o := g.object(vm)
		n := proto.Size(o)
		if size > 0 && size+n > batch {
			g.feed.Apply(objects)
			objects, size = &pb.Objects{}, 0
		}
		objects.Guests = append(objects.Guests, o)
		size += n
	}
	g.feed.Apply(objects)
}

// one puts a machine that came, changed or went into the feed, with its events. Of several machines with one UUID one is shown.
func (g *Guests) one(c inventory.Change) {
	objects := &pb.Objects{}
	id := int32(-1)
	for _, uuid := range uuids(c) {
		vm, ok := c.Snapshot.UUID(uuid)
		if !ok {
			objects.GoneGuests = append(objects.GoneGuests, uuid)
			continue
		}
		objects.Guests = append(objects.Guests, g.object(vm))
		id = vm.DomainID()
	}
	for _, e := range c.Events {
		subject := c.New
		if subject.UUID == "" {
			subject = c.Old
		}
		objects.Events = append(objects.Events, &pb.GuestEvent{
			Uuid: subject.UUID, Name: vmx.UnescapeName(e.Name), Id: id,
			Event: &hv.Event{Event: &hv.Event_Lifecycle{Lifecycle: g.cause(c.New.Ref, e.Lifecycle)}},
		})
	}
	g.feed.Apply(objects)
}

// Numbers of libvirt's virDomainEventType and virDomainEventStoppedDetailType.
const (
	eventStopped    = 5
	detailShutdown  = 0
	detailDestroyed = 1
)

// cause is an event with what we know of its cause: a host does not tell whether a machine that is off was switched off.
func (g *Guests) cause(ref types.ManagedObjectReference, e *hv.LifecycleEvent) *hv.LifecycleEvent {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e.GetEvent() == eventStopped && e.GetDetail() == detailShutdown && g.ending[ref] > 0 {
		return &hv.LifecycleEvent{Event: eventStopped, Detail: detailDestroyed}
	}
	return e
}

// switchesOff notes that a machine is being switched off, until done is called.
func (g *Guests) switchesOff(ref types.ManagedObjectReference) (done func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ending[ref]++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.ending[ref]--; g.ending[ref] == 0 {
			delete(g.ending, ref)
		}
	}
}

// uuids are those that a change touches.
func uuids(c inventory.Change) []string {
	switch {
	case c.Old.UUID == "" || c.Old.UUID == c.New.UUID:
		return []string{c.New.UUID}
	case c.New.UUID == "":
		return []string{c.Old.UUID}
	}
	return []string{c.Old.UUID, c.New.UUID}
}

// find returns a machine by the UUID of a guest.
func (g *Guests) find(guest *hv.Guest) (inventory.VM, error) {
	s := g.mirror.Snapshot()
	vm, ok := s.UUID(guest.GetUuid())
	switch {
	case ok:
		return vm, nil
	case !s.Synced && s.Cause != nil:
		return vm, s.Cause
	}
	return vm, failed(verr.NoDomain, "no domain with matching uuid '%s' (%s)", guest.GetUuid(), guest.GetName())
}

// Bounds of the wait for the feed after a change.
const showTimeout = 10 * time.Second

// await waits until the feed has a change, as seen in the snapshot behind it, and returns the number for the answer. A change that is not
// seen in time has been made all the same, perhaps to be undone by somebody else at once.
func (g *Guests) await(ctx context.Context, holds func(*inventory.Snapshot) bool) uint64 {
	ctx, cancel := context.WithTimeout(ctx, showTimeout)
	defer cancel()
	seq := g.awaitQuietly(ctx, holds)
	if ctx.Err() != nil {
		g.log.Warn("a change is not seen yet", "error", ctx.Err())
	}
	return seq
}

// awaitQuietly waits for as long as the context lasts.
func (g *Guests) awaitQuietly(ctx context.Context, holds func(*inventory.Snapshot) bool) uint64 {
	for {
		g.mu.Lock()
		changed, shown := g.changed, g.shown
		g.mu.Unlock()
		if holds(shown) {
			return g.feed.Seq()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return g.feed.Seq()
		}
	}
}

// do makes a call within the endpoint's time-out and translates its fault.
func (g *Guests) do(ctx context.Context, what string, call func(ctx context.Context, client *vim25.Client) error) error {
	return explain(what, g.endpoint.Do(ctx, call))
}
