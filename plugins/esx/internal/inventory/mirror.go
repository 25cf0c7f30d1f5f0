package inventory

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	"github.com/lodgevirt/lodge/plugins/esx/internal/follow"
)

// Options are how the endpoint is followed; the zero value is good for real ones.
type Options struct {
	follow.Options
	// Locate finds, once a session is there and before each watch, what is mirrored; nil is for all machines and no host. An error of
	// its own is why the mirror is stale.
	Locate func(ctx context.Context, client *vim25.Client) (Place, error)
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
	follower *follow.Follower
	state    atomic.Pointer[Snapshot]
}

// Start begins to follow an endpoint, which need not be there. It ends with Close, or when the endpoint is closed. The only error is
// that of an endpoint that is closed already.
func Start(e *endpoint.Endpoint, o Options, log hclog.Logger, tell func(Change)) (*Mirror, error) {
	m := &Mirror{}
	m.state.Store(&Snapshot{StaleSince: time.Now()})
	source := &source{mirror: m, locate: o.Locate, log: log.With("endpoint", e.Name()), tell: tell}
	var err error
	if m.follower, err = follow.Start(e, o.Options, source); err != nil {
		return nil, err
	}
	return m, nil
}

// Snapshot is the present state.
func (m *Mirror) Snapshot() *Snapshot { return m.state.Load() }

// Synced waits until the inventory was read for the first time, or says why it was not.
func (m *Mirror) Synced(ctx context.Context) error { return m.follower.Ready(ctx) }

// Close ends the mirror and waits for it, and for a call of the function given to Start that is under way. The last snapshot stays,
// stale.
func (m *Mirror) Close() { m.follower.Close() }
