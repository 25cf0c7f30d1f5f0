package manager

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/client"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// key names one life of a guest.
type key struct {
	uuid       string
	generation uint64
}

func keyOf(who *pb.Owner) key { return key{who.GetUuid(), who.GetGeneration()} }

// owner is one life of a guest with its leases. Manager.mu guards it; whoever has its turn changes what it has.
type owner struct {
	// turn is empty while somebody has the turn.
	turn      chan struct{}
	who       *pb.Owner
	onFailure pb.Action
	leases    []*held
	// asleep are the versions of leases that were given up by a guest that is suspended, until it has them again: whoever has not heard
	// of them, or has lost them, is told again, and is bound by them.
	asleep []suspendedLease
	// mending says that the watch is giving leases up or taking them again; it tries the latter at nextMend again.
	mending  bool
	nextMend time.Time
}

// held is a lease that an owner has, had, or is just taking.
type held struct {
	resource *pb.Resource
	lease    client.Resource
	since    time.Time
	// sure is when a call has found it held; a look from before says nothing of it.
	sure time.Time
	// status is STATUS_UNSPECIFIED while the lease is being taken or given up; the watch leaves it alone then.
	status pb.Status
	detail string
}

// find returns a lease of the owner, or nil.
func (o *owner) find(i id) *held {
	at := slices.IndexFunc(o.leases, func(h *held) bool { return idOf(&h.lease) == i })
	if at < 0 {
		return nil
	}
	return o.leases[at]
}

// drop takes a lease out of the table.
func (o *owner) drop(i id) {
	o.leases = slices.DeleteFunc(o.leases, func(h *held) bool { return idOf(&h.lease) == i })
}

// wake forgets that a lease was given up by a suspended owner, and says whether it was.
func (o *owner) wake(i id) bool {
	before := len(o.asleep)
	o.asleep = slices.DeleteFunc(o.asleep, func(l suspendedLease) bool { return l.id() == i })
	return len(o.asleep) < before
}

// lull keeps the versions of leases that a suspended owner has given up, and returns all that it keeps of those concerned: a repeated
// call gets what the first one got. An owner that is not suspended keeps nothing. The version of a shared lease says nothing: it grows
// with each host that takes part.
func (o *owner) lull(given []*held, concerned func(id) bool, suspend bool) (kept []suspendedLease) {
	if !suspend {
		o.asleep = slices.DeleteFunc(o.asleep, func(l suspendedLease) bool { return concerned(l.id()) })
		return nil
	}
	for _, h := range given {
		if h.lease.Version != 0 && !h.lease.Shared {
			o.wake(idOf(&h.lease))
			o.asleep = append(o.asleep, suspendedLease{h.lease.Lockspace, h.lease.Name, h.lease.Version})
		}
	}
	for _, l := range o.asleep {
		if concerned(l.id()) {
			kept = append(kept, l)
		}
	}
	return kept
}

// tell is what the core is told of a lease.
func (h *held) tell(who *pb.Owner) *pb.Lease {
	l := &pb.Lease{
		Owner: who, Resource: h.resource, Place: place(&h.lease), FencingToken: h.lease.Version, Status: h.status, Detail: h.detail,
	}
	if !h.since.IsZero() {
		l.Since = timestamppb.New(h.since)
	}
	return l
}

// take waits for an owner's turn and returns the owner, a new one if it is not known and its record is not either. The turn ends with the
// returned function, which forgets an owner without leases.
func (m *Manager) take(ctx context.Context, who *pb.Owner) (*owner, func(), error) {
	if id, err := uuid.Parse(who.GetUuid()); err != nil || id.String() != who.GetUuid() {
		return nil, nil, verr.New(verr.InvalidArg, "UUID %q is not in the form 8-4-4-4-12, lower case", who.GetUuid())
	}
	k := keyOf(who)
	for {
		o := m.known(k)
		if o == nil {
			r, err := m.load(ctx, k)
			if err != nil {
				return nil, nil, err
			}
			o = m.enter(k, r)
		}
		select {
		case <-o.turn:
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("wait for another request about the locks of guest %q: %w", who.GetName(), ctx.Err())
		}
		if m.known(k) == o {
			return o, func() { m.leave(k, o) }, nil
		}
		o.turn <- struct{}{} // it was forgotten meanwhile
	}
}

func (m *Manager) known(k key) *owner {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.owners[k]
}

// enter puts an owner into the table, unless there is one.
func (m *Manager) enter(k key, o *owner) *owner {
	m.mu.Lock()
	defer m.mu.Unlock()
	if there := m.owners[k]; there != nil {
		return there
	}
	o.turn = make(chan struct{}, 1)
	o.turn <- struct{}{}
	m.owners[k] = o
	return o
}

func (m *Manager) leave(k key, o *owner) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(o.leases) == 0 {
		delete(m.owners, k)
	}
	o.turn <- struct{}{}
}

// adopt takes over what a request says of its owner. A word about what is done on a failure stays until there is another: attaching a
// disk says nothing of it.
func (m *Manager) adopt(o *owner, who *pb.Owner, onFailure pb.Action) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o.who = proto.CloneOf(who)
	if onFailure != pb.Action_ACTION_UNSPECIFIED {
		o.onFailure = onFailure
	}
}

// each calls a function for every owner, with the table held still.
func (m *Manager) each(do func(*owner)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range m.owners {
		do(o)
	}
}
