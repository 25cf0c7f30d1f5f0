package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/boot"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/record"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Session is the right to make locks.
type Session struct {
	// Lease that the locks are bound to.
	Lease clientv3.LeaseID
	// Fence is the revision of the host's key as this process has written it last.
	Fence int64
}

// Granted is a lease's time: it lives at least for TTL after Sent, which is before the request left this machine.
type Granted struct {
	Lease clientv3.LeaseID
	TTL   time.Duration
	Sent  boot.Time
}

// Ends is when the lease may end at the earliest.
func (g Granted) Ends() boot.Time { return g.Sent.Add(g.TTL) }

// Grant makes a lease. One whose answer was lost ends by itself.
func (s *Store) Grant(ctx context.Context) (Granted, error) {
	ctx, cancel := s.request(ctx)
	defer cancel()
	c, err := s.connect(ctx)
	if err != nil {
		return Granted{}, err
	}
	sent := s.clock()
	resp, err := c.Grant(ctx, int64(s.conf.TTL/time.Second))
	if err != nil {
		return Granted{}, fmt.Errorf("make a lease: %w", explain(err))
	}
	return Granted{Lease: resp.ID, TTL: time.Duration(resp.TTL) * time.Second, Sent: sent}, nil
}

// Revoke ends a lease and all keys that are bound to it. One that is gone is no error.
func (s *Store) Revoke(ctx context.Context, lease clientv3.LeaseID) error {
	ctx, cancel := s.request(ctx)
	defer cancel()
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	if _, err := c.Revoke(ctx, lease); err != nil {
		if err = explain(err); !errors.Is(err, ErrLeaseGone) {
			return fmt.Errorf("end the lease: %w", err)
		}
	}
	return nil
}

// Left returns the time that a lease was granted for, and how much of it is left.
func (s *Store) Left(ctx context.Context, lease clientv3.LeaseID) (granted, left time.Duration, err error) {
	ctx, cancel := s.request(ctx)
	defer cancel()
	c, err := s.connect(ctx)
	if err != nil {
		return 0, 0, err
	}
	resp, err := c.TimeToLive(ctx, lease)
	if err != nil {
		return 0, 0, fmt.Errorf("ask for the lease: %w", explain(err))
	}
	if resp.TTL <= 0 {
		return 0, 0, ErrLeaseGone
	}
	return time.Duration(resp.GrantedTTL) * time.Second, time.Duration(resp.TTL) * time.Second, nil
}

// renewals is a stream of renewals, with one of them under way at a time.
type renewals struct {
	cancel context.CancelFunc
	stream grpc.BidiStreamingClient[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse]
}

// Renew has a lease live on for its whole time, or says ErrLeaseGone. It gives up after patience.
func (s *Store) Renew(ctx context.Context, lease clientv3.LeaseID, patience time.Duration) (Granted, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case s.renewing <- struct{}{}:
		defer func() { <-s.renewing }()
	case <-ctx.Done():
		return Granted{}, fmt.Errorf("renew the lease: %w", &Unsure{Err: ctx.Err()})
	}
	granted, err := s.renew(ctx, lease)
	if err != nil && !errors.Is(err, ErrLeaseGone) {
		// The answer may come yet, and must not be taken for that to the next request. The next stream goes to another member.
		if s.stream != nil {
			s.stream.cancel()
			s.stream = nil
		}
		return Granted{}, fmt.Errorf("renew the lease: no answer within %v: %w", patience, explain(err))
	}
	return granted, err
}

// renew sends a renewal and waits for the answer; called while renewing is held.
func (s *Store) renew(ctx context.Context, lease clientv3.LeaseID) (Granted, error) {
	if s.stream == nil {
		if err := s.openStream(ctx); err != nil {
			return Granted{}, err
		}
	}
	stop := context.AfterFunc(ctx, s.stream.cancel)
	defer stop()
	sent := s.clock()
	if err := s.stream.stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(lease)}); err != nil && !errors.Is(err, io.EOF) {
		return Granted{}, err
	}
	resp, err := s.stream.stream.Recv()
	if err != nil {
		return Granted{}, err
	}
	if !stop() {
		return Granted{}, ctx.Err() // the stream is being cancelled
	}
	if resp.GetTTL() <= 0 {
		return Granted{}, ErrLeaseGone
	}
	return Granted{Lease: lease, TTL: time.Duration(resp.GetTTL()) * time.Second, Sent: sent}, nil
}

// openStream makes the stream, which outlives the call's context; called while renewing is held.
func (s *Store) openStream(ctx context.Context) error {
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	streamCtx, cancel := context.WithCancel(clientv3.WithRequireLeader(context.WithoutCancel(ctx)))
	stop := context.AfterFunc(ctx, cancel)
	defer stop()
	stream, err := pb.NewLeaseClient(c.ActiveConnection()).LeaseKeepAlive(streamCtx, grpc.WaitForReady(true))
	if err != nil {
		cancel()
		return err
	}
	s.stream = &renewals{stream: stream, cancel: cancel}
	return nil
}

// Enter writes the host's key, bound to the lease, and returns its revision: from then on no older request of this host can be
// applied. Where another start of the machine has written the key, it is left alone unless adopt says that this is known to be over:
// two machines that were made from one image have the same instance.
func (s *Store) Enter(ctx context.Context, lease clientv3.LeaseID, adopt bool) (fence int64, err error) {
	key := s.keys.Host(s.id.Instance)
	value := record.Encode(record.Host{Name: s.conf.Host, Boot: s.id.Boot, Process: s.id.Process, PID: s.id.PID, Since: time.Now().UTC()})
	for range maxConflicts {
		seen, err := s.get(ctx, []clientv3.Op{clientv3.OpGet(key)})
		if err != nil {
			return 0, err
		}
		before := int64(0)
		for _, kv := range seen[0].GetKvs() {
			before = kv.GetModRevision()
			other, err := record.Decode[record.Host](kv.GetValue())
			if !adopt && (err != nil || other.Boot != s.id.Boot) {
				return 0, verr.New(verr.OperationInvalid, "another machine takes locks under this host's identity, key %q: if this machine "+
					"was copied from another one, stop the host and remove its state of plugin etcd", key)
			}
		}
		resp, err := s.txn(ctx,
			[]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", before)},
			[]clientv3.Op{clientv3.OpPut(key, value, clientv3.WithLease(lease))}, nil)
		if err != nil {
			return 0, fmt.Errorf("write the host's key: %w", err)
		}
		if resp.Succeeded {
			return resp.Header.GetRevision(), nil
		}
	}
	return 0, fmt.Errorf("write the host's key: somebody else was faster %d times", maxConflicts)
}

// AwaitGone returns nil when the host's key, as written with the fence, is deleted, which is when its lease ends; or an error when
// the context ends or etcd cannot tell.
func (s *Store) AwaitGone(ctx context.Context, fence int64) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	changes := c.Watch(ctx, s.keys.Host(s.id.Instance), clientv3.WithRev(fence+1), clientv3.WithFilterPut())
	for resp := range changes {
		if err := resp.Err(); err != nil {
			return fmt.Errorf("watch the host's key: %w", err)
		}
		if len(resp.Events) > 0 {
			return nil
		}
	}
	return fmt.Errorf("watch the host's key: %w", context.Cause(ctx))
}
