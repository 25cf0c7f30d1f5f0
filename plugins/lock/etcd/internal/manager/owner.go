package manager

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/boot"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/guard"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/record"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/store"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// owner is one life of a guest. Whoever has its turn may change it; the fields are guarded by the manager's mu besides.
type owner struct {
	life record.Life
	turn chan struct{}

	info   *pb.Owner
	action pb.Action
	locks  map[record.ID]*held
	owed   map[record.ID]debt
	// asleep is what a guest that is suspended will come back with, or nil.
	asleep *pb.AcquireRequest
	// claimed says that the core has spoken of the owner to this process: it lives.
	claimed bool
	// lost is when its guest must have ended because a lock is lost, or 0; goneTold says that somebody else was found to have it.
	lost     boot.Time
	goneTold bool
}

// status is how sure a lock is; the worse, the greater.
type status int

const (
	// unknown: etcd was not asked yet.
	unknown status = iota
	// there: it is held.
	there
	// again: it is held, after somebody else could have had it, and the core may not know.
	again
	// missing: it went with the lease, and is to be taken again.
	missing
	// gone: somebody else has it.
	gone
)

// held is one lock that an owner has, or should have.
type held struct {
	id     record.ID
	res    *pb.Resource
	status status
	token  int64
	epoch  int64
	since  time.Time
	detail string
}

// debt is one lock that an owner has no more, and that may still be in etcd.
type debt struct {
	res      *pb.Resource
	remember bool
}

// mark names a lock in etcd.
func mark(l record.Life, id record.ID, d debt) store.Mark {
	return store.Mark{ID: id, Shared: d.res.GetShared(), Life: l, Remember: d.remember}
}

// maxOwners is how many guests may have locks: as many keys as the core's State lists.
const maxOwners = 16384

// take returns the owner with its turn, which is made if it is not there and create is set; else it is nil. The caller gives the turn back
// with done.
func (m *Manager) take(ctx context.Context, l record.Life, create bool) (*owner, error) {
	for {
		m.mu.Lock()
		o, full := m.owners[l], len(m.owners) >= maxOwners
		if o == nil && create && !full {
			o = newOwner(l)
			m.owners[l] = o
		}
		m.mu.Unlock()
		if o == nil && create {
			return nil, verr.New(verr.OperationFailed, "%d guests of this host have locks in etcd, which are as many as can be kept account of", maxOwners)
		}
		if o == nil {
			return nil, nil
		}
		if !acquire(ctx, o.turn) {
			return nil, verr.New(verr.OperationTimeout, "wait for an earlier call for guest %s: %w", l.UUID, ctx.Err())
		}
		m.mu.Lock()
		current := m.owners[l] == o
		m.mu.Unlock()
		if current {
			return o, nil
		}
		<-o.turn // it was forgotten meanwhile
	}
}

func newOwner(l record.Life) *owner {
	return &owner{life: l, turn: make(chan struct{}, 1), locks: map[record.ID]*held{}, owed: map[record.ID]debt{}}
}

// done gives the turn back, and forgets an owner that has nothing.
func (m *Manager) done(o *owner) {
	m.mu.Lock()
	if len(o.locks) == 0 && len(o.owed) == 0 && o.asleep == nil {
		delete(m.owners, o.life)
		delete(m.debtors, o.life)
	}
	m.mu.Unlock()
	<-o.turn
}

// guest is the owner as its guard sees it; called with mu.
func (o *owner) guest() guard.Guest {
	return guard.Guest{
		Life: o.life, Name: o.info.GetName(), PID: o.info.GetPid(), StartTime: o.info.GetStartTime(),
		Spare: o.action == pb.Action_ACTION_IGNORE, Lost: o.lost,
	}
}

// lease tells of a lock; called with mu.
func (m *Manager) lease(o *owner, h *held) *pb.Lease {
	l := &pb.Lease{
		Owner: o.info, Resource: h.res, Place: m.place(h.id, h.res, o.life), FencingToken: uint64(h.token),
		Status: pb.Status_STATUS_HELD, Detail: h.detail,
	}
	if !h.since.IsZero() {
		l.Since = timestamppb.New(h.since)
	}
	switch h.status {
	case there:
	case again:
		l.Status = pb.Status_STATUS_TAKEN_AGAIN
	case unknown:
		l.Status, l.Detail = pb.Status_STATUS_UNSPECIFIED, "etcd was not asked yet"
	case missing:
		l.Status, l.Detail = pb.Status_STATUS_LOST, "etcd has ended this host's lease, and the lock was not taken again yet"
	case gone:
		l.Status = pb.Status_STATUS_LOST
	}
	if m.late && h.status != gone {
		l.Status, l.Detail = pb.Status_STATUS_LOST, "etcd does not answer, so the lock cannot be renewed"
	}
	return l
}

// place is where a lock lies; called with mu.
func (m *Manager) place(id record.ID, r *pb.Resource, l record.Life) string {
	if m.conf == nil {
		return string(id)
	}
	return record.Keys{Prefix: m.conf.Prefix}.Holder(id, r.GetShared(), m.right.Instance, l)
}

// Keys in the core's State.
const (
	ownerPrefix     = "owner/"
	owedPrefix      = "owed/"
	rememberPrefix  = "owed-suspended/"
	suspendedPrefix = "suspended/"
	sessionKey      = "session"
)

// save writes down what an owner is about to have, before etcd is told.
func (m *Manager) save(ctx context.Context, o *owner, info *pb.Owner, action pb.Action, resources []*pb.Resource) error {
	key := ownerPrefix + o.life.String()
	if len(resources) == 0 {
		return m.forgetState(ctx, key)
	}
	return m.put(ctx, key, &pb.RecoverRequest{Owner: info, Resources: resources, OnFailure: action})
}

// saveOwed writes down what an owner owes.
func (m *Manager) saveOwed(ctx context.Context, o *owner) error {
	m.mu.Lock()
	m.noteDebts(o)
	plain, remember := &pb.ReleaseRequest{Owner: o.info}, &pb.ReleaseRequest{Owner: o.info, Suspend: true}
	for _, d := range o.owed {
		if d.remember {
			remember.Resources = append(remember.Resources, d.res)
		} else {
			plain.Resources = append(plain.Resources, d.res)
		}
	}
	m.mu.Unlock()
	for prefix, req := range map[string]*pb.ReleaseRequest{owedPrefix: plain, rememberPrefix: remember} {
		key := prefix + o.life.String()
		if len(req.GetResources()) == 0 {
			if err := m.forgetState(ctx, key); err != nil {
				return err
			}
			continue
		}
		if err := m.put(ctx, key, req); err != nil {
			return err
		}
	}
	return nil
}

// noteDebts keeps account of who owes; called with mu.
func (m *Manager) noteDebts(o *owner) {
	if len(o.owed) > 0 {
		m.debtors[o.life] = o
	} else {
		delete(m.debtors, o.life)
	}
}

// saveAsleep writes down what a guest that is suspended will come back with.
func (m *Manager) saveAsleep(ctx context.Context, o *owner) error {
	m.mu.Lock()
	asleep := o.asleep
	m.mu.Unlock()
	key := suspendedPrefix + o.life.String()
	if asleep == nil {
		return m.forgetState(ctx, key)
	}
	return m.put(ctx, key, asleep)
}

func (m *Manager) put(ctx context.Context, key string, value proto.Message) error {
	text, err := proto.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode %q: %w", key, err)
	}
	if err := m.core.State().Put(ctx, key, text); err != nil {
		return fmt.Errorf("write %q into the core's state: %w", key, err)
	}
	return nil
}

func (m *Manager) forgetState(ctx context.Context, key string) error {
	if err := m.core.State().Delete(ctx, key); err != nil {
		return fmt.Errorf("remove %q from the core's state: %w", key, err)
	}
	return nil
}

// load reads what earlier processes have written down. What cannot be read is left out, and said.
func (m *Manager) load(ctx context.Context, bootID string) error {
	r, err := m.loadRight(ctx)
	if err != nil {
		return err
	}
	owners := map[record.Life]*owner{}
	of := func(info *pb.Owner) *owner {
		l := record.LifeOf(info)
		if owners[l] == nil {
			owners[l] = newOwner(l)
		}
		owners[l].info = info
		return owners[l]
	}
	load := func(prefix string, read func(text []byte) error) error {
		keys, err := m.core.State().List(ctx, prefix)
		if err != nil {
			return fmt.Errorf("list %q of the core's state: %w", prefix, err)
		}
		for _, key := range keys {
			text, ok, err := m.core.State().Get(ctx, key)
			if err != nil {
				return fmt.Errorf("read %q of the core's state: %w", key, err)
			}
			if !ok {
				continue
			}
			if err := read(text); err != nil {
				m.log.Error("record is not to be read", "key", key, "error", err)
			}
		}
		return nil
	}
	if err := load(ownerPrefix, func(text []byte) error { return loadOwner(text, of) }); err != nil {
		return err
	}
	for _, prefix := range []string{owedPrefix, rememberPrefix} {
		if err := load(prefix, func(text []byte) error { return loadOwed(text, of) }); err != nil {
			return err
		}
	}
	if err := load(suspendedPrefix, func(text []byte) error { return loadAsleep(text, of) }); err != nil {
		return err
	}
	if r.Boot != "" && r.Boot != bootID {
		buryDead(owners)
	}
	m.mu.Lock()
	m.right, m.owners = r, owners
	clear(m.debtors)
	for _, o := range owners {
		m.noteDebts(o)
	}
	m.mu.Unlock()
	return nil
}

func loadOwner(text []byte, of func(*pb.Owner) *owner) error {
	req := &pb.RecoverRequest{}
	if err := proto.Unmarshal(text, req); err != nil {
		return err
	}
	if err := checkOwner(req.GetOwner()); err != nil {
		return err
	}
	o := of(req.GetOwner())
	o.action = req.GetOnFailure()
	for _, r := range req.GetResources() {
		id, err := record.NewID(r)
		if err != nil {
			return err
		}
		o.locks[id] = &held{id: id, res: r}
	}
	return nil
}

func loadOwed(text []byte, of func(*pb.Owner) *owner) error {
	req := &pb.ReleaseRequest{}
	if err := proto.Unmarshal(text, req); err != nil {
		return err
	}
	if err := checkOwner(req.GetOwner()); err != nil {
		return err
	}
	o := of(req.GetOwner())
	for _, r := range req.GetResources() {
		id, err := record.NewID(r)
		if err != nil {
			return err
		}
		o.owed[id] = debt{res: r, remember: req.GetSuspend()}
	}
	return nil
}

func loadAsleep(text []byte, of func(*pb.Owner) *owner) error {
	req := &pb.AcquireRequest{}
	if err := proto.Unmarshal(text, req); err != nil {
		return err
	}
	if err := checkOwner(req.GetOwner()); err != nil {
		return err
	}
	if _, err := record.ParseSuspended(req.GetState()); err != nil {
		return err
	}
	of(req.GetOwner()).asleep = req
	return nil
}

// buryDead has the guests that were processes before the machine was started anew owe what they had: they are dead.
func buryDead(owners map[record.Life]*owner) {
	for _, o := range owners {
		if o.info.GetPid() == 0 {
			continue
		}
		for id, h := range o.locks {
			o.owed[id] = debt{res: h.res}
		}
		for _, r := range o.asleep.GetResources() {
			if id, err := record.NewID(r); err == nil {
				o.owed[id] = debt{res: r}
			}
		}
		clear(o.locks)
		o.asleep = nil
	}
}

// List tells all locks of this host.
func (m *Manager) List(context.Context) ([]*pb.Lease, error) {
	if _, err := m.ready(); err != nil {
		return nil, err
	}
	const most = 16384
	m.mu.Lock()
	defer m.mu.Unlock()
	var leases []*pb.Lease
	for _, o := range m.owners {
		for _, h := range o.locks {
			if len(leases) == most {
				return leases, nil
			}
			leases = append(leases, m.lease(o, h))
		}
	}
	return leases, nil
}

// resources lists what an owner has; called with mu.
func (o *owner) resources() []*pb.Resource {
	list := make([]*pb.Resource, 0, len(o.locks))
	for _, id := range slices.Sorted(maps.Keys(o.locks)) {
		list = append(list, o.locks[id].res)
	}
	return list
}
