package follow

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Source is a part of the inventory that somebody keeps a picture of. Its methods are called by one goroutine, one at a time.
type Source interface {
	// Open says what is to be watched. What was read before is void: Apply is told everything anew.
	Open(ctx context.Context, w *Watch) error
	// Apply takes in a change. An error ends the watch.
	Apply(update types.ObjectUpdate) error
	// Publish is called when what was applied is a whole picture; first says that it is the first of its watch.
	Publish(first bool)
	// Lost is called when the watch has ended, or none can be begun, and at the end of the follower. It may be called many times in a row.
	Lost(ctx context.Context, cause error)
}

// Follower follows a source at an endpoint.
type Follower struct {
	endpoint *endpoint.Endpoint
	options  Options
	source   Source
	// ready is closed after the first whole picture.
	ready   chan struct{}
	stopped chan struct{}
	cancel  context.CancelFunc

	mu sync.Mutex
	// cause is why nothing is followed now, nil if something is.
	cause error
}

// Start begins to follow an endpoint, which need not be there. It ends with Close, or when the endpoint is closed. The only error is
// that of an endpoint that is closed already.
func Start(e *endpoint.Endpoint, o Options, source Source) (*Follower, error) {
	ctx, cancel := context.WithCancel(context.Background())
	leave, err := e.Enter(cancel)
	if err != nil {
		cancel()
		return nil, err
	}
	f := &Follower{
		endpoint: e, options: o.complete(), source: source, ready: make(chan struct{}), stopped: make(chan struct{}), cancel: cancel,
	}
	go func() {
		defer close(f.stopped)
		defer leave()
		f.run(ctx)
	}()
	return f, nil
}

// Ready waits until the first whole picture was published, or says why it was not.
func (f *Follower) Ready(ctx context.Context) error {
	select {
	case <-f.ready:
		return nil
	case <-f.stopped:
		select {
		case <-f.ready:
			return nil
		default:
		}
		return verr.New(verr.InvalidConn, "endpoint %q is closed", f.endpoint.Name()).In(verr.FromESX)
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cause != nil {
		return f.cause
	}
	return fmt.Errorf("read inventory of endpoint %q: %w", f.endpoint.Name(), ctx.Err())
}

// Close ends the follower and waits for it, and for a method of the source that is under way.
func (f *Follower) Close() {
	f.cancel()
	<-f.stopped
}

// run follows the endpoint until the end, with pauses that grow while nothing succeeds.
func (f *Follower) run(ctx context.Context) {
	var left *Watch // could not be removed at the endpoint, and is if the session lives
	pause := f.options.MinPause
	for ctx.Err() == nil {
		s, err := f.endpoint.Session(ctx)
		if err != nil {
			f.lose(ctx, err)
			if s, err = f.endpoint.Await(ctx); err != nil {
				break
			}
		}
		if left != nil && left.client == s.Client {
			_ = left.close(ctx) // what is not gone now ends with the session
		}
		var whole bool
		left, whole, err = f.follow(ctx, s)
		f.lose(ctx, f.endpoint.Report(s, err))
		if whole {
			pause = f.options.MinPause
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, f.options.MaxPause)
	}
	f.lose(ctx, ctx.Err())
}

// follow reads everything and then what changes, until something fails. It says whether it has read everything, and returns a watch
// that is left over at the endpoint.
func (f *Follower) follow(ctx context.Context, s *endpoint.Session) (left *Watch, whole bool, err error) {
	w := &Watch{client: s.Client, options: f.options}
	defer func() {
		if w.close(ctx) != nil {
			left = w
		}
	}()
	if err := w.open(ctx, f.source); err != nil {
		return nil, false, err
	}
	for {
		set, err := w.next(ctx)
		if err != nil {
			return nil, whole, err
		}
		if set != nil {
			if err := f.apply(set); err != nil {
				return nil, whole, err
			}
			if set.Truncated != nil && *set.Truncated {
				continue
			}
		}
		if set != nil || !whole {
			f.publish(!whole)
		}
		whole = true
	}
}

func (f *Follower) apply(set *types.UpdateSet) error {
	for _, filter := range set.FilterSet {
		for _, update := range filter.ObjectSet {
			if err := f.source.Apply(update); err != nil {
				return fmt.Errorf("update of %s: %w", update.Obj.Value, err)
			}
		}
	}
	return nil
}

func (f *Follower) publish(first bool) {
	f.setCause(nil)
	f.source.Publish(first)
	select {
	case <-f.ready:
	default:
		close(f.ready)
	}
}

func (f *Follower) lose(ctx context.Context, cause error) {
	f.setCause(cause)
	f.source.Lost(ctx, cause)
}

func (f *Follower) setCause(cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cause = cause
}
