package manager

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/config"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/record"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/store"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// callRequests is how many requests to etcd a call has time for, when each of them takes as long as it may.
const callRequests = 4

// item is one resource of a call.
type item struct {
	id  record.ID
	res *pb.Resource
	// left says that it is not locked: a disk, where disks are not to be locked.
	left bool
}

// items checks the resources of a call.
func items(conf *config.Config, resources []*pb.Resource) ([]item, error) {
	list := make([]item, 0, len(resources))
	different := map[record.ID]bool{}
	for _, r := range resources {
		id, err := record.NewID(r)
		if err != nil {
			return nil, err
		}
		left := r.GetDisk() != "" && !conf.AutoDiskLeases
		if !left {
			different[id] = true
		}
		list = append(list, item{id: id, res: r, left: left})
	}
	if len(different) > store.MaxResources {
		return nil, verr.New(verr.ConfigUnsupported, "%d disks and leases cannot be locked in one transaction of etcd, at most %d can", len(different), store.MaxResources)
	}
	return list, nil
}

// checkRequired refuses a guest whose disks would not be locked, where that is required. Leases that it has already count too.
func checkRequired(conf *config.Config, name string, list []item, has int) error {
	unlocked := ""
	for _, it := range list {
		switch {
		case !it.left:
			return nil
		case !it.res.GetShared():
			unlocked = it.res.GetDisk()
		}
	}
	if unlocked == "" || has > 0 || !conf.RequireLeaseForDisks {
		return nil
	}
	return verr.New(verr.ConfigUnsupported, "guest %q has disk %q and no <lease>, which require_lease_for_disks of lock manager etcd asks for",
		record.Show(name), record.Show(unlocked))
}

// demand reads what a request wants, and for whom.
func (m *Manager) demand(req interface {
	GetOwner() *pb.Owner
	GetResources() []*pb.Resource
},
) (*config.Config, []item, error) {
	conf, err := m.ready()
	if err != nil {
		return nil, nil, err
	}
	if err := checkOwner(req.GetOwner()); err != nil {
		return nil, nil, err
	}
	list, err := items(conf, req.GetResources())
	return conf, list, err
}

// Prepare checks, and has nothing to make.
func (m *Manager) Prepare(_ context.Context, req *pb.PrepareRequest) (*pb.PrepareResponse, error) {
	conf, list, err := m.demand(req)
	if err != nil {
		return nil, err
	}
	if err := checkRequired(conf, req.GetOwner().GetName(), list, 0); err != nil {
		return nil, err
	}
	return &pb.PrepareResponse{}, nil
}

// want is a lock that an owner shall have; called with mu.
func (m *Manager) want(info *pb.Owner, id record.ID, r *pb.Resource) store.Want {
	host, bootID := "", ""
	if m.work != nil {
		host, bootID = m.conf.Host, m.work.boot
	}
	return store.Want{ID: id, Resource: r, Value: record.Holder{
		Owner: info.GetUuid(), Generation: info.GetGeneration(), Name: info.GetName(), URI: info.GetUri(),
		Host: host, Instance: m.right.Instance, Boot: bootID, PID: info.GetPid(), StartTime: info.GetStartTime(),
		Path: r.GetDisk(), Lockspace: r.GetLockspace(), Key: r.GetKey(), Shared: r.GetShared(),
	}}
}

// Acquire takes all locks or none.
func (m *Manager) Acquire(ctx context.Context, req *pb.AcquireRequest) (*pb.AcquireResponse, error) {
	conf, list, err := m.demand(req)
	if err != nil {
		return nil, err
	}
	suspended, err := record.ParseSuspended(req.GetState())
	if err != nil {
		return nil, err
	}
	o, err := m.take(ctx, record.LifeOf(req.GetOwner()), true)
	if err != nil {
		return nil, err
	}
	defer m.done(o)
	a := &acquisition{m: m, o: o, action: req.GetOnFailure(), suspended: suspended}
	if err := a.prepare(conf, req.GetOwner(), list); err != nil {
		return nil, err
	}
	if len(a.wants) > 0 {
		if err := a.run(ctx); err != nil {
			return nil, err
		}
		m.freshen(ctx)
	}
	return &pb.AcquireResponse{Leases: a.answer(list)}, nil
}

// acquisition is one Acquire, which has its owner's turn.
type acquisition struct {
	m         *Manager
	o         *owner
	info      *pb.Owner
	action    pb.Action
	suspended *record.Suspended
	// wants are the locks; fresh those of them that the owner does not have.
	wants []store.Want
	fresh map[record.ID]*pb.Resource
}

// prepare decides what is wanted.
func (a *acquisition) prepare(conf *config.Config, info *pb.Owner, list []item) error {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	if err := checkRequired(conf, info.GetName(), list, len(a.o.locks)); err != nil {
		return err
	}
	a.info = merge(a.o.info, info)
	if a.o.info == nil {
		a.o.info = a.info
	}
	if a.suspended == nil && a.o.asleep != nil { // what the core has lost is kept here
		a.suspended, _ = record.ParseSuspended(a.o.asleep.GetState()) // it was read before
	}
	a.fresh = map[record.ID]*pb.Resource{}
	for i, it := range list {
		h := a.o.locks[it.id]
		switch {
		case it.left:
			continue
		case h != nil && h.res.GetShared() != it.res.GetShared():
			return verr.New(verr.OperationInvalid, "%s is locked by guest %q already, but shared in one way and alone in the other: release it first",
				record.Title(it.res), record.Show(info.GetName()))
		}
		for _, earlier := range list[:i] {
			if earlier.id == it.id && earlier.res.GetShared() != it.res.GetShared() {
				return verr.New(verr.ConfigUnsupported, "%s is wanted twice, shared and alone", record.Title(it.res))
			}
		}
		if a.fresh[it.id] != nil || a.wanted(it.id) {
			continue
		}
		w := a.m.want(a.info, it.id, it.res)
		if h == nil {
			a.fresh[it.id] = it.res
			w.Epoch, w.Resume = a.suspended.Epoch(it.id)
		}
		a.wants = append(a.wants, w)
	}
	if n := len(a.o.locks) + len(a.fresh); n > store.MaxResources {
		return verr.New(verr.ConfigUnsupported, "guest %q would have %d locks, at most %d are possible", record.Show(info.GetName()), n, store.MaxResources)
	}
	return nil
}

func (a *acquisition) wanted(id record.ID) bool {
	for _, w := range a.wants {
		if w.ID == id {
			return true
		}
	}
	return false
}

// merge keeps the process of an owner when a later call does not name it.
func merge(before, now *pb.Owner) *pb.Owner {
	if before.GetPid() != 0 && now.GetPid() == 0 {
		now = proto.CloneOf(now)
		now.Pid, now.StartTime = before.GetPid(), before.GetStartTime()
	}
	return now
}

// run writes down what is wanted, takes it, and takes note of it.
func (a *acquisition) run(ctx context.Context) error {
	m, o := a.m, a.o
	m.mu.Lock()
	had := o.resources()
	before, beforeAction := o.info, o.action
	m.mu.Unlock()
	all := had
	for _, r := range a.fresh {
		all = append(all[:len(all):len(all)], r)
	}
	if err := m.save(ctx, o, a.info, a.action, all); err != nil {
		return err
	}
	m.settleOthers(ctx, o, a.fresh)
	var locks []store.Lock
	doubt, err := m.withSession(ctx, false, m.patience(callRequests), func(ctx context.Context, st *store.Store, sess store.Session) (err error) {
		locks, err = st.Take(ctx, sess, a.wants, true)
		return err
	})
	if err != nil {
		return errors.Join(err, a.undo(ctx, doubt, before, beforeAction, had))
	}
	m.mu.Lock()
	for i, w := range a.wants {
		h := o.locks[w.ID]
		if h == nil {
			h = &held{id: w.ID, res: w.Resource}
			o.locks[w.ID] = h
		}
		h.status, h.detail = there, ""
		h.token, h.epoch, h.since = locks[i].Token, locks[i].Epoch, locks[i].Since
		delete(o.owed, w.ID)
	}
	o.info, o.action, o.claimed, o.asleep = a.info, a.action, true, nil
	m.reckon(o)
	g, post := o.guest(), m.post()
	m.mu.Unlock()
	if err := errors.Join(m.saveOwed(ctx, o), m.saveAsleep(ctx, o)); err != nil {
		// The record of what is held goes before that of what is owed, so the next process makes nothing wrong of it.
		m.log.Warn("records of what is past are left", "guest", o.info.GetName(), "error", err)
	}
	if post == nil {
		return verr.New(verr.OperationAborted, "%w", errNotConfigured)
	}
	if err := post.Set(ctx, g); err != nil {
		if g.PID != 0 {
			return verr.New(verr.OperationFailed, "guest %q cannot be guarded, so it could go on without its locks: %w", record.Show(g.Name), err)
		}
		m.log.Error("guest is not guarded yet", "guest", g.Name, "error", err)
	}
	return nil
}

// undo takes back what was written down of an acquisition that has failed. If it may have been made, or may yet be, it is owed.
func (a *acquisition) undo(ctx context.Context, doubt bool, info *pb.Owner, action pb.Action, had []*pb.Resource) error {
	m, o := a.m, a.o
	var err error
	if doubt {
		m.mu.Lock()
		for id, r := range a.fresh {
			o.owed[id] = debt{res: r}
		}
		m.mu.Unlock()
		err = m.saveOwed(context.WithoutCancel(ctx), o)
		m.kick()
	}
	return errors.Join(err, m.save(context.WithoutCancel(ctx), o, info, action, had))
}

// settleOthers releases what other owners of this host owe of what is wanted. Whoever is being changed just now is left alone.
func (m *Manager) settleOthers(ctx context.Context, own *owner, wanted map[record.ID]*pb.Resource) {
	m.mu.Lock()
	var others []*owner
	for _, o := range m.debtors {
		if o == own {
			continue
		}
		for id := range wanted {
			if _, ok := o.owed[id]; ok {
				others = append(others, o)
				break
			}
		}
	}
	m.mu.Unlock()
	for _, o := range others {
		select {
		case o.turn <- struct{}{}:
		default:
			continue
		}
		if err := m.settle(ctx, o, false); err != nil {
			m.log.Warn("release is still owed", "guest", o.life.UUID, "error", err)
		}
		m.done(o)
	}
}

// answer is the leases in the order of the request.
func (a *acquisition) answer(list []item) []*pb.Lease {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	return a.m.answer(a.o, list)
}

// answer is what an owner has, in the order of a request; called with mu.
func (m *Manager) answer(o *owner, list []item) []*pb.Lease {
	leases := make([]*pb.Lease, 0, len(list))
	for _, it := range list {
		if h := o.locks[it.id]; h != nil && !it.left {
			l := m.lease(o, h)
			l.Resource = it.res
			leases = append(leases, l)
			continue
		}
		leases = append(leases, &pb.Lease{
			Owner: o.info, Resource: it.res, Detail: fmt.Sprintf("disks are not locked: auto_disk_leases of lock manager etcd is %v", m.conf != nil && m.conf.AutoDiskLeases),
		})
	}
	return leases
}
