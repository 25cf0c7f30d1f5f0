package pool

import (
	"context"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/host/internal/event"
	inventoryv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// followed is what an inventory of pools has that a hypervisor keeps.
type followed struct {
	// uri is the connection's, connection its name for the driver.
	uri, connection string
	driver          grpc.ClientConnInterface
}

// Followed is what NewFollowed makes an Inventory with.
type Followed struct {
	// URI is the connection in its canonical form, Connection its name for the driver.
	URI, Connection string
	// Driver carries calls to the driver.
	Driver grpc.ClientConnInterface
	// Events takes what happens.
	Events *event.Bus
	// Tasks takes the long work that is under way; nil makes the inventory's own.
	Tasks *Tasks
	// Log is for what no client is told.
	Log hclog.Logger
}

// NewFollowed returns the pools of a connection whose hypervisor keeps them: they come and go by Adopt and Drop, and can be neither defined
// nor started nor stopped here. Their volumes are looked at when somebody asks for them, and again when they may have changed.
func NewFollowed(cfg Followed) *Inventory {
	i := newInventory(Config{Events: cfg.Events, Secrets: noSecrets{}, Tasks: cfg.Tasks, Log: cfg.Log})
	i.followed = &followed{uri: cfg.URI, connection: cfg.Connection, driver: cfg.Driver}
	return i
}

// URI is that of the connection whose hypervisor keeps the pools, "" for the pools of this host.
func (i *Inventory) URI() string {
	if i.followed == nil {
		return ""
	}
	return i.followed.uri
}

// errKept is why pools that a hypervisor keeps can't be changed.
var errKept = storageError(verr.NoSupport, "storage pools of this connection are made and removed at the hypervisor")

// noSecrets finds none.
type noSecrets struct{}

func (noSecrets) Values(_ context.Context, refs []catalog.SecretRef) ([]*pb.Secret, error) {
	if len(refs) > 0 {
		return nil, storageError(verr.NoSupport, "storage of this connection takes no secrets")
	}
	return nil, nil
}

func (noSecrets) OfVolume(string) string { return "" }

// Adopt enters a pool as the driver has told it, in the place of what was known; told says whether clients hear of it. It fails
// for one that is not as the contract says.
func (i *Inventory) Adopt(o *inventoryv1.PoolObject, told bool) error {
	id, err := uuid.Parse(o.GetUuid())
	if err != nil || checkName(o.GetName()) != nil {
		return storageError(verr.Internal, "driver told of a storage pool with the uuid %q and the name %q", o.GetUuid(), o.GetName())
	}
	r := &catalog.Pool{UUID: id, Name: o.GetName(), Type: o.GetType(), Persistent: true, Autostart: true, XML: o.GetXml()}
	i.mu.Lock()
	p := i.byUUID[id]
	fresh := p == nil
	if fresh {
		p = newPool(i, r)
		i.byUUID[id] = p
	} else if old := p.state.Load().Name; i.byName[old] == p {
		delete(i.byName, old)
	}
	i.byName[r.Name] = p
	i.mu.Unlock()

	before := p.state.Load()
	s := &state{record: r}
	s.Condition = Condition(min(o.GetCondition(), uint32(Inaccessible)))
	s.fill()
	p.state.Store(s)
	p.volumes.adopt(&pb.PoolSize{Capacity: o.GetCapacity(), Allocation: o.GetAllocation(), Available: o.GetAvailable()}, o.GetRevision())
	if !told {
		return nil
	}
	if fresh || before.Name != s.Name || before.record.XML != r.XML {
		p.publish(eventDefined)
	}
	switch was := !fresh && before.Active(); {
	case s.Active() && !was:
		p.publish(eventStarted)
	case !s.Active() && was:
		p.publish(eventStopped)
	}
	return nil
}

// Drop removes a pool that the driver has told to be gone.
func (i *Inventory) Drop(id uuid.UUID, told bool) {
	i.mu.RLock()
	p := i.byUUID[id]
	i.mu.RUnlock()
	if p == nil {
		return
	}
	active := p.state.Load().Active()
	i.forget(p)
	if !told {
		return
	}
	if active {
		p.publish(eventStopped)
	}
	p.publish(eventUndefined)
}

// adopt notes the room that a driver has told, and whether volumes may have changed.
func (m *mirror) adopt(size *pb.PoolSize, revision string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.size = size
	m.told = revision
}

// outdated reports whether volumes may have changed since the last look, and the revision that a look sees at least.
func (m *mirror) outdated() (revision string, is bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.told, !m.isSeen || m.told != m.looked
}

// lookedAt notes which revision a look has seen.
func (m *mirror) lookedAt(revision string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.looked = revision
}

// relook looks at a pool whose volumes may have changed. If that fails, the picture stays, unless there is none.
func (p *Pool) relook(ctx context.Context) error {
	if _, is := p.volumes.outdated(); !is {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, firstLook)
	defer cancel()
	select {
	case p.looking <- struct{}{}:
		defer func() { <-p.looking }()
	case <-ctx.Done():
		return p.unseen(ctx.Err())
	}
	revision, is := p.volumes.outdated()
	if !is {
		return nil // somebody else has just looked
	}
	if err := p.lookOnce(ctx); err != nil {
		return p.unseen(err)
	}
	p.volumes.lookedAt(revision)
	return nil
}

// unseen is an error for a pool that was never looked at, nil for another one.
func (p *Pool) unseen(err error) error {
	select {
	case <-p.volumes.seen():
		p.inv.cfg.Log.Warn("storage pool could not be looked at again", "pool", p.View().Name, "error", err)
		return nil
	default:
		return err
	}
}
