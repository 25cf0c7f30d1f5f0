package door

import (
	"errors"
	"sync"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/event"
	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// domainEventIDs is how many kinds of domain events there are; legacyEventIDs of them have messages without callback id.
	domainEventIDs = 27
	legacyEventIDs = 16
	// eventSerial is the serial of event messages.
	eventSerial = 1
)

// errEventsLost ends a connection that read its events too slowly: a client that reconnects knows that it must look again.
var errEventsLost = errors.New("events were lost because they were not read in time")

// subscriptions are the event callbacks of one client. The first one subscribes to the bus, and a goroutine then carries events over.
type subscriptions struct {
	server *Server
	w      *rpc.Writer
	// disconnect ends the connection.
	disconnect func(error)
	wg         sync.WaitGroup

	mu        sync.Mutex // guards the fields below; never held while a frame is sent
	callbacks map[int32]callback
	// legacy holds the connection whose events are sent without callback id, or "".
	legacy [legacyEventIDs]string
	sub    *event.Subscription
	closed bool
}

// callback is one registration: which events of which kind of object, of a domain's connection, and of one object if that is set.
type callback struct {
	kind    objectKind
	uri     string
	eventID int32
	object  *uuid.UUID
}

// objectKind is what an event is about.
type objectKind int

const (
	aboutDomain objectKind = iota
	aboutPool
	aboutSecret
	aboutNetwork
)

// eventKinds are the kinds of object, and how many kinds of events each has.
var eventKinds = map[objectKind]struct {
	name string
	ids  int32
}{aboutDomain: {"domain", domainEventIDs}, aboutPool: {"storage pool", 2}, aboutSecret: {"secret", 2}, aboutNetwork: {"network", 1}}

func newSubscriptions(s *Server, w *rpc.Writer, disconnect func(error)) *subscriptions {
	return &subscriptions{server: s, w: w, disconnect: disconnect, callbacks: map[int32]callback{}}
}

// register adds a callback and returns its id.
func (ss *subscriptions) register(cb callback) (int32, error) {
	if cb.eventID < 0 || cb.eventID >= eventKinds[cb.kind].ids {
		return 0, rpcInternal("unsupported event ID %d", cb.eventID)
	}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if len(ss.callbacks) >= ss.server.cfg.Limits.Callbacks {
		return 0, rpcInternal("too many event callbacks, at most %d", ss.server.cfg.Limits.Callbacks)
	}
	id := ss.server.nextCallback.Add(1)
	ss.callbacks[id] = cb
	ss.listen()
	return id, nil
}

// deregister removes a callback of a kind.
func (ss *subscriptions) deregister(kind objectKind, id int32) error {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if cb, ok := ss.callbacks[id]; !ok || cb.kind != kind {
		return rpcInternal("%s event callback %d not registered", eventKinds[kind].name, id)
	}
	delete(ss.callbacks, id)
	return nil
}

// setLegacy turns the messages without callback id on for a connection, or off for uri "".
func (ss *subscriptions) setLegacy(eventID int32, uri string) error {
	if eventID < 0 || eventID >= legacyEventIDs {
		return rpcInternal("unsupported event ID %d", eventID)
	}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	switch {
	case uri == "" && ss.legacy[eventID] == "":
		return rpcInternal("domain event %d not registered", eventID)
	case uri != "" && ss.legacy[eventID] != "":
		return rpcInternal("domain event %d already registered", eventID)
	}
	ss.legacy[eventID] = uri
	ss.listen()
	return nil
}

func rpcInternal(format string, args ...any) error {
	return verr.New(verr.Internal, format, args...).In(verr.FromRPC)
}

// listen subscribes to the bus, once; mu is held.
func (ss *subscriptions) listen() {
	if ss.sub != nil || ss.closed {
		return
	}
	sub := ss.server.cfg.Events.Subscribe()
	ss.sub = sub
	ss.wg.Go(func() { ss.carry(sub) })
}

// carry sends what the client registered for, until the subscription ends.
func (ss *subscriptions) carry(sub *event.Subscription) {
	for ev := range sub.C() {
		for _, m := range ss.messages(ev) {
			if err := ss.w.Send(m.header(), m.payload); err != nil {
				ss.disconnect(err)
				return
			}
		}
	}
	if sub.Lost() {
		ss.disconnect(errEventsLost)
	}
}

// outgoing is one message to the client.
type outgoing struct {
	procedure int32
	payload   []byte
}

func (m outgoing) header() rpc.Header {
	return rpc.Header{
		Program: remoteProgram, Version: programVersion, Procedure: m.procedure, Type: rpc.Message, Serial: eventSerial,
	}
}

// messages returns what an event means to this client: a message for each callback that matches.
func (ss *subscriptions) messages(ev event.Event) []outgoing {
	kind, kinds := translate(ev)
	ss.mu.Lock()
	defer ss.mu.Unlock()
	var out []outgoing
	for _, k := range kinds {
		if kind == aboutDomain && k.eventID < legacyEventIDs && ss.legacy[k.eventID] == ev.URI {
			out = append(out, outgoing{k.legacy, k.body})
		}
		for id, cb := range ss.callbacks {
			if cb.kind == kind && cb.matches(ev, k.eventID) {
				out = append(out, outgoing{k.modern, k.forCallback(id)})
			}
		}
	}
	return out
}

func (cb callback) matches(ev event.Event, eventID int32) bool {
	return cb.eventID == eventID && cb.uri == ev.URI && (cb.object == nil || *cb.object == ev.UUID)
}

// close unsubscribes and waits for the goroutine.
func (ss *subscriptions) close() {
	ss.mu.Lock()
	ss.closed = true
	sub := ss.sub
	ss.mu.Unlock()
	if sub != nil {
		sub.Close()
	}
	ss.wg.Wait()
}
