// Package store does to etcd what locks need, each thing in one transaction.
//
// How two holders are kept apart: every holder has a key, and whoever wants a resource makes its key in a transaction whose
// comparisons say that nobody is in the way. For one who does not share, that is a comparison over the whole range of holders, which
// holds only for an empty range; for one who shares, that the key of one who does not is missing. etcd applies transactions one
// after another, so of two that want the same thing the second one finds the first one's key. A transaction has all resources
// of an owner, so it takes all or none.
//
// How a request that comes late is kept out: one whose answer did not come may be applied at any time after, even when its
// sender has given up or is dead. Every transaction that writes therefore compares the revision of the key of its host. Whoever
// does not know what became of a request, or takes over from another process, writes that key anew (Enter), and from then on no
// older request can be applied.
//
// How somebody is found out who had a resource and gave it back: each resource has a record of its last holder, without a lease, whose
// revision is the resource's epoch. A holder that does not share writes it; one that shares writes it only after one that did not.
// A guest that is suspended remembers the epoch, and goes on only if it is still the same. Who releases a resource for good takes the
// record away, and that is another epoch too. The record of those that share stays, since some of them may be suspended.
//
// A Store owns its connections and keeps no state besides; all methods are safe concurrently and bounded by request_timeout for each
// request. Errors are ErrLeaseGone, ErrFenced, ErrNoHost, an Unsure, a *verr.Error for what trying again will not change, or others, after which
// the same may be tried again.
package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/boot"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/config"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/record"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// MaxResources is how many resources one call may take: a transaction of etcd has at most 128 comparisons and 128 changes
// (--max-txn-ops), and each resource may need two of both.
const MaxResources = 60

const (
	// maxOps is etcd's limit.
	maxOps = 120
	// maxAnswer is the largest answer that is taken, in bytes: what others have written may be of any size.
	maxAnswer = 16 << 20
	// maxConflicts is how often somebody else may be faster.
	maxConflicts = 50
	// pingAfter and pingWait find a connection whose other end is gone without a word while requests are under way on it. gRPC makes no
	// more frequent pings. etcd takes pings on a connection without requests for an attack: it hangs up on the third one, whereupon
	// gRPC doubles the time between pings, each time.
	pingAfter, pingWait = 10 * time.Second, 3 * time.Second
)

var (
	// ErrLeaseGone says that etcd does not know the lease any more: all keys that were bound to it are gone.
	ErrLeaseGone = errors.New("the etcd lease is gone")
	// ErrFenced says that the host's key was written after this process has written it: by its successor, or by itself.
	ErrFenced = errors.New("the host's key was written anew")
	// ErrNoHost says that the host's key is missing, most likely because the lease is gone.
	ErrNoHost = errors.New("the host's key is missing")
)

// Unsure is an error after which a change may have been made, or may still be.
type Unsure struct{ Err error }

// Error tells the cause.
func (u *Unsure) Error() string { return u.Err.Error() }

// Unwrap returns the cause.
func (u *Unsure) Unwrap() error { return u.Err }

// Identity is who works here.
type Identity struct {
	// Instance tells hosts apart: made at random, and kept.
	Instance string
	// Process tells the processes of a host apart.
	Process string
	// Boot is the host's start.
	Boot string
	// PID of the process.
	PID int
}

// Store is a connection to the cluster.
type Store struct {
	conf  *config.Config
	keys  record.Keys
	id    Identity
	clock boot.Clock

	// opening is held by whoever makes the client, or ends it; closed says that there shall be none.
	opening chan struct{}
	closed  bool
	client  atomic.Pointer[clientv3.Client]

	// renewing is held by whoever uses stream.
	renewing chan struct{}
	stream   *renewals
}

// Open makes a Store. It checks the files that the configuration names, and does not wait for a connection.
func Open(conf *config.Config, id Identity, clock boot.Clock) (*Store, error) {
	if _, err := conf.TLS(); err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	if _, err := conf.Password(); err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	return &Store{
		conf: conf, keys: record.Keys{Prefix: conf.Prefix}, id: id, clock: clock,
		opening: make(chan struct{}, 1), renewing: make(chan struct{}, 1),
	}, nil
}

// connect returns the client, which is made with the first request: where there is a user it asks for a token at once, and fails if
// no member is there.
func (s *Store) connect(ctx context.Context) (*clientv3.Client, error) {
	if c := s.client.Load(); c != nil {
		return c, nil
	}
	select {
	case s.opening <- struct{}{}:
		defer func() { <-s.opening }()
	case <-ctx.Done():
		return nil, fmt.Errorf("connect to etcd: %w", ctx.Err())
	}
	if c := s.client.Load(); c != nil {
		return c, nil
	}
	if s.closed {
		return nil, fmt.Errorf("connect to etcd: %w", context.Canceled)
	}
	tls, err := s.conf.TLS()
	if err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	password, err := s.conf.Password()
	if err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	c, err := clientv3.New(clientv3.Config{
		Endpoints: s.conf.Endpoints, TLS: tls, Username: s.conf.User, Password: password, Logger: zap.NewNop(),
		DialTimeout: s.conf.DialTimeout, DialKeepAliveTime: pingAfter, DialKeepAliveTimeout: pingWait,
		MaxCallRecvMsgSize: maxAnswer,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			// A member that comes back shall be found well before the locks are lost.
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: s.conf.TTL / 20},
			MinConnectTimeout: s.conf.DialTimeout,
		})},
	})
	if err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", explain(err))
	}
	s.client.Store(c)
	return c, nil
}

// Close ends the connections; calls under way fail.
func (s *Store) Close() error {
	s.opening <- struct{}{}
	defer func() { <-s.opening }()
	s.closed = true
	c := s.client.Swap(nil)
	if c == nil {
		return nil
	}
	// This ends the stream too, and so whoever waits for it.
	if err := c.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("disconnect from etcd: %w", err)
	}
	s.renewing <- struct{}{}
	defer func() { <-s.renewing }()
	if s.stream != nil {
		s.stream.cancel()
		s.stream = nil
	}
	return nil
}

// Place returns where a lock lies: its key.
func (s *Store) Place(id record.ID, shared bool, l record.Life) string {
	return s.keys.Holder(id, shared, s.id.Instance, l)
}

// get reads keys in as few transactions as can be. Each operation's answer is one of the result.
func (s *Store) get(ctx context.Context, ops []clientv3.Op) ([]*pb.RangeResponse, error) {
	answers := make([]*pb.RangeResponse, 0, len(ops))
	for part := range slices.Chunk(ops, maxOps) {
		resp, err := s.txn(ctx, nil, part, nil)
		if err != nil {
			var unsure *Unsure
			if errors.As(err, &unsure) { // nothing was to be changed
				err = unsure.Err
			}
			return nil, fmt.Errorf("read locks: %w", err)
		}
		for _, r := range resp.Responses {
			answers = append(answers, r.GetResponseRange())
		}
	}
	return answers, nil
}

// txn makes a transaction, bounded in time.
func (s *Store) txn(ctx context.Context, when []clientv3.Cmp, then, otherwise []clientv3.Op) (*clientv3.TxnResponse, error) {
	ctx, cancel := s.request(ctx)
	defer cancel()
	c, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := c.Txn(ctx).If(when...).Then(then...).Else(otherwise...).Commit()
	if err != nil {
		return nil, explain(err)
	}
	return resp, nil
}

// request bounds a request. A member that has no leader answers so at once.
func (s *Store) request(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(clientv3.WithRequireLeader(ctx), s.conf.RequestTimeout)
}

// final are errors of etcd that trying again will not change, with what to do about them.
var final = []struct {
	err  error
	code verr.Code
	do   string
}{
	{rpctypes.ErrNoSpace, verr.OperationFailed, "etcd has no space left: compact and defragment it, then disarm its alarm"},
	{rpctypes.ErrCorrupt, verr.OperationFailed, "etcd has found itself corrupt: mend or replace the member"},
	{rpctypes.ErrPermissionDenied, verr.AuthFailed, "etcd refuses this user: grant it reading and writing below prefix"},
	{rpctypes.ErrAuthFailed, verr.AuthFailed, "etcd refuses this user's password: check user and password_file"},
	{rpctypes.ErrUserEmpty, verr.AuthFailed, "etcd wants a user: set user and password_file"},
	{rpctypes.ErrTooManyOps, verr.ConfigUnsupported, "etcd's --max-txn-ops is less than the 128 that it mostly is"},
	{rpctypes.ErrRequestTooLarge, verr.ConfigUnsupported, "the locks' names together are more than etcd's --max-request-bytes"},
}

// explain sorts etcd's errors: see the package comment.
func explain(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return ErrLeaseGone
	}
	for _, f := range final {
		if errors.Is(err, f.err) {
			return verr.New(f.code, "%s: %w", f.do, err)
		}
	}
	if st, ok := status.FromError(err); ok && st.Code() == codes.ResourceExhausted && !errors.Is(err, rpctypes.ErrTooManyRequests) {
		return verr.New(verr.OperationFailed, "etcd's answer is larger than %d bytes: somebody has written there what is no lock: %w", maxAnswer, err)
	}
	return &Unsure{Err: err}
}
