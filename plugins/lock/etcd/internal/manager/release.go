package manager

import (
	"context"
	"errors"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/guard"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/record"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Release ends locks. It succeeds without etcd too, since what is released is used no more: etcd is told later, or the lease ends.
func (m *Manager) Release(ctx context.Context, req *pb.ReleaseRequest) (*pb.ReleaseResponse, error) {
	if _, err := m.ready(); err != nil {
		return nil, err
	}
	ids := map[record.ID]bool{}
	for _, r := range req.GetResources() {
		id, err := record.NewID(r)
		if err != nil {
			return nil, err
		}
		ids[id] = true
	}
	o, err := m.take(ctx, record.LifeOf(req.GetOwner()), false)
	if err != nil {
		return nil, err
	}
	if o == nil {
		return &pb.ReleaseResponse{}, nil
	}
	defer m.done(o)
	r := &release{m: m, o: o, suspend: req.GetSuspend(), ids: ids}
	return r.run(ctx)
}

// release is one Release, which has its owner's turn.
type release struct {
	m       *Manager
	o       *owner
	suspend bool
	// ids are what is to be released; none is everything.
	ids map[record.ID]bool
}

func (r *release) all() bool { return len(r.ids) == 0 }

func (r *release) covers(id record.ID) bool { return r.all() || r.ids[id] }

// run writes down what is released, and then releases it.
func (r *release) run(ctx context.Context) (*pb.ReleaseResponse, error) {
	m, o := r.m, r.o
	if err := r.findEpochs(ctx); err != nil {
		m.log.Warn("a suspended guest will have to be started anew", "guest", o.life.UUID, "error", err)
	}
	m.mu.Lock()
	owed, left, asleep, err := r.plan()
	info, action := o.info, o.action
	released := 0
	for id := range o.locks {
		if r.covers(id) {
			released++
		}
	}
	before, beforeAsleep := o.owed, o.asleep
	o.owed, o.asleep = owed, asleep
	m.mu.Unlock()
	// The order is such that a process that is killed in between leaves locks that are held, and a call to be repeated.
	if err == nil {
		err = errors.Join(m.saveAsleep(ctx, o), m.saveOwed(ctx, o))
	}
	if err == nil {
		err = m.save(ctx, o, info, action, left)
	}
	if err != nil {
		m.mu.Lock()
		o.owed, o.asleep = before, beforeAsleep
		m.noteDebts(o)
		m.mu.Unlock()
		return nil, err
	}
	m.mu.Lock()
	for id := range o.locks {
		if r.covers(id) {
			delete(o.locks, id)
		}
	}
	m.reckon(o)
	g, post, late := o.guest(), m.post(), m.late
	m.mu.Unlock()
	r.unguard(ctx, post, len(left) == 0, g)
	if late {
		m.kick()
	} else if err := m.settle(ctx, o, false); err != nil {
		m.log.Warn("release is owed to etcd", "guest", info.GetName(), "error", err)
		m.kick()
	}
	resp := &pb.ReleaseResponse{Released: uint32(released)}
	if r.suspend {
		resp.State = asleep.GetState()
	}
	return resp, nil
}

// findEpochs asks etcd for what a suspended guest is to remember, where it is not known: this process has not taken the locks.
func (r *release) findEpochs(ctx context.Context) error {
	r.m.mu.Lock()
	unknown, late := false, r.m.late
	for id, h := range r.o.locks {
		unknown = unknown || (r.suspend && r.covers(id) && h.epoch == 0)
	}
	r.m.mu.Unlock()
	if !unknown {
		return nil
	}
	if late {
		return errors.New("etcd does not answer")
	}
	return r.m.retake(ctx, false, r.m.patience(1), r.o)
}

// plan decides what will be owed, held and remembered; called with mu.
func (r *release) plan() (owed map[record.ID]debt, left []*pb.Resource, asleep *pb.AcquireRequest, err error) {
	o := r.o
	owed = map[record.ID]debt{}
	for id, d := range o.owed {
		owed[id] = d
	}
	remembered, err := record.ParseSuspended(o.asleep.GetState())
	if err != nil {
		return nil, nil, nil, err
	}
	keep := &record.Suspended{Version: 1, Epochs: map[string]int64{}}
	asleep = &pb.AcquireRequest{Owner: o.info, OnFailure: o.action}
	remember := func(id record.ID, res *pb.Resource, epoch int64) {
		keep.Epochs[record.Digest(id)] = epoch
		asleep.Resources = append(asleep.Resources, res)
	}
	for _, res := range o.asleep.GetResources() {
		id, err := record.NewID(res)
		if err != nil {
			return nil, nil, nil, err
		}
		epoch, _ := remembered.Epoch(id)
		if o.locks[id] != nil {
			continue
		}
		if r.suspend || !r.covers(id) {
			remember(id, res, epoch)
		} else if _, ok := owed[id]; !ok || owed[id].remember {
			owed[id] = debt{res: res}
		}
	}
	for _, res := range o.resources() {
		id, err := record.NewID(res)
		if err != nil {
			return nil, nil, nil, err
		}
		h := o.locks[id]
		switch {
		case !r.covers(id):
			left = append(left, res)
			continue
		case r.suspend:
			remember(id, res, h.epoch)
		}
		owed[id] = debt{res: res, remember: r.suspend}
	}
	if len(asleep.Resources) == 0 {
		return owed, left, nil, nil
	}
	asleep.State, err = keep.Encode()
	return owed, left, asleep, err
}

// unguard has the guard leave a guest alone that has no lock any more, or know what it has. From here on the core has ended or stopped
// it, or does not want it guarded: there is no reason to wait for the guard.
func (r *release) unguard(ctx context.Context, post *guard.Post, all bool, g guard.Guest) {
	if post == nil {
		return
	}
	var err error
	if all {
		err = post.Drop(ctx, r.o.life)
	} else {
		err = post.Set(ctx, g)
	}
	if err != nil {
		r.m.log.Warn("guard does not know of a release yet", "guest", r.o.life.UUID, "error", err)
	}
}

// Recover takes charge of the locks of a guest that lives, and takes again what is free.
func (m *Manager) Recover(ctx context.Context, req *pb.RecoverRequest) (*pb.RecoverResponse, error) {
	_, list, err := m.demand(req)
	if err != nil {
		return nil, err
	}
	o, err := m.take(ctx, record.LifeOf(req.GetOwner()), true)
	if err != nil {
		return nil, err
	}
	defer m.done(o)
	if err := m.claim(ctx, o, req, list); err != nil {
		return nil, err
	}
	m.mu.Lock()
	holds := len(o.locks) > 0
	m.mu.Unlock()
	if holds {
		if err := m.retake(ctx, false, m.patience(1), o); err != nil {
			if err := m.recoverBlind(ctx, o, err); err != nil {
				return nil, err
			}
		}
	}
	m.freshen(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	leases := m.answer(o, list)
	for _, h := range o.locks {
		if h.status == again { // it is told now
			h.status = there
		}
	}
	return &pb.RecoverResponse{Leases: leases}, nil
}

// claim writes down that an owner lives, and with what. What it has besides is kept: to release it is another call's business.
func (m *Manager) claim(ctx context.Context, o *owner, req *pb.RecoverRequest, list []item) error {
	m.mu.Lock()
	o.info, o.action, o.claimed = merge(o.info, req.GetOwner()), req.GetOnFailure(), true
	for _, it := range list {
		if it.left {
			continue
		}
		if h := o.locks[it.id]; h == nil || h.res.GetShared() != it.res.GetShared() {
			o.locks[it.id] = &held{id: it.id, res: it.res}
		}
		delete(o.owed, it.id)
	}
	info, action, resources := o.info, o.action, o.resources()
	m.mu.Unlock()
	if err := m.save(ctx, o, info, action, resources); err != nil {
		return err
	}
	return m.saveOwed(ctx, o)
}

// recoverBlind takes charge of an owner while etcd does not answer: it is guarded, and the core is told later what became of its
// locks. Another error is returned.
func (m *Manager) recoverBlind(ctx context.Context, o *owner, err error) error {
	if !verr.Is(err, verr.OperationTimeout) {
		return err
	}
	m.mu.Lock()
	g, post := o.guest(), m.post()
	m.mu.Unlock()
	if post == nil {
		return err
	}
	m.log.Warn("locks of a guest are not known yet", "guest", g.Name, "error", err)
	m.kick()
	return post.Set(ctx, g)
}
