package lockmanager_test

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lodgevirt/lodge/sdk/lock"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// world is the storage that the hosts of a check share: it knows who has what.
type world struct {
	mu     sync.Mutex // guards all below
	slots  map[string]*slot
	tokens uint64
	feeds  map[int]*lock.Feed
}

// slot is one resource.
type slot struct {
	holders []*holding
	// epoch counts who was there.
	epoch uint64
}

// holding is one lock.
type holding struct {
	host  int
	lease *pb.Lease
}

// memory is a lock manager for tests of the suite. A fault in it has a name, and a check that must find it.
type memory struct {
	lock.Feed
	fault string
	world *world
	host  int
}

// worlds are those that configurations name.
type worlds struct {
	mu  sync.Mutex // guards all
	all map[string]*world
}

func (w *worlds) get(name string) *world {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = map[string]*world{}
	}
	if w.all[name] == nil {
		w.all[name] = &world{slots: map[string]*slot{}, feeds: map[int]*lock.Feed{}}
	}
	return w.all[name]
}

// memoryPlugin is a plugin of the manager with a fault, or none.
func memoryPlugin(all *worlds, fault string) plugin.Plugin {
	return plugin.Plugin{
		Name: "memory", Version: "1.0.0",
		LockManager: func(plugin.Core) (lock.Manager, error) {
			return &memoryConfigured{memory: memory{fault: fault}, all: all}, nil
		},
	}
}

// memoryConfigured finds its world by its configuration.
type memoryConfigured struct {
	memory
	all *worlds
}

// Configure implements plugin.Configurer.
func (m *memoryConfigured) Configure(_ context.Context, s plugin.Settings) error {
	var c struct {
		World string
		Host  int
	}
	if err := json.Unmarshal(s.Config, &c); err != nil {
		return verr.New(verr.ConfigUnsupported, "read configuration: %w", err)
	}
	w := m.all.get(c.World)
	w.mu.Lock()
	defer w.mu.Unlock()
	if m.fault == "a restart loses locks" {
		for _, s := range w.slots {
			s.holders = slices.DeleteFunc(s.holders, func(h *holding) bool { return h.host == c.Host })
		}
	}
	w.feeds[c.Host] = &m.Feed
	m.world, m.host = w, c.Host
	return nil
}

// name is what a resource is known by.
func (m *memory) name(r *pb.Resource) (string, error) {
	if m.fault == "anything is accepted" {
		return fmt.Sprint(r), nil
	}
	switch {
	case r.GetDisk() != "" && r.GetDisk()[0] != '/':
		return "", verr.New(verr.ConfigUnsupported, "disk %q is no absolute path", r.GetDisk())
	case r.GetDisk() != "" && m.fault == "names are trimmed":
		return strings.TrimSpace(r.GetDisk()), nil
	case r.GetDisk() != "":
		return r.GetDisk(), nil
	case r.GetKey() == "":
		return "", verr.New(verr.ConfigUnsupported, "there is nothing to lock")
	case m.fault == "lockspaces are the same":
		return "lease " + r.GetKey(), nil
	}
	return fmt.Sprintf("lease %q %q", r.GetLockspace(), r.GetKey()), nil
}

// slot finds a resource; called with the world's mutex.
func (m *memory) slot(r *pb.Resource) (*slot, error) {
	name, err := m.name(r)
	if err != nil {
		return nil, err
	}
	if m.world.slots[name] == nil {
		m.world.slots[name] = &slot{}
	}
	return m.world.slots[name], nil
}

// own is the lock that an owner has of a slot.
func (m *memory) own(s *slot, o *pb.Owner) *holding {
	for _, h := range s.holders {
		if h.host == m.host && m.same(h.lease.GetOwner(), o) {
			return h
		}
	}
	return nil
}

func (m *memory) same(a, b *pb.Owner) bool {
	return a.GetUuid() == b.GetUuid() && (a.GetGeneration() == b.GetGeneration() || m.fault == "lives are the same")
}

// inTheWay is who keeps an owner from a lock.
func (m *memory) inTheWay(s *slot, o *pb.Owner, r *pb.Resource) *holding {
	for _, h := range s.holders {
		switch {
		case h.host == m.host && m.same(h.lease.GetOwner(), o):
		case m.fault == "nobody is refused", m.fault == "hosts are strangers" && h.host != m.host:
		case r.GetShared() && h.lease.GetResource().GetShared():
		case m.fault == "sharing is enough" && h.lease.GetResource().GetShared():
		case m.fault == "nobody is refused on the host" && h.host == m.host:
		default:
			return h
		}
	}
	return nil
}

// take gives a lock to an owner.
func (m *memory) take(s *slot, o *pb.Owner, r *pb.Resource) *pb.Lease {
	if h := m.own(s, o); h != nil && m.fault != "what is held is taken anew" {
		h.lease.Owner = o
		return h.lease
	}
	s.holders = slices.DeleteFunc(s.holders, func(h *holding) bool { return h.host == m.host && m.same(h.lease.GetOwner(), o) })
	if m.world.tokens++; m.fault == "tokens stand still" {
		m.world.tokens = 7
	}
	s.epoch++
	l := &pb.Lease{Owner: o, Resource: r, Place: "memory", FencingToken: m.world.tokens, Since: timestamppb.Now(), Status: pb.Status_STATUS_HELD}
	s.holders = append(s.holders, &holding{host: m.host, lease: l})
	return l
}

// Prepare implements lock.Manager.
func (m *memory) Prepare(_ context.Context, req *pb.PrepareRequest) (*pb.PrepareResponse, error) {
	m.world.mu.Lock()
	defer m.world.mu.Unlock()
	for _, r := range req.GetResources() {
		s, err := m.slot(r)
		if err != nil {
			return nil, err
		}
		if m.fault == "prepare takes" {
			m.take(s, req.GetOwner(), r)
		}
	}
	return &pb.PrepareResponse{}, nil
}

// Acquire implements lock.Manager.
func (m *memory) Acquire(_ context.Context, req *pb.AcquireRequest) (*pb.AcquireResponse, error) {
	m.world.mu.Lock()
	defer m.world.mu.Unlock()
	var was map[string]uint64
	if len(req.GetState()) > 0 {
		if err := json.Unmarshal(req.GetState(), &was); err != nil {
			return nil, verr.New(verr.InvalidArg, "read state: %w", err)
		}
	}
	if err := m.check(req, was); err != nil {
		return nil, err
	}
	rsp := &pb.AcquireResponse{}
	for _, r := range req.GetResources() {
		s, err := m.slot(r)
		if err != nil {
			return nil, err
		}
		resumes := was != nil && m.own(s, req.GetOwner()) == nil
		rsp.Leases = append(rsp.Leases, m.take(s, req.GetOwner(), r))
		if resumes {
			s.epoch-- // it is the same holder
		}
	}
	if m.fault == "the order is another" {
		slices.Reverse(rsp.Leases)
	}
	return rsp, nil
}

// check says who is in the way of a request.
func (m *memory) check(req *pb.AcquireRequest, was map[string]uint64) error {
	for _, r := range req.GetResources() {
		s, err := m.slot(r)
		if err != nil {
			return err
		}
		h := m.inTheWay(s, req.GetOwner(), r)
		if m.fault == "two look before they take" {
			m.world.mu.Unlock()
			runtime.Gosched()
			time.Sleep(time.Millisecond)
			m.world.mu.Lock()
		}
		if h != nil {
			code := verr.ResourceBusy
			if m.fault == "busy has another code" {
				code = verr.Internal
			}
			return verr.New(code, "%q is held by guest %q", r.GetDisk()+r.GetKey(), h.lease.GetOwner().GetName())
		}
		name, err := m.name(r)
		if err != nil {
			return err
		}
		if epoch, ok := was[name]; ok && epoch != s.epoch && m.own(s, req.GetOwner()) == nil && m.fault != "who was there is forgotten" {
			return verr.New(verr.OperationInvalid, "somebody else had %q", r.GetDisk())
		}
		if m.fault == "half is granted" {
			m.take(s, req.GetOwner(), r)
		}
	}
	return nil
}

// Release implements lock.Manager.
func (m *memory) Release(_ context.Context, req *pb.ReleaseRequest) (*pb.ReleaseResponse, error) {
	m.world.mu.Lock()
	defer m.world.mu.Unlock()
	if m.fault == "nothing is released" {
		return &pb.ReleaseResponse{}, nil
	}
	which := map[*slot]bool{}
	for _, r := range req.GetResources() {
		s, err := m.slot(r)
		if err != nil {
			return nil, err
		}
		which[s] = true
	}
	rsp, was := &pb.ReleaseResponse{}, map[string]uint64{}
	for name, s := range m.world.slots {
		if len(which) > 0 && !which[s] && m.fault != "everything is released" {
			continue
		}
		before := len(s.holders)
		s.holders = slices.DeleteFunc(s.holders, func(h *holding) bool {
			uuid := h.lease.GetOwner().GetUuid() == req.GetOwner().GetUuid()
			return h.host == m.host && (m.same(h.lease.GetOwner(), req.GetOwner()) || (uuid && m.fault == "any life is released"))
		})
		if n := before - len(s.holders); n > 0 {
			rsp.Released += uint32(n)
			was[name] = s.epoch
		}
	}
	var err error
	if req.GetSuspend() && len(was) > 0 {
		rsp.State, err = json.Marshal(was)
	}
	if req.GetSuspend() && len(was) == 0 && m.fault != "a state is told once" {
		was = m.lastStates(req.GetOwner())
		rsp.State, err = json.Marshal(was)
	}
	m.keepStates(req.GetOwner(), was)
	return rsp, err
}

// lastStates and keepStates remember what a guest was told when it was suspended; called with the world's mutex.
func (m *memory) lastStates(o *pb.Owner) map[string]uint64 {
	was := map[string]uint64{}
	for name, s := range m.world.slots {
		if key, ok := cutLife(name, o); ok {
			was[key] = s.epoch
		}
	}
	return was
}

func (m *memory) keepStates(o *pb.Owner, was map[string]uint64) {
	for name, epoch := range was {
		m.world.slots[lifeOf(o)+name] = &slot{epoch: epoch}
	}
}

func lifeOf(o *pb.Owner) string { return fmt.Sprintf("%s.%d ", o.GetUuid(), o.GetGeneration()) }

func cutLife(name string, o *pb.Owner) (string, bool) {
	l := lifeOf(o)
	if len(name) > len(l) && name[:len(l)] == l {
		return name[len(l):], true
	}
	return "", false
}

// Recover implements lock.Manager.
func (m *memory) Recover(_ context.Context, req *pb.RecoverRequest) (*pb.RecoverResponse, error) {
	m.world.mu.Lock()
	defer m.world.mu.Unlock()
	rsp := &pb.RecoverResponse{}
	for _, r := range req.GetResources() {
		s, err := m.slot(r)
		if err != nil {
			return nil, err
		}
		l := &pb.Lease{Owner: req.GetOwner(), Resource: r, Place: "memory", Status: pb.Status_STATUS_LOST}
		other := m.inTheWay(s, req.GetOwner(), r)
		switch {
		case other != nil && m.fault == "recover steals":
			s.holders = nil
			l = m.take(s, req.GetOwner(), r)
		case other != nil:
			l.Detail = "held by " + other.lease.GetOwner().GetName()
		case m.own(s, req.GetOwner()) != nil:
			l = m.take(s, req.GetOwner(), r)
		case m.fault == "recover only looks":
			l.Detail = "not held"
		default:
			taken := m.take(s, req.GetOwner(), r)
			l.Status, l.FencingToken = pb.Status_STATUS_TAKEN_AGAIN, taken.GetFencingToken()
		}
		rsp.Leases = append(rsp.Leases, l)
	}
	return rsp, nil
}

// List implements lock.Manager.
func (m *memory) List(context.Context) ([]*pb.Lease, error) {
	m.world.mu.Lock()
	defer m.world.mu.Unlock()
	var leases []*pb.Lease
	for _, s := range m.world.slots {
		for _, h := range s.holders {
			if h.host == m.host || m.fault == "all hosts are listed" {
				leases = append(leases, h.lease)
			}
		}
	}
	return leases, nil
}

// Watch implements lock.Manager.
func (m *memory) Watch(ctx context.Context, send func(*pb.WatchResponse) error) error {
	if m.fault == "there is no hello" {
		return nil
	}
	return m.Feed.Watch(ctx, send)
}

// lose takes a lock away, and has its manager know.
func (w *world) lose(l *pb.Lease, reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.slots {
		for _, h := range s.holders {
			if h.lease.GetFencingToken() == l.GetFencingToken() {
				lost := &pb.Lease{
					Owner: h.lease.GetOwner(), Resource: h.lease.GetResource(), Place: "memory",
					Status: pb.Status_STATUS_LOST, Detail: reason,
				}
				if feed := w.feeds[h.host]; feed != nil {
					feed.Publish(&pb.WatchResponse{Lease: lost})
				}
			}
		}
		s.holders = slices.DeleteFunc(s.holders, func(h *holding) bool { return h.lease.GetFencingToken() == l.GetFencingToken() })
	}
}
