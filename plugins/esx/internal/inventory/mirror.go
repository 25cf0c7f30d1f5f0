package inventory

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Options are how the endpoint is followed; the zero value is good for real ones.
type Options struct {
	// Locate finds, once a session is there and before each watch, what is mirrored; nil is for all machines and no host. An error of
	// its own is why the mirror is stale.
	Locate func(ctx context.Context, client *vim25.Client) (Place, error)
	// MaxWait is how long the endpoint may wait for something to happen before it says that nothing has, in whole seconds, 0 for 10 s.
	MaxWait time.Duration
	// Grace is how much longer the mirror waits before it takes the endpoint for lost, 0 for 10 s.
	Grace time.Duration
	// MaxObjects bounds the machines in one answer, 0 leaves it to the endpoint.
	MaxObjects int32
	// Setup bounds the making of a watch, 0 for 30 s.
	Setup time.Duration
	// MinPause and MaxPause bound the pause between a watch that failed and the next, 0 for 100 ms and 10 s.
	MinPause, MaxPause time.Duration
}

// Place is a part of an inventory.
type Place struct {
	// Root is the folder, datacenter or compute resource whose machines are mirrored, nil for all.
	Root *types.ManagedObjectReference
	// Host, if not nil, is the host that is followed too.
	Host *types.ManagedObjectReference
	// Only leaves out machines below Root that are on another host.
	Only bool
}

// Mirror follows the machines of one endpoint.
type Mirror struct {
	endpoint *endpoint.Endpoint
	options  Options
	log      hclog.Logger
	tell     func(Change)
	state    atomic.Pointer[Snapshot]
	// synced is closed after the first reading.
	synced  chan struct{}
	stopped chan struct{}
	cancel  context.CancelFunc
}

// Start begins to follow an endpoint, which need not be there. It ends with Close, or when the endpoint is closed. The only error is
// that of an endpoint that is closed already.
func Start(e *endpoint.Endpoint, o Options, log hclog.Logger, tell func(Change)) (*Mirror, error) {
	for _, t := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{
		{&o.MaxWait, 10 * time.Second},
		{&o.Grace, 10 * time.Second},
		{&o.Setup, 30 * time.Second},
		{&o.MinPause, 100 * time.Millisecond},
		{&o.MaxPause, 10 * time.Second},
	} {
		if *t.value <= 0 {
			*t.value = t.fallback
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	leave, err := e.Enter(cancel)
	if err != nil {
		cancel()
		return nil, err
	}
	m := &Mirror{
		endpoint: e, options: o, log: log.With("endpoint", e.Name()), tell: tell,
		synced: make(chan struct{}), stopped: make(chan struct{}), cancel: cancel,
	}
	m.state.Store(&Snapshot{StaleSince: time.Now()})
	go func() {
		defer close(m.stopped)
		defer leave()
		m.run(ctx)
	}()
	return m, nil
}

// Snapshot is the present state.
func (m *Mirror) Snapshot() *Snapshot { return m.state.Load() }

// Synced waits until the inventory was read for the first time, or says why it was not.
func (m *Mirror) Synced(ctx context.Context) error {
	select {
	case <-m.synced:
		return nil
	case <-m.stopped:
		return verr.New(verr.InvalidConn, "endpoint %q is closed", m.endpoint.Name()).In(verr.FromESX)
	case <-ctx.Done():
	}
	if cause := m.Snapshot().Cause; cause != nil {
		return cause
	}
	return fmt.Errorf("read inventory of endpoint %q: %w", m.endpoint.Name(), ctx.Err())
}

// Close ends the mirror and waits for it, and for a call of the function given to Start that is under way. The last snapshot stays,
// stale.
func (m *Mirror) Close() {
	m.cancel()
	<-m.stopped
}

// run follows the endpoint until the end, with pauses that grow while nothing succeeds.
func (m *Mirror) run(ctx context.Context) {
	var left *watch // could not be removed at the endpoint, and is if the session lives
	pause := m.options.MinPause
	for ctx.Err() == nil {
		s, err := m.endpoint.Session(ctx)
		if err != nil {
			m.lose(ctx, err)
			if s, err = m.endpoint.Await(ctx); err != nil {
				break
			}
		}
		if left != nil && left.client == s.Client {
			_ = left.close(ctx) // what is not gone now ends with the session
		}
		var synced bool
		left, synced, err = m.follow(ctx, s)
		m.lose(ctx, m.endpoint.Report(s, err))
		if synced {
			pause = m.options.MinPause
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, m.options.MaxPause)
	}
	m.lose(ctx, ctx.Err())
}

// follow reads everything and then what changes, until something fails. It says whether it has read everything, and returns a watch
// that is left over at the endpoint.
func (m *Mirror) follow(ctx context.Context, s *endpoint.Session) (left *watch, synced bool, err error) {
	w := &watch{client: s.Client, options: m.options}
	defer func() {
		if w.close(ctx) != nil {
			left = w
		}
	}()
	if err := w.open(ctx); err != nil {
		return nil, false, err
	}
	r := newReading(w.only())
	for {
		set, err := w.next(ctx)
		if err != nil {
			return nil, synced, err
		}
		if set != nil {
			if err := r.apply(set); err != nil {
				return nil, synced, err
			}
			if set.Truncated != nil && *set.Truncated {
				continue
			}
		}
		if set != nil || !synced {
			m.publish(r.snapshot(), !synced)
		}
		synced = true
	}
}

// publish makes a reading the present state and tells what it changes.
func (m *Mirror) publish(now *Snapshot, anew bool) {
	before := m.state.Swap(now)
	if !before.Synced {
		close(m.synced)
	} else {
		for _, change := range diff(before, now) {
			m.tell(change)
		}
		if before.Host != now.Host && !anew {
			m.tell(Change{Kind: HostChanged, Snapshot: now})
		}
	}
	if anew {
		m.log.Info("inventory read", "machines", len(now.sorted), "unidentified", now.Unidentified)
		m.tell(Change{Kind: Resynchronised, Snapshot: now})
	}
}

// lose marks the state as stale and tells it, once for each kind of cause, but not after the end.
func (m *Mirror) lose(ctx context.Context, cause error) {
	before := m.Snapshot()
	since := before.StaleSince
	if since.IsZero() {
		since = time.Now()
	}
	now := before.stale(since, cause)
	m.state.Store(now)
	news := before.StaleSince.IsZero() || before.Cause == nil || codeOf(cause) != codeOf(before.Cause)
	if news && ctx.Err() == nil {
		m.log.Warn("inventory lost", "error", cause)
		m.tell(Change{Kind: Stale, Snapshot: now})
	}
}

// codeOf is the code of an error, OK for none.
func codeOf(err error) verr.Code {
	if e := verr.From(err); e != nil {
		return e.Code
	}
	return verr.OK
}
