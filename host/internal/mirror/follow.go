package mirror

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/lodgevirt/lodge/host/internal/event"
	"github.com/lodgevirt/lodge/sdk/domxml"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Follow takes in what a driver's process tells, until the stream ends. It is called by one goroutine at a time.
func (m *Mirror) Follow(ctx context.Context, conn grpc.ClientConnInterface) error {
	stream, err := pb.NewInventoryServiceClient(conn).Follow(ctx, &pb.FollowRequest{Connection: m.cfg.Connection})
	if err != nil {
		return fmt.Errorf("follow %q: %w", m.cfg.URI, err)
	}
	// first is what is told before the first Synced, nil after it.
	first := newWhole()
	for {
		msg, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("follow %q: %w", m.cfg.URI, err)
		}
		switch {
		case msg.GetObjects() != nil && first != nil:
			if err := first.add(msg.GetObjects()); err != nil {
				return err
			}
		case msg.GetObjects() != nil:
			m.apply(msg.GetObjects(), true)
		case msg.GetSynced() != nil && first != nil:
			m.replace(first)
			first = nil
			m.note(func(p *progress) { *p = progress{synced: true, stream: p.stream + 1, seq: msg.GetSeq()} })
			continue
		case msg.GetSynced() != nil:
			m.note(func(p *progress) { p.cause = nil })
		case msg.GetStale() != nil:
			cause := reason(msg.GetStale())
			m.cfg.Log.Warn("hypervisor is out of reach", "uri", m.cfg.URI, "since", msg.GetStale().GetSince().AsTime(), "cause", cause)
			m.note(func(p *progress) { p.cause = cause })
		}
		if first == nil {
			m.note(func(p *progress) { p.seq = max(p.seq, msg.GetSeq()) })
		}
	}
}

// Failed tells those who wait for a first picture that it cannot be had now.
func (m *Mirror) Failed(err error) { m.note(func(p *progress) { p.cause = err }) }

// reason is a driver's word on why its hypervisor is out of reach.
func reason(s *pb.Stale) error {
	c := s.GetCause()
	if c.GetCode() == 0 {
		return verr.New(verr.OperationFailed, "the hypervisor does not answer")
	}
	e := verr.New(verr.Code(c.GetCode()), "%s", c.GetMessage())
	return e.In(verr.Domain(c.GetDomain()))
}

// whole is all objects that a stream has told so far.
type whole struct {
	pb.Objects
	guests, pools, networks, ifaces map[string]bool
}

func newWhole() *whole {
	return &whole{guests: map[string]bool{}, pools: map[string]bool{}, networks: map[string]bool{}, ifaces: map[string]bool{}}
}

// add enters objects; later ones of the same key, and those that are gone, are rare before the first Synced.
func (w *whole) add(o *pb.Objects) error {
	if o.GetHost() != nil {
		w.Host = o.GetHost()
	}
	w.Guests = gather(w.Guests, w.guests, o.GetGuests(), (*pb.GuestObject).GetUuid, o.GetGoneGuests())
	w.Pools = gather(w.Pools, w.pools, o.GetPools(), (*pb.PoolObject).GetUuid, o.GetGonePools())
	w.Networks = gather(w.Networks, w.networks, o.GetNetworks(), (*pb.NetworkObject).GetUuid, o.GetGoneNetworks())
	w.Interfaces = gather(w.Interfaces, w.ifaces, o.GetInterfaces(), (*pb.InterfaceObject).GetName, o.GetGoneInterfaces())
	if n := len(w.Guests) + len(w.Pools) + len(w.Networks) + len(w.Interfaces); n > maxObjects {
		return verr.New(verr.OperationFailed, "driver told of more than %d objects", maxObjects)
	}
	return nil
}

func gather[T any](all []T, have map[string]bool, more []T, key func(T) string, gone []string) []T {
	keep := func(k string) {
		if !have[k] {
			return
		}
		delete(have, k)
		for n := range all {
			if key(all[n]) == k {
				all = append(all[:n], all[n+1:]...)
				return
			}
		}
	}
	for _, k := range gone {
		keep(k)
	}
	for _, o := range more {
		keep(key(o))
		have[key(o)] = true
		all = append(all, o)
	}
	return all
}

// replace makes what a new stream has told the picture. Clients are told what has changed, unless there was no picture before.
func (m *Mirror) replace(w *whole) {
	told := m.now().synced
	o := &w.Objects
	m.mu.RLock()
	for id, d := range m.byUUID {
		if !w.guests[id.String()] {
			o.GoneGuests = append(o.GoneGuests, id.String())
			o.Events = append(o.Events, endEvents(d.state.Load())...)
		}
	}
	for _, g := range o.Guests {
		id, err := uuid.Parse(g.GetUuid())
		if err != nil {
			continue
		}
		var before *guest
		if d := m.byUUID[id]; d != nil {
			before = d.state.Load()
			if g.GetXml() == "" && proto.Equal(withoutXML(before.object), g) {
				g.Xml = before.object.GetXml() // it will be told again
			}
		}
		o.Events = append(o.Events, differences(before, g)...)
	}
	for id := range m.networks {
		if !w.networks[id.String()] {
			o.GoneNetworks = append(o.GoneNetworks, id.String())
		}
	}
	for name := range m.ifaces {
		if !w.ifaces[name] {
			o.GoneInterfaces = append(o.GoneInterfaces, name)
		}
	}
	m.mu.RUnlock()
	for _, p := range m.pools.All() {
		if id := p.View().UUID.String(); !w.pools[id] {
			o.GonePools = append(o.GonePools, id)
		}
	}
	m.apply(o, told)
}

func withoutXML(g *pb.GuestObject) *pb.GuestObject {
	c, ok := proto.Clone(g).(*pb.GuestObject)
	if ok {
		c.Xml = ""
	}
	return c
}

// apply changes the picture, and then tells clients.
func (m *Mirror) apply(o *pb.Objects, told bool) {
	var events []event.Event
	m.mu.Lock()
	if o.GetHost() != nil {
		m.host = o.GetHost()
	}
	for _, id := range o.GetGoneGuests() {
		m.dropGuest(id)
	}
	for _, g := range o.GetGuests() {
		if err := m.putGuest(g); err != nil {
			m.cfg.Log.Error("driver told of a guest that cannot be shown", "uri", m.cfg.URI, "error", err)
		}
	}
	events = append(events, m.applyNetworks(o)...)
	m.applyInterfaces(o)
	m.mu.Unlock()
	for _, id := range o.GetGonePools() {
		if id, err := uuid.Parse(id); err == nil {
			m.pools.Drop(id, told)
		}
	}
	for _, p := range o.GetPools() {
		if err := m.pools.Adopt(p, told); err != nil {
			m.cfg.Log.Error("driver told of a storage pool that cannot be shown", "uri", m.cfg.URI, "error", err)
		}
	}
	if !told {
		return
	}
	for _, e := range o.GetEvents() {
		id, err := uuid.Parse(e.GetUuid())
		if err != nil || e.GetEvent() == nil {
			m.cfg.Log.Error("driver told of an event of nobody", "uri", m.cfg.URI, "uuid", e.GetUuid())
			continue
		}
		m.cfg.Events.Publish(event.Event{URI: m.cfg.URI, Name: e.GetName(), UUID: id, ID: e.GetId(), Domain: e.GetEvent()})
	}
	for _, e := range events {
		m.cfg.Events.Publish(e)
	}
}

// putGuest enters a guest; mu is held.
func (m *Mirror) putGuest(o *pb.GuestObject) error {
	id, err := uuid.Parse(o.GetUuid())
	if err != nil {
		return verr.New(verr.Internal, "guest %q has the uuid %q", o.GetName(), o.GetUuid())
	}
	if err := domxml.CheckName(o.GetName()); err != nil {
		return err
	}
	d := m.byUUID[id]
	if d == nil {
		if len(m.byUUID) >= maxObjects {
			return verr.New(verr.OperationFailed, "there are more than %d guests", maxObjects)
		}
		d = &Domain{m: m, uuid: id, slot: make(chan struct{}, 1)}
		m.byUUID[id] = d
	} else {
		m.unlink(d)
	}
	d.state.Store(newGuest(id, o))
	m.byName[o.GetName()] = append(m.byName[o.GetName()], d)
	if o.GetId() >= 0 {
		m.byID[o.GetId()] = d
	}
	return nil
}

// unlink takes a domain out of the indexes that may change; mu is held.
func (m *Mirror) unlink(d *Domain) {
	s := d.state.Load()
	if s == nil {
		return
	}
	others := slices.DeleteFunc(m.byName[s.view.Name], func(o *Domain) bool { return o == d })
	if m.byName[s.view.Name] = others; len(others) == 0 {
		delete(m.byName, s.view.Name)
	}
	if m.byID[s.view.ID] == d {
		delete(m.byID, s.view.ID)
	}
}

// dropGuest removes a guest; mu is held.
func (m *Mirror) dropGuest(key string) {
	id, err := uuid.Parse(key)
	if err != nil {
		return
	}
	d := m.byUUID[id]
	if d == nil {
		return
	}
	m.unlink(d)
	delete(m.byUUID, id)
	s := *d.state.Load()
	s.gone = true
	s.view.ID = inactiveID
	d.state.Store(&s)
}

// lost reports whether a driver's process was lost with a call in flight.
func lost(err error) bool {
	st, ok := status.FromError(err)
	if !ok {
		return false
	}
	for _, detail := range st.Details() {
		if info, ok := detail.(*basev1.CallInfo); ok && info.GetOutcome() == basev1.Outcome_OUTCOME_NOT_SENT {
			return false
		}
	}
	return st.Code() == codes.Unavailable
}
