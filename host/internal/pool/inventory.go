// Package pool is the core's storage pools: what they are and shall be, and a picture of the volumes in them.
//
// An Inventory owns the pools of the host; drivers only work on them. Lists, lookups, descriptions and sizes are answered from memory
// and never wait for a driver, but for one thing: until a pool that was in use before a restart of the core has been looked at
// again, questions about its volumes wait for that, at most firstLook, and then fail. Changes of one pool (start, stop, build, delete,
// undefine) are made one at a time, by whoever holds its job; a refresh and work on volumes run beside each other, at most one
// change for one volume. A pool whose storage does not answer keeps nobody waiting who asks about another.
//
// A change is on disk before it is in memory, and in memory before its events are sent. When a driver dies in the middle of a change of
// a volume, the volume is looked at again and the error says what is known. Locks are never held across a call.
package pool

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/host/internal/event"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Secrets finds the values that definitions name.
type Secrets interface {
	// Values returns a value for each; one that is missing is an error that names it.
	Values(ctx context.Context, refs []catalog.SecretRef) ([]*pb.Secret, error)
	// OfVolume returns the UUID of the secret for the volume at a path, or "".
	OfVolume(path string) string
}

// Config is what an Inventory works with.
type Config struct {
	// Catalog keeps definitions.
	Catalog *catalog.Catalog
	// Events takes what happens.
	Events *event.Bus
	// Secrets finds values of secrets.
	Secrets Secrets
	// Boot is the identity of this boot of the machine: pools are not in use after another one.
	Boot string
	// Backends are the drivers by pool type, each a connection that waits for the driver and enforces deadlines.
	Backends map[string]grpc.ClientConnInterface
	// Tasks takes the long work that is under way; nil makes the inventory's own.
	Tasks *Tasks
	// Log is for what no client is told.
	Log hclog.Logger
}

// Inventory is all pools of the host.
type Inventory struct {
	cfg   Config
	tasks *Tasks
	// followed is set for pools that a hypervisor keeps.
	followed *followed

	mu     sync.RWMutex // guards the fields below; never held across a call
	byUUID map[uuid.UUID]*Pool
	byName map[string]*Pool
}

// New loads the pools from the catalog. Those that were in use are looked at by Recover.
func New(cfg Config) (*Inventory, error) {
	i := newInventory(cfg)
	records, err := cfg.Catalog.Pools()
	if err != nil {
		return nil, err
	}
	for n := range records {
		r := &records[n]
		if r.Boot != cfg.Boot {
			r.Active = false
		}
		if !r.Active && !r.Persistent {
			continue // a transient pool of an earlier boot
		}
		p := newPool(i, r)
		if s := p.state.Load(); !s.Active() && s.due(cfg.Boot) {
			p.booted = make(chan struct{})
		}
		i.byUUID[r.UUID], i.byName[r.Name] = p, p
	}
	return i, nil
}

func newInventory(cfg Config) *Inventory {
	if cfg.Tasks == nil {
		cfg.Tasks = &Tasks{}
	}
	return &Inventory{cfg: cfg, tasks: cfg.Tasks, byUUID: map[uuid.UUID]*Pool{}, byName: map[string]*Pool{}}
}

// All returns the pools by name.
func (i *Inventory) All() []*Pool {
	i.mu.RLock()
	all := make([]*Pool, 0, len(i.byUUID))
	for _, p := range i.byUUID {
		if !p.state.Load().hidden {
			all = append(all, p)
		}
	}
	i.mu.RUnlock()
	slices.SortFunc(all, func(a, b *Pool) int { return strings.Compare(a.View().Name, b.View().Name) })
	return all
}

// ByName finds a pool, or fails with NoStoragePool.
func (i *Inventory) ByName(name string) (*Pool, error) {
	i.mu.RLock()
	p := i.byName[name]
	i.mu.RUnlock()
	if p == nil || p.state.Load().hidden {
		return nil, storageError(verr.NoStoragePool, "no storage pool with matching name '%s'", name)
	}
	return p, nil
}

// ByUUID finds a pool, or fails with NoStoragePool.
func (i *Inventory) ByUUID(id uuid.UUID) (*Pool, error) {
	i.mu.RLock()
	p := i.byUUID[id]
	i.mu.RUnlock()
	if p == nil || p.state.Load().hidden {
		return nil, storageError(verr.NoStoragePool, "no storage pool with matching uuid '%s'", id)
	}
	return p, nil
}

// ByTarget finds the active pool with a target path, or fails with NoStoragePool.
func (i *Inventory) ByTarget(path string) (*Pool, error) {
	for _, p := range i.All() {
		if s := p.state.Load(); s.Active() && s.record.Target == path && path != "" {
			return p, nil
		}
	}
	return nil, storageError(verr.NoStoragePool, "no storage pool with matching target path '%s'", path)
}

// Types lists the pool types that have a driver, sorted.
func (i *Inventory) Types() []string {
	types := make([]string, 0, len(i.cfg.Backends))
	for t := range i.cfg.Backends {
		types = append(types, t)
	}
	slices.Sort(types)
	return types
}

// backend is the driver of a pool type.
func (i *Inventory) backend(kind string) (grpc.ClientConnInterface, error) {
	if i.followed != nil {
		return i.followed.driver, nil
	}
	conn := i.cfg.Backends[kind]
	if conn == nil {
		return nil, storageError(verr.Internal, "missing backend for pool type '%s'", kind)
	}
	return conn, nil
}

// reserve finds the pool that a definition is about, or makes a hidden one. The definition must not share with another pool what only
// one may have.
func (i *Inventory) reserve(def *definition) (*Pool, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, other := range i.byUUID {
		r := other.state.Load().record
		if r.UUID == def.uuid {
			continue
		}
		for _, mine := range def.Exclusive {
			if slices.Contains(r.Exclusive, mine) || r.Next != nil && slices.Contains(r.Next.Exclusive, mine) {
				return nil, storageError(verr.OperationFailed, "Storage source conflict with pool: '%s'", r.Name)
			}
		}
	}
	if p := i.byUUID[def.uuid]; p != nil {
		if have := p.state.Load().record.Name; have != def.name {
			return nil, storageError(verr.OperationFailed, "pool '%s' is already defined with uuid %s", have, def.uuid)
		}
		return p, nil
	}
	if p := i.byName[def.name]; p != nil {
		return nil, storageError(verr.OperationFailed, "pool '%s' already exists with uuid %s", def.name, p.state.Load().record.UUID)
	}
	p := newPool(i, &catalog.Pool{UUID: def.uuid, Name: def.name, Type: def.Type, Exclusive: def.Exclusive})
	s := *p.state.Load()
	s.hidden = true
	p.state.Store(&s)
	i.byUUID[def.uuid], i.byName[def.name] = p, p
	return p, nil
}

// forget takes a pool out of memory.
func (i *Inventory) forget(p *Pool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := *p.state.Load()
	s.gone, s.hidden = true, true
	p.state.Store(&s)
	delete(i.byUUID, s.record.UUID)
	delete(i.byName, s.record.Name)
}

func storageError(code verr.Code, format string, args ...any) error {
	return verr.New(code, format, args...).In(verr.FromStorage)
}
