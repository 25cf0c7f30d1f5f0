package domain

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Waits of the package.
const (
	// jobWait is how long a change waits for another one of the same domain.
	jobWait = 30 * time.Second
	// settleTimeout bounds finding out and writing down what became of a guest.
	settleTimeout = 60 * time.Second
)

// errDestroyed is the cause with which Destroy ends another job.
var errDestroyed = errors.New("the domain is being destroyed")

// Domain is one domain. It stays valid after the domain has gone; its methods then fail with NoDomain. Methods may be called
// concurrently.
type Domain struct {
	inv   *Inventory
	uuid  uuid.UUID
	state atomic.Pointer[state]
	// folders are those of the disks as they were found last.
	folders atomic.Pointer[diskFolders]
	// claim is what a start under way has its driver's process claimed with.
	claim atomic.Pointer[claim]
	// work is a save or restore under way, for those who ask or want to end it; done is the last one.
	work atomic.Pointer[work]
	done atomic.Pointer[JobInfo]
	// slot holds one token while a job is under way.
	slot chan struct{}
	// recovered is the incarnation of the driver that has taken charge of the guest; only the job's holder touches it.
	recovered uint64
	// leases are duplicates of the locks of a guest that has no process to hold them; only the job's holder touches them.
	leases []HeldLock

	mu      sync.Mutex // guards the fields below
	current *job
	inbox   []*pb.WatchEvent
	// overdue: the driver is to be asked for the guest, because events were dropped or a recovery found a job under way.
	overdue bool
	busy    bool // somebody is emptying the inbox
}

func newDomain(i *Inventory, id uuid.UUID) *Domain {
	return &Domain{inv: i, uuid: id, slot: make(chan struct{}, 1)}
}

// View returns what is known now; it never blocks.
func (d *Domain) View() View { return d.state.Load().View }

// job is the right to change a domain, held by one goroutine at a time.
type job struct {
	d    *Domain
	what string
	// ctx outlives the client and ends when Destroy breaks in; calls to the driver have their own deadlines below it.
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// begin waits for the domain's job, at most jobWait, and fails with NoDomain if the domain is gone by then.
func (d *Domain) begin(ctx context.Context, what string) (*job, error) {
	wait, stop := context.WithTimeout(ctx, jobWait)
	defer stop()
	select {
	case d.slot <- struct{}{}:
	case <-wait.Done():
		return nil, verr.New(verr.OperationTimeout, "cannot acquire state change lock of domain '%s' (held by %s)",
			d.View().Name, d.holder())
	}
	return d.hold(ctx, what)
}

// try takes the domain's job if nobody has it.
func (d *Domain) try(ctx context.Context, what string) (*job, bool) {
	select {
	case d.slot <- struct{}{}:
	default:
		return nil, false
	}
	j, err := d.hold(ctx, what)
	return j, err == nil
}

func (d *Domain) hold(ctx context.Context, what string) (*job, error) {
	if d.state.Load().gone {
		<-d.slot
		return nil, verr.New(verr.NoDomain, "no domain with matching uuid '%s'", d.uuid)
	}
	j := &job{d: d, what: what}
	j.ctx, j.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	d.mu.Lock()
	d.current = j
	d.mu.Unlock()
	return j, nil
}

// end gives the job up.
func (j *job) end() {
	j.d.mu.Lock()
	j.d.current = nil
	j.d.mu.Unlock()
	j.cancel(nil)
	<-j.d.slot
}

// holder names the job under way.
func (d *Domain) holder() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current == nil {
		return "nobody"
	}
	return d.current.what
}

// interrupt ends the calls of the job under way, if there is one.
func (d *Domain) interrupt() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current != nil {
		d.current.cancel(errDestroyed)
	}
}

// save makes a state true: on disk, then in memory. more adds to the same commit.
func (j *job) save(s *state, more func(*catalog.Tx) error) error {
	uri := j.d.inv.cfg.URI
	err := j.d.inv.cfg.Catalog.Update(func(tx *catalog.Tx) error {
		if err := tx.PutDomain(uri, s.record()); err != nil {
			return err
		}
		if more == nil {
			return nil
		}
		return more(tx)
	})
	if err != nil {
		return verr.New(verr.OperationFailed, "cannot store domain '%s': %w", s.Name, err)
	}
	j.d.show(s)
	return nil
}

// show makes a copy of a state visible without writing it.
func (d *Domain) show(s *state) {
	now := *s
	before := d.state.Swap(&now)
	if before.Name != s.Name || before.ID != s.ID || before.reservedID != s.reservedID {
		d.inv.index(d, before, s)
	}
}

// remove takes the domain off the disk and out of memory.
func (j *job) remove() error {
	err := j.d.inv.cfg.Catalog.Update(func(tx *catalog.Tx) error { return tx.DeleteDomain(j.d.inv.cfg.URI, j.d.uuid) })
	if err != nil {
		return verr.New(verr.OperationFailed, "cannot remove domain '%s': %w", j.d.View().Name, err)
	}
	j.d.forget()
	return nil
}

// forget takes the domain out of memory.
func (d *Domain) forget() {
	before := d.state.Load()
	s := *before
	s.gone, s.hidden = true, true
	d.state.Store(&s)
	d.inv.index(d, before, nil)
}

// guest names the guest's present life to the driver.
func (s *state) guest(connection string) *pb.Guest {
	return &pb.Guest{Connection: connection, Uuid: s.UUID.String(), Name: s.Name, Generation: s.Generation}
}
