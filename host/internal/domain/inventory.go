// Package domain is the heart of the core: the domains of each connection, what they are and what they shall be.
//
// An Inventory owns the domains of one connection whose definitions the core keeps; the driver only runs them. Reads (List, ByName,
// View, XML) are answered from memory and never wait for a driver. Changes of one domain are made one at a time, by whoever
// holds its job; no lock is held across a call to a driver, the lock daemon or the disk other than that job. Destroy alone
// may break into a job.
//
// A change is in the catalog before it is in memory, in memory before its events are sent, and sent before the caller is
// answered. When a driver dies with a call in flight, its answer is found out with Recover; when that is not possible the
// domain is marked unknown, shown as such, and neither it nor its locks are touched.
package domain

import (
	"context"
	"sync"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/host/internal/event"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Config is what an Inventory works with.
type Config struct {
	// URI is the connection in its canonical form: "qemu:///system".
	URI string
	// Connection is the name that the driver knows the connection by: "system".
	Connection string
	// Driver is the driver's name, for control groups: "qemu".
	Driver string
	// Plugin carries calls to the driver; it waits for the driver to be ready and enforces classes and deadlines.
	Plugin grpc.ClientConnInterface
	// Incarnation is the present generation of the driver's process.
	Incarnation func() uint64
	// Files hands descriptors to the driver.
	Files FileSender
	// Catalog keeps records and definitions.
	Catalog *catalog.Catalog
	// Events takes what happens.
	Events *event.Bus
	// Locks keeps two guests from writing one disk.
	Locks Locks
	// Volumes and Secrets find what disks name; nil where the driver's disks are not on this machine.
	Volumes Volumes
	Secrets Secrets
	// ProcessCPUTime returns the CPU time in nanoseconds of a process with a start time, 0 once it is gone.
	ProcessCPUTime func(pid int32, startTime uint64) (uint64, error)
	// SaveDir is the folder of the connection's managed save images; it need not exist.
	SaveDir string
	// Log is for what no client is told.
	Log hclog.Logger
}

// Inventory is the domains of one connection ("qemu:///system").
type Inventory struct {
	cfg    Config
	driver pb.DriverServiceClient

	mu     sync.RWMutex // guards the fields below; never held across a call
	byUUID map[uuid.UUID]*Domain
	byName map[string]*Domain
	byID   map[int32]*Domain
	lastID int32
	// lastGone is the highest generation of a domain that has gone. One that comes goes on from there: a message about an earlier life
	// under the same UUID, such as the release of its locks, may still be on its way.
	lastGone uint64
}

// New loads the connection's domains from the catalog. Guests that were active are not touched before Recover.
func New(cfg Config) (*Inventory, error) {
	i := &Inventory{
		cfg: cfg, driver: pb.NewDriverServiceClient(cfg.Plugin),
		byUUID: map[uuid.UUID]*Domain{}, byName: map[string]*Domain{}, byID: map[int32]*Domain{},
	}
	records, err := cfg.Catalog.Domains(cfg.URI)
	if err != nil {
		return nil, err
	}
	for n := range records {
		d := newDomain(i, records[n].UUID)
		s := fromRecord(&records[n])
		d.state.Store(&s)
		i.index(d, nil, &s)
	}
	i.sweepSaves(records)
	return i, nil
}

// URI is the connection in its canonical form.
func (i *Inventory) URI() string { return i.cfg.URI }

// Connection is the name that the driver knows the connection by.
func (i *Inventory) Connection() string { return i.cfg.Connection }

// Starting finds a domain whose start is under way, hidden ones included, or nil.
func (i *Inventory) Starting(id uuid.UUID) *Domain {
	i.mu.RLock()
	defer i.mu.RUnlock()
	if d := i.byUUID[id]; d != nil && d.claim.Load() != nil {
		return d
	}
	return nil
}

// List returns the views that pass the filter, in no order.
func (i *Inventory) List(filter ListFlags) []View {
	i.mu.RLock()
	defer i.mu.RUnlock()
	views := make([]View, 0, len(i.byUUID))
	for _, d := range i.byUUID {
		if s := d.state.Load(); !s.hidden && filter.Match(&s.View) {
			views = append(views, s.View)
		}
	}
	return views
}

// Select returns the domains that pass the filter, in no order; for thousands of them it is cheaper than List.
func (i *Inventory) Select(filter ListFlags) []*Domain {
	i.mu.RLock()
	defer i.mu.RUnlock()
	domains := make([]*Domain, 0, len(i.byUUID))
	for _, d := range i.byUUID {
		if s := d.state.Load(); !s.hidden && filter.Match(&s.View) {
			domains = append(domains, d)
		}
	}
	return domains
}

// Count returns how many domains pass the filter.
func (i *Inventory) Count(filter ListFlags) int {
	i.mu.RLock()
	defer i.mu.RUnlock()
	n := 0
	for _, d := range i.byUUID {
		if s := d.state.Load(); !s.hidden && filter.Match(&s.View) {
			n++
		}
	}
	return n
}

// ByName finds a domain from memory, or fails with NoDomain.
func (i *Inventory) ByName(name string) (*Domain, error) {
	i.mu.RLock()
	d := i.byName[name]
	i.mu.RUnlock()
	if d == nil || d.state.Load().hidden {
		return nil, verr.New(verr.NoDomain, "no domain with matching name '%s'", name)
	}
	return d, nil
}

// ByUUID finds a domain from memory, or fails with NoDomain.
func (i *Inventory) ByUUID(id uuid.UUID) (*Domain, error) {
	i.mu.RLock()
	d := i.byUUID[id]
	i.mu.RUnlock()
	if d == nil || d.state.Load().hidden {
		return nil, verr.New(verr.NoDomain, "no domain with matching uuid '%s'", id)
	}
	return d, nil
}

// ByID finds an active domain from memory, or fails with NoDomain.
func (i *Inventory) ByID(id int32) (*Domain, error) {
	i.mu.RLock()
	d := i.byID[id]
	i.mu.RUnlock()
	if d == nil {
		return nil, verr.New(verr.NoDomain, "no domain with matching id %d", id)
	}
	return d, nil
}

// reserve finds the domain that a definition is about, or makes a hidden one, so that two clients cannot define one name at once.
func (i *Inventory) reserve(id uuid.UUID, name string) (*Domain, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if d := i.byUUID[id]; d != nil {
		if have := d.state.Load().Name; have != name {
			return nil, verr.New(verr.OperationFailed, "domain '%s' is already defined with uuid %s", have, id)
		}
		return d, nil
	}
	if d := i.byName[name]; d != nil {
		return nil, verr.New(verr.OperationFailed, "domain '%s' already exists with uuid %s", name, d.uuid)
	}
	d := newDomain(i, id)
	s := state{View: View{UUID: id, Name: name, ID: inactiveID, State: ShutOff, Generation: i.lastGone}, hidden: true}
	d.state.Store(&s)
	i.byUUID[id], i.byName[name] = d, d
	return d, nil
}

// takeID returns a libvirt id that no domain of the connection has had since the core has started.
func (i *Inventory) takeID() int32 {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.lastID++
	return i.lastID
}

// index makes the maps agree with a domain's new state; after nil removes the domain.
func (i *Inventory) index(d *Domain, before, after *state) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if before != nil {
		delete(i.byName, before.Name)
		delete(i.byID, before.ID)
	}
	if after == nil {
		delete(i.byUUID, d.uuid)
		i.lastGone = max(i.lastGone, before.Generation)
		return
	}
	i.byUUID[d.uuid], i.byName[after.Name] = d, d
	if after.ID >= 0 {
		i.byID[after.ID] = d
	}
	i.lastID = max(i.lastID, after.ID, after.reservedID)
}

// all returns every domain, hidden ones included.
func (i *Inventory) all() []*Domain {
	i.mu.RLock()
	defer i.mu.RUnlock()
	all := make([]*Domain, 0, len(i.byUUID))
	for _, d := range i.byUUID {
		all = append(all, d)
	}
	return all
}

// publish sends an event of a domain with the identity that it had at that moment.
func (i *Inventory) publish(v View, e *pb.Event) {
	i.cfg.Events.Publish(event.Event{URI: i.cfg.URI, Name: v.Name, UUID: v.UUID, ID: v.ID, Domain: e})
}

// detached is the context for work that must come to its end although its client may be gone.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
}
