package adapter

import (
	"context"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/grpc/metadata"

	"github.com/lodgevirt/lodge/sdk/contract"
	"github.com/lodgevirt/lodge/sdk/plugin/handshake"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// fence keeps what a core that is gone has asked for apart from what its successor asks for. A plugin that gets no time for a moment may find
// calls of both at once, and a change of the first that came after the question of the second, what became of a guest, would make the
// answer untrue. So a call of an older core than the newest one is refused, one that is under way is ended, and a call of the newest
// core begins when those that change something have ended.
type fence struct {
	mu sync.Mutex // guards the fields below
	// newest is the epoch of the newest core that has called.
	newest uint64
	// changes are the calls under way that change something.
	changes map[*change]struct{}
}

// change is a call that changes something.
type change struct {
	epoch  uint64
	cancel context.CancelCauseFunc
	ended  chan struct{}
}

// enter lets a call in; leave is to be called at its end. A call without an epoch, as tests make them, is let in as it is.
func (f *fence) enter(ctx context.Context, method string) (_ context.Context, leave func(), err error) {
	epoch := epochOf(ctx)
	if epoch == 0 {
		return ctx, func() {}, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	c := &change{epoch: epoch, cancel: cancel, ended: make(chan struct{})}
	older, ok := f.admit(c, method)
	leave = func() {
		f.mu.Lock()
		delete(f.changes, c)
		f.mu.Unlock()
		cancel(context.Canceled)
		close(c.ended)
	}
	if !ok {
		leave()
		return nil, nil, verr.New(verr.OperationAborted, "the core that has sent this call has a successor")
	}
	if strings.HasPrefix(method, ownService) {
		return ctx, leave, nil // the successor makes itself known by these
	}
	for _, o := range older {
		select {
		case <-o.ended:
		case <-ctx.Done():
			leave()
			return nil, nil, verr.New(verr.OperationTimeout, "a call of an earlier core does not end: %w", ctx.Err())
		}
	}
	return ctx, leave, nil
}

// ownService begins the names of calls that are about the plugin itself.
const ownService = "/lodge.base."

// admit notes a call, and ends those of older cores, which it returns. It refuses a call of an older core.
func (f *fence) admit(c *change, method string) (older []*change, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.epoch < f.newest {
		return nil, false
	}
	f.newest = c.epoch
	for o := range f.changes {
		if o.epoch < c.epoch {
			o.cancel(verr.New(verr.OperationAborted, "the core has a successor"))
			older = append(older, o)
		}
	}
	if call, known := contract.Lookup(method); known && call.Class != basev1.CallClass_CALL_CLASS_QUERY {
		if f.changes == nil {
			f.changes = map[*change]struct{}{}
		}
		f.changes[c] = struct{}{}
	}
	return older, true
}

// epochOf reads the epoch of the core that has sent a call, or 0.
func epochOf(ctx context.Context) uint64 {
	v := metadata.ValueFromIncomingContext(ctx, handshake.EpochKey)
	if len(v) == 0 {
		return 0
	}
	epoch, err := strconv.ParseUint(v[0], 10, 64)
	if err != nil {
		return 0
	}
	return epoch
}
