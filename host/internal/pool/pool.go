package pool

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/host/internal/event"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Waits of the package.
const (
	// jobWait is how long a change waits for another one of the same pool.
	jobWait = 30 * time.Second
	// firstLook is how long a question about volumes waits for the first look at a pool.
	firstLook = 10 * time.Second
	// settleTimeout bounds what must come to its end although its client may be gone.
	settleTimeout = 60 * time.Second
)

// Condition is libvirt's virStoragePoolState.
type Condition uint8

// Conditions in libvirt's numbering.
const (
	Inactive     Condition = 0
	Building     Condition = 1
	Running      Condition = 2
	Degraded     Condition = 3
	Inaccessible Condition = 4
)

// View is what is known of a pool at one moment.
type View struct {
	UUID       uuid.UUID
	Name       string
	Type       string
	Condition  Condition
	Persistent bool
	Autostart  bool
}

// Active reports whether the pool is in use.
func (v *View) Active() bool { return v.Condition >= Running }

// state is all that is known of a pool but its volumes. It is replaced as a whole and never changed in place.
type state struct {
	View
	record *catalog.Pool
	// hidden: a definition is being made and not yet on disk. gone: the pool was removed.
	hidden, gone bool
}

// Pool is one pool. It stays valid after the pool has gone; its methods then fail with NoStoragePool. Methods may be called
// concurrently.
type Pool struct {
	inv   *Inventory
	state atomic.Pointer[state]
	// slot holds one token while a job is under way, looking one while a refresh is.
	slot, looking chan struct{}
	volumes       mirror
	// booted is closed once a start that this boot is to make was tried; nil if there is none to be made.
	booted chan struct{}

	mu   sync.Mutex // guards work
	work map[string]bool
}

func newPool(i *Inventory, r *catalog.Pool) *Pool {
	p := &Pool{inv: i, slot: make(chan struct{}, 1), looking: make(chan struct{}, 1), work: map[string]bool{}}
	p.volumes.reset()
	s := &state{record: r}
	if r.Active {
		s.Condition = Running
	}
	s.fill()
	p.state.Store(s)
	return p
}

// fill makes the view say what the record says.
func (s *state) fill() {
	r := s.record
	s.UUID, s.Name, s.Type, s.Persistent, s.Autostart = r.UUID, r.Name, r.Type, r.Persistent, r.Autostart
}

// View returns what is known now; it never blocks.
func (p *Pool) View() View { return p.state.Load().View }

// Size returns the pool's room in bytes; it is zero while the pool is not in use. It waits only as Volumes does.
func (p *Pool) Size(ctx context.Context) (capacity, allocation, available uint64, err error) {
	if !p.state.Load().Active() {
		return 0, 0, 0, nil
	}
	if p.inv.followed != nil {
		size := p.volumes.room()
		return size.GetCapacity(), size.GetAllocation(), size.GetAvailable(), nil
	}
	if err := p.looked(ctx); err != nil {
		return 0, 0, 0, err
	}
	size := p.volumes.room()
	return size.GetCapacity(), size.GetAllocation(), size.GetAvailable(), nil
}

// looked waits until the pool has been looked at once.
func (p *Pool) looked(ctx context.Context) error {
	if p.inv.followed != nil {
		return p.relook(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, firstLook)
	defer cancel()
	select {
	case <-p.volumes.seen():
		return nil
	default:
	}
	select {
	case <-p.volumes.seen():
		return nil
	case <-ctx.Done():
		return storageError(verr.OperationTimeout, "storage pool '%s' does not answer yet: %w", p.View().Name, ctx.Err())
	}
}

// job is the right to change a pool, held by one goroutine at a time.
type job struct {
	p *Pool
	// ctx outlives the client where the work must not be left half done.
	ctx context.Context
}

// begin waits for the pool's job, at most jobWait, and fails with NoStoragePool if the pool is gone by then, with NoSupport if a hypervisor
// keeps it.
func (p *Pool) begin(ctx context.Context) (*job, error) {
	if p.inv.followed != nil {
		return nil, errKept
	}
	wait, cancel := context.WithTimeout(ctx, jobWait)
	defer cancel()
	select {
	case p.slot <- struct{}{}:
	case <-wait.Done():
		return nil, storageError(verr.OperationTimeout, "another change of storage pool '%s' is under way: %w", p.View().Name, wait.Err())
	}
	if s := p.state.Load(); s.gone {
		<-p.slot
		return nil, storageError(verr.NoStoragePool, "no storage pool with matching uuid '%s'", s.UUID)
	}
	return &job{p: p, ctx: ctx}, nil
}

func (j *job) end() { <-j.p.slot }

// save makes a record true: on disk, then in memory.
func (j *job) save(s *state) error {
	if err := j.p.inv.cfg.Catalog.Update(func(tx *catalog.Tx) error { return tx.PutPool(s.record) }); err != nil {
		return storageError(verr.OperationFailed, "cannot store storage pool '%s': %w", s.record.Name, err)
	}
	s.fill()
	j.show(s)
	return nil
}

// show makes a copy of a state visible.
func (j *job) show(s *state) {
	now := *s
	j.p.state.Store(&now)
}

// copy returns the state and record to be changed.
func (j *job) copy() *state {
	s := *j.p.state.Load()
	r := *s.record
	s.record = &r
	return &s
}

// remove takes the pool off the disk and out of memory.
func (j *job) remove() error {
	s := j.p.state.Load()
	if err := j.p.inv.cfg.Catalog.Update(func(tx *catalog.Tx) error { return tx.DeletePool(s.UUID) }); err != nil {
		return storageError(verr.OperationFailed, "cannot remove storage pool '%s': %w", s.Name, err)
	}
	j.p.inv.forget(j.p)
	return nil
}

// conn is the driver of the pool.
func (p *Pool) conn() (grpc.ClientConnInterface, error) { return p.inv.backend(p.View().Type) }

// ref names the pool to its driver, with the secrets that it needs.
func (p *Pool) ref(ctx context.Context) (*pb.Pool, error) {
	r := p.state.Load().record
	ref := &pb.Pool{Uuid: r.UUID.String(), Name: r.Name, Type: r.Type, Xml: r.XML}
	if p.inv.followed != nil {
		ref.Connection = p.inv.followed.connection
	}
	if len(r.Secrets) == 0 {
		return ref, nil
	}
	var err error
	ref.Secrets, err = p.inv.cfg.Secrets.Values(ctx, r.Secrets)
	return ref, err
}

// Lifecycle events of pools, in virStoragePoolEventLifecycleType's numbers.
const (
	eventDefined   = 0
	eventUndefined = 1
	eventStarted   = 2
	eventStopped   = 3
	eventCreated   = 4
	eventDeleted   = 5
)

func (p *Pool) publish(lifecycle int32) {
	v := p.View()
	p.inv.cfg.Events.Publish(event.Event{URI: p.inv.URI(), Name: v.Name, UUID: v.UUID, Pool: &event.Pool{Lifecycle: lifecycle}})
}

// detached is the context for work that must come to its end although its client may be gone.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
}
