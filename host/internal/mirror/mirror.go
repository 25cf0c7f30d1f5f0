// Package mirror is the core's picture of a connection whose hypervisor keeps its objects itself.
//
// A Mirror follows one connection through its driver's stream (lodge.inventory.v1) and answers every question from memory: domains with
// their definitions and snapshots, networks, interfaces, what stands behind the connection. Its storage pools are in an inventory of
// package pool. Changes are passed on to the driver, one at a time for each domain, and are in the picture before the client is
// answered. Events are sent once the picture has what they tell of.
//
// When the driver's process ends or the stream breaks, the picture stays until a new stream has told everything; what is different then is
// told as events. A change whose driver has ended in the middle is a success if the new picture shows that it was made. No lock is held
// across a call.
package mirror

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/host/internal/event"
	"github.com/lodgevirt/lodge/host/internal/pool"
	hypervisorv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Waits of the package.
const (
	// jobWait is how long a change waits for another one of the same domain.
	jobWait = 30 * time.Second
	// seenWait is how long a change waits until the picture has it.
	seenWait = 10 * time.Second
	// resyncWait is how long a change whose driver has ended waits for a new picture.
	resyncWait = 30 * time.Second
)

// maxObjects bounds the objects of a kind.
const maxObjects = 1 << 17

// Config is what a Mirror works with.
type Config struct {
	// URI is the connection in its canonical form: "esx:///lab".
	URI string
	// Connection is its name for the driver.
	Connection string
	// Plugin carries calls to the driver; it waits for the driver to be ready and enforces classes and deadlines.
	Plugin grpc.ClientConnInterface
	// Events takes what happens.
	Events *event.Bus
	// Tasks takes the long work on storage that is under way.
	Tasks *pool.Tasks
	// Log is for what no client is told.
	Log hclog.Logger
}

// Mirror is the picture of one connection. Its methods are safe concurrently.
type Mirror struct {
	cfg   Config
	pools *pool.Inventory

	mu sync.RWMutex // guards all below; never held across a call
	// host is what stands behind the connection.
	host     *hypervisorv1.ProbeResponse
	byUUID   map[uuid.UUID]*Domain
	byName   map[string][]*Domain // folders of a hypervisor may have guests of the same name
	byID     map[int32]*Domain
	networks map[uuid.UUID]*network
	ifaces   map[string]*iface
	// progress is how far it has come.
	progress progress
	changed  chan struct{} // closed and replaced when progress changes
}

// progress is how far a picture has come.
type progress struct {
	// synced: it has been true once.
	synced bool
	// stream counts the streams that have told everything, seq is the last message of the present one.
	stream, seq uint64
	// cause is why the hypervisor is out of reach, nil while it is not.
	cause error
}

// New returns an empty picture; Follow fills it.
func New(cfg Config) *Mirror {
	return &Mirror{
		cfg: cfg,
		pools: pool.NewFollowed(pool.Followed{
			URI: cfg.URI, Connection: cfg.Connection, Driver: cfg.Plugin, Events: cfg.Events, Tasks: cfg.Tasks, Log: cfg.Log,
		}),
		byUUID: map[uuid.UUID]*Domain{}, byName: map[string][]*Domain{}, byID: map[int32]*Domain{},
		networks: map[uuid.UUID]*network{}, ifaces: map[string]*iface{}, changed: make(chan struct{}),
	}
}

// URI is the connection in its canonical form.
func (m *Mirror) URI() string { return m.cfg.URI }

// Pools are the connection's storage pools.
func (m *Mirror) Pools() *pool.Inventory { return m.pools }

// Host is what stands behind the connection. It fails while that is not known.
func (m *Mirror) Host(context.Context) (*hypervisorv1.ProbeResponse, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.host == nil {
		return nil, verr.New(verr.OperationFailed, "the host of %s is not known yet", m.cfg.URI)
	}
	return m.host, nil
}

// Cause is why the hypervisor is out of reach, nil while it is not.
func (m *Mirror) Cause() error { return m.now().cause }

// Ready waits until the picture is or was true once. It fails with the reason if the hypervisor is out of reach before that.
func (m *Mirror) Ready(ctx context.Context) error {
	p, err := m.wait(ctx, func(p progress) bool { return p.synced || p.cause != nil })
	switch {
	case p.synced:
		return nil
	case p.cause != nil:
		return p.cause
	}
	return verr.New(verr.OperationTimeout, "%s has not answered yet: %w", m.cfg.URI, err)
}

// wait waits for progress and returns what there is then, or when the context ends.
func (m *Mirror) wait(ctx context.Context, enough func(progress) bool) (progress, error) {
	for {
		m.mu.RLock()
		p, changed := m.progress, m.changed
		m.mu.RUnlock()
		if enough(p) {
			return p, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return p, ctx.Err()
		}
	}
}

// note changes the progress.
func (m *Mirror) note(change func(*progress)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.progress)
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *Mirror) now() progress {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.progress
}

// made passes on what makes or finds an object, and returns the object's UUID once the picture has it.
func (m *Mirror) made(ctx context.Context, do func(context.Context) (id string, seq uint64, err error)) (uuid.UUID, error) {
	var id uuid.UUID
	err := m.change(ctx, func(ctx context.Context) (uint64, error) {
		text, seq, err := do(ctx)
		if err == nil {
			id, err = uuid.Parse(text)
		}
		return seq, err
	}, nil)
	return id, err
}

// change passes a change on to the driver, which answers with the number of the message that has it, and returns when the picture has it, too.
// If the driver's process ends in the middle, done looks in the next picture whether the change was made; it may be nil.
func (m *Mirror) change(ctx context.Context, do func(context.Context) (seq uint64, err error), done func() bool) error {
	ctx = context.WithoutCancel(ctx) // the change goes on although its client may be gone; each call has its own deadline
	before := m.now()
	seq, err := do(ctx)
	if err != nil {
		if done == nil || !lost(err) {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, resyncWait)
		defer cancel()
		if _, werr := m.wait(ctx, func(p progress) bool { return p.stream > before.stream }); werr != nil || !done() {
			return err
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, seenWait)
	defer cancel()
	if _, err := m.wait(ctx, func(p progress) bool { return p.stream != before.stream || p.seq >= seq }); err != nil {
		m.cfg.Log.Warn("a change was made that is not seen yet", "uri", m.cfg.URI, "message", seq)
	}
	return nil
}
