package manager

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/guard"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/store"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

// keep renews the lease until the context ends.
func (m *Manager) keep(ctx context.Context) {
	failed := false
	for pause(ctx, m.untilRenewal(failed)) {
		failed = !m.renew(ctx)
		m.judge()
	}
}

// oversee tells the core when the lease is not renewed for too long, and not only once a renewal has been given up.
func (m *Manager) oversee(ctx context.Context) {
	for pause(ctx, m.untilJudgement()) {
		m.judge()
	}
}

// untilJudgement is how long it is until the lease counts as late if it is not renewed, and a second at most.
func (m *Manager) untilJudgement() time.Duration {
	const least, most = 20 * time.Millisecond, time.Second
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.work == nil || m.late {
		return most / 4
	}
	l := m.work.page.Lease()
	if l.ID == 0 {
		return most / 4
	}
	return min(max(l.Late().Sub(m.opts.Clock()), least), most)
}

// untilRenewal is how long it is until the lease is to be renewed. The guard may have renewed it too.
func (m *Manager) untilRenewal(failed bool) time.Duration {
	const idle = 500 * time.Millisecond
	m.mu.Lock()
	w, adopted := m.work, m.right.adopted
	m.mu.Unlock()
	if w == nil || !adopted {
		return idle
	}
	l := w.page.Lease()
	due := l.Ends.Add(guard.Interval(l.TTL) - l.TTL).Sub(m.opts.Clock())
	if failed {
		return max(due, min(idle/2, l.TTL/24))
	}
	return max(due, 0)
}

// renew renews the lease once, and says whether it went well. Without a lease there is nothing to do.
func (m *Manager) renew(ctx context.Context) bool {
	m.mu.Lock()
	st, w, r := m.store, m.work, m.right
	m.mu.Unlock()
	if w == nil || !r.adopted {
		return true
	}
	granted, err := st.Renew(ctx, r.lease(), guard.Patience(r.TTL))
	switch {
	case err == nil:
		w.page.Raise(r.Lease, granted.Ends())
	case errors.Is(err, store.ErrLeaseGone):
		m.leaseGone(ctx, r.Lease)
	case ctx.Err() == nil:
		m.log.Debug("lease is not renewed", "error", err)
	}
	return err == nil
}

// freshen renews a lease that is late when etcd has just answered, so that an answer does not say that it is.
func (m *Manager) freshen(ctx context.Context) {
	m.mu.Lock()
	late := m.late
	m.mu.Unlock()
	if late && m.renew(ctx) {
		m.judge()
	}
}

// judge looks how sure the locks are, and tells the core if that has changed. A third of the lease's time before its end, they count
// as lost, from the moment on at which the guard would act; when the lease is renewed before that, they are held as before. A
// lease that has ended before its time is told of once there was time to take the locks again.
func (m *Manager) judge() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.work == nil {
		return
	}
	l, now := m.work.page.Lease(), m.opts.Clock()
	late := m.right.adopted && l.ID != 0 && now >= l.Late()
	if late != m.late {
		m.late = late
		if late {
			m.log.Error("lease is not renewed", "left", l.Ends.Sub(now), "guests", len(m.owners))
		} else {
			m.log.Info("lease is renewed again", "guests", len(m.owners))
			m.kick()
		}
		until := timestamppb.New(l.Safe().Wall(now))
		m.tellAll(there, func(change *pb.WatchResponse) {
			if late {
				change.Until = until
			}
		})
		m.tellAll(again, func(change *pb.WatchResponse) {
			if late {
				change.Until = until
			}
		})
	}
	if m.lost != 0 && !m.lostTold && now.Sub(m.lost) > guard.MissingGrace(m.right.TTL)-guard.LostGrace(m.right.TTL) {
		m.lostTold = true
		m.tellAll(missing, func(*pb.WatchResponse) {})
	}
}

// tellAll tells of all locks with a status; called with mu.
func (m *Manager) tellAll(s status, more func(*pb.WatchResponse)) {
	for _, o := range m.owners {
		for _, h := range o.locks {
			if h.status == s && o.claimed {
				change := &pb.WatchResponse{Lease: m.lease(o, h)}
				more(change)
				m.Publish(change)
			}
		}
	}
}

// watchLease has the end of the lease noticed at once, and not only by the next renewal: an operator may have revoked it, or a member of
// the cluster that was the leader and did not know that it is no more.
func (m *Manager) watchLease(ctx context.Context) {
	const again = 500 * time.Millisecond
	for pause(ctx, again) {
		m.mu.Lock()
		st, r := m.store, m.right
		m.mu.Unlock()
		if st == nil || r.fence == 0 {
			continue
		}
		if err := st.AwaitGone(ctx, r.fence); err != nil {
			continue
		}
		m.log.Warn("host's key is gone")
		m.mu.Lock()
		if m.right.Lease == r.Lease {
			m.right.fence = 0
		}
		m.mu.Unlock()
		if m.renew(ctx) { // somebody has deleted the key alone
			m.kick()
		}
	}
}
