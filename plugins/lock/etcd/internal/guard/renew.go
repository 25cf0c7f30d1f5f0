package guard

import (
	"context"
	"errors"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/boot"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/store"
)

// clientLease is etcd's name of a lease.
type clientLease = clientv3.LeaseID

// openStore connects to etcd as the plugin does.
func openStore(h *Hello) (renewer, error) { return store.Open(h.Config, h.Identity, boot.Now) }

// Interval is how often a lease is renewed, Patience how long one renewal may take, and Overdue how long after a renewal the next one
// is missed.
func Interval(ttl time.Duration) time.Duration { return ttl / 6 }

// Patience is how long one renewal may take: between one that fails and the moment at which the locks are told to be in danger there
// is time for several.
func Patience(ttl time.Duration) time.Duration { return ttl / 8 }

// Overdue is how long after a renewal the guard takes the next one for missed: two intervals.
func Overdue(ttl time.Duration) time.Duration { return ttl / 3 }

// renew renews the lease whenever the plugin does not, until the context ends.
func (g *Guard) renew(ctx context.Context) {
	var link renewer
	var with *Hello
	defer func() {
		if link != nil {
			_ = link.Close()
		}
	}()
	for pause(ctx, g.untilOverdue()) {
		g.mu.Lock()
		hello, lease, needed := g.hello, g.page.Lease(), len(g.table.guests) > 0
		g.mu.Unlock()
		if !needed || hello == nil || lease.ID == 0 || !overdue(g.clock(), lease) {
			continue
		}
		if link != nil && with != hello { // the configuration is another one
			_ = link.Close()
			link = nil
		}
		if link == nil {
			var err error
			if link, err = g.open(hello); err != nil {
				g.log.Error("guard cannot connect to etcd", "error", err)
				link = nil
				continue
			}
			with = hello
			g.log.Warn("guard renews the lease in the plugin's place", "lease", lease.ID)
		}
		granted, err := link.Renew(ctx, clientLease(lease.ID), Patience(lease.TTL))
		switch {
		case err == nil:
			g.page.Raise(lease.ID, granted.Ends())
		case errors.Is(err, store.ErrLeaseGone):
			g.leaseGone(lease)
		default:
			g.log.Warn("guard cannot renew the lease", "error", err, "left", lease.Ends.Sub(g.clock()))
		}
	}
}

func overdue(now boot.Time, l Lease) bool { return now.Sub(l.Ends)+l.TTL >= Overdue(l.TTL) }

// untilOverdue is how long the guard may wait before it looks after the lease again.
func (g *Guard) untilOverdue() time.Duration {
	l := g.page.Lease()
	if l.ID == 0 || l.TTL <= 0 {
		return time.Second
	}
	left := Overdue(l.TTL) - (g.clock().Sub(l.Ends) + l.TTL)
	return min(max(left, Interval(l.TTL)/4), Interval(l.TTL))
}

// leaseGone gives all guests a moment: if the plugin does not get their locks again until then, they end.
func (g *Guard) leaseGone(l Lease) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.page.Lease().ID != l.ID {
		return
	}
	at := g.clock().Add(MissingGrace(l.TTL))
	for _, e := range g.table.guests {
		if e.Lost == 0 || e.Lost > at {
			e.Lost = at
		}
	}
	g.log.Error("etcd has ended the lease before its time", "lease", l.ID)
	g.events.wake()
}

// MissingGrace is how long a guest may live after its lease has ended before its time, so that its locks can be taken again: a
// machine that is busy needs a few seconds for ten thousand of them.
func MissingGrace(ttl time.Duration) time.Duration { return ttl/3 + time.Second }

// LostGrace is how long a guest may live once somebody else has one of its locks, so that the core can end it, or stop it, in its own
// way.
func LostGrace(ttl time.Duration) time.Duration { return Margin(ttl) + time.Second }

// pause waits, and says whether the context goes on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
