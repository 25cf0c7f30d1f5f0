package storage

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vmware/govmomi/object"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	"github.com/lodgevirt/lodge/plugins/esx/internal/follow"
	"github.com/lodgevirt/lodge/plugins/esx/internal/storage/internal/task"
	"github.com/lodgevirt/lodge/sdk/inventory"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Options are how a host is followed; the zero value is good for real ones.
type Options struct {
	// Follow is for the host, and for tasks.
	Follow follow.Options
	// Patience is how long the endpoint may be out of reach before a task is given up, 0 for 2 minutes; Farewell bounds the cancelling of
	// one, 0 for 10 s.
	Patience, Farewell time.Duration
	// Stall is how long nothing may move in a transfer, 0 for 1 minute.
	Stall time.Duration
}

// Host finds the host that is followed. It is called once for each reading, and its deadline is short.
type Host = func(ctx context.Context) (*object.HostSystem, error)

// Store is the storage of one host.
type Store struct {
	endpoint *endpoint.Endpoint
	follower *follow.Follower
	// pools are by UUID, as they were read last; the map never changes.
	pools atomic.Pointer[map[string]backend]
}

// Start begins to follow a host, which need not be there, and puts its pools into the feed. It ends with Close, or when the endpoint is
// closed. The only error is that of an endpoint that is closed already.
func Start(e *endpoint.Endpoint, host Host, feed *inventory.Feed, log hclog.Logger) (*Store, error) {
	return StartWith(e, host, feed, log, Options{})
}

// StartWith is Start with options.
func StartWith(e *endpoint.Endpoint, host Host, feed *inventory.Feed, log hclog.Logger, o Options) (*Store, error) {
	s := &Store{endpoint: e}
	s.pools.Store(&map[string]backend{})
	reading := newReading(s, host, feed, log.With("endpoint", e.Name()), o)
	var err error
	if s.follower, err = follow.Start(e, o.Follow, reading); err != nil {
		return nil, err
	}
	return s, nil
}

// Ready waits until the host's storage was read for the first time, or says why it was not.
func (s *Store) Ready(ctx context.Context) error { return s.follower.Ready(ctx) }

// Close ends the following and waits for it. The pools stay as they were read last.
func (s *Store) Close() { s.follower.Close() }

// pool finds the backend of a pool.
func (s *Store) pool(ref *pb.Pool) (backend, error) {
	if b := (*s.pools.Load())[ref.GetUuid()]; b != nil {
		return b, nil
	}
	return nil, verr.New(verr.NoStoragePool, "no storage pool with matching uuid '%s' (%s) at endpoint %q",
		ref.GetUuid(), ref.GetName(), s.endpoint.Name()).In(verr.FromStorage)
}

// tasks are how tasks of the endpoint are run.
func (o Options) tasks(e *endpoint.Endpoint) task.Runner {
	return task.Runner{Endpoint: e, Follow: o.Follow, Patience: o.Patience, Farewell: o.Farewell}
}
