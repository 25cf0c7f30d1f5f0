package manager

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/client"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

// Times of the watch.
const (
	lookEvery = time.Second
	// lookTime bounds one question to the daemon.
	lookTime = 3 * time.Second
	// wholeEvery is after how many looks the leases themselves are asked for, and not only the lockspaces.
	wholeEvery = 10
	// tidyEvery is the time between two looks for guests that are gone.
	tidyEvery = time.Minute
	// mendTime bounds giving up or taking again leases by the watch itself, mendPause is the time between attempts to take them.
	mendTime  = 20 * time.Second
	mendPause = 10 * time.Second
)

// usualIOTimeout is sanlock's own, in seconds.
const usualIOTimeout = 10

// After so many I/O timeouts without a renewal sanlock warns of losing a lockspace, and loses it.
const (
	warnAfter = 6
	failAfter = 8
)

// renewal is when this host's membership of a lockspace was renewed last, by CLOCK_MONOTONIC in seconds, and its I/O timeout.
type renewal struct{ at, ioTimeout uint64 }

// monotonic is the daemon's clock.
func monotonic() uint64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // cannot fail
	return uint64(now.Sec)
}

// watch looks at the daemon until the context ends.
func (m *Manager) watch(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-m.wake:
		case <-ctx.Done():
			return
		}
		m.lookOnce(ctx, n%wholeEvery == 0)
	}
}

// tidy forgets guests that are gone, now and then, until the context ends.
func (m *Manager) tidy(ctx context.Context) {
	for pause(ctx, tidyEvery) == nil {
		m.forgetDead(ctx)
	}
}

// lookOnce asks the daemon how it is, and acts on that.
func (m *Manager) lookOnce(ctx context.Context, whole bool) {
	_, daemon, err := m.settings()
	if err != nil {
		return
	}
	began := time.Now()
	whole = whole || m.anyLost()
	asked, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	ask := daemon.Lockspaces
	if whole {
		ask = daemon.Status
	}
	st, err := ask(asked)
	if ctx.Err() != nil {
		return
	}
	m.keepSpace(ctx, st, err)
	m.assess(ctx, picture{status: st, away: err, whole: whole, began: began})
}

func (m *Manager) anyLost() (lost bool) {
	m.each(func(o *owner) {
		for _, h := range o.leases {
			lost = lost || h.status == pb.Status_STATUS_LOST
		}
	})
	return lost
}

// picture is what one look has shown.
type picture struct {
	status *client.Status
	// away is why there is no status.
	away error
	// whole says that the status has the leases.
	whole bool
	began time.Time
}

// verdict is what a picture says of a lease.
type verdict struct {
	status pb.Status
	detail string
	until  time.Time
	// failed says that sanlock is about to end the owner.
	failed bool
	// free says that the lease may be taken again.
	free bool
}

// assess tells of each lease whose state has changed, and mends what is this manager's to mend.
func (m *Manager) assess(ctx context.Context, p picture) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := monotonic()
	if p.status != nil {
		for _, ls := range p.status.Lockspaces {
			m.seen[ls.Name] = renewal{ls.Renewed, ls.IOTimeout}
		}
	}
	for _, o := range m.owners {
		var spared, again []id
		for _, h := range o.leases {
			if h.status == pb.Status_STATUS_UNSPECIFIED {
				continue
			}
			v := p.judge(o, h, m.renewed(h.lease.Lockspace), now)
			if v.status == pb.Status_STATUS_UNSPECIFIED {
				continue
			}
			m.change(o, h, v)
			switch {
			case o.onFailure != pb.Action_ACTION_IGNORE:
			case v.failed:
				spared = append(spared, idOf(&h.lease))
			case v.free:
				again = append(again, idOf(&h.lease))
			}
		}
		m.mend(ctx, o, spared, again)
	}
}

// change takes a verdict in, and tells of it if it is news.
func (m *Manager) change(o *owner, h *held, v verdict) {
	lost := v.status == pb.Status_STATUS_LOST
	if lost == (h.status == pb.Status_STATUS_LOST) {
		return
	}
	h.status, h.detail = v.status, v.detail
	m.publish(o, h, v.until)
	if lost {
		m.log.Error("lock of guest is lost", "guest", o.who.GetName(), "lock", place(&h.lease), "reason", v.detail)
	} else {
		m.log.Info("lock of guest is held after all", "guest", o.who.GetName(), "lock", place(&h.lease))
	}
}

// publish tells of a lease; called with the mutex held, so that news keep their order.
func (m *Manager) publish(o *owner, h *held, until time.Time) {
	change := &pb.WatchResponse{Lease: proto.CloneOf(h.tell(o.who))}
	if until.After(time.Now()) {
		change.Until = timestamppb.New(until)
	}
	m.Publish(change)
}

// renewed says when a lockspace was well last. One of which nothing was heard yet was when this process began. It is called with the
// mutex held.
func (m *Manager) renewed(lockspace string) renewal {
	if r, ok := m.seen[lockspace]; ok {
		return r
	}
	return renewal{m.began, usualIOTimeout}
}

// judge says how sure a lease is that is not just being taken or given up. STATUS_UNSPECIFIED is as sure as before.
func (p *picture) judge(o *owner, h *held, last renewal, now uint64) verdict {
	if h.sure.After(p.began) {
		return verdict{}
	}
	end := time.Now().Add(time.Duration(int64(last.at+failAfter*last.ioTimeout)-int64(now)) * time.Second)
	late := now >= last.at+warnAfter*last.ioTimeout
	name := h.lease.Lockspace
	if p.status == nil {
		if errors.Is(p.away, client.ErrNotRunning) {
			return verdict{status: pb.Status_STATUS_LOST, detail: "the sanlock daemon has ended", until: end}
		}
		if late {
			return verdict{status: pb.Status_STATUS_LOST, detail: fmt.Sprintf("the sanlock daemon does not answer: %v", p.away), until: end}
		}
		return verdict{}
	}
	ls := p.status.Lockspace(name)
	switch {
	case ls == nil || ls.List != client.ListJoined:
		return verdict{status: pb.Status_STATUS_LOST, detail: fmt.Sprintf("this host is not in lockspace %q any more", name)}
	case ls.Corrupt != 0:
		return verdict{status: pb.Status_STATUS_LOST, failed: ls.Failed, detail: fmt.Sprintf("lockspace %q is damaged: %v", name, ls.Corrupt)}
	case ls.Failed:
		return verdict{status: pb.Status_STATUS_LOST, failed: true, detail: fmt.Sprintf("this host is losing lockspace %q", name), until: end}
	case late:
		return verdict{status: pb.Status_STATUS_LOST, until: end, detail: notRenewed(ls, now-last.at)}
	case !p.whole:
		return verdict{}
	case p.status.Of(int(o.who.GetPid()), name, h.lease.Name) == nil:
		if !lives(o.who) {
			return verdict{} // whoever watches the guest says so
		}
		return verdict{status: pb.Status_STATUS_LOST, free: true, detail: "sanlock does not count the guest as an owner any more"}
	}
	return verdict{status: pb.Status_STATUS_HELD}
}

// notRenewed says for how long the storage has not let the host renew its place.
func notRenewed(ls *client.LockspaceStatus, seconds uint64) string {
	text := fmt.Sprintf("this host's place in lockspace %q could not be renewed for %d seconds", ls.Name, seconds)
	if ls.Result < 0 {
		text += fmt.Sprintf(": %v", ls.Result)
	}
	return text
}

// mend has leases given up whose owner is to live on without them, before sanlock ends it, and taken again when their lockspace is
// well. It is called with the mutex held.
func (m *Manager) mend(ctx context.Context, o *owner, spared, again []id) {
	if time.Now().Before(o.nextMend) {
		again = nil
	}
	if o.mending || len(spared)+len(again) == 0 {
		return
	}
	o.mending = true
	if len(again) > 0 {
		o.nextMend = time.Now().Add(mendPause)
	}
	who := proto.CloneOf(o.who)
	m.loops.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, mendTime)
		defer cancel()
		if len(spared) > 0 {
			m.spare(ctx, who, spared)
		}
		if len(again) > 0 {
			m.takeBack(ctx, who, again)
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		o.mending = false
	})
}

// spare gives up leases of a guest that goes on without them. They stay in the table, as lost.
func (m *Manager) spare(ctx context.Context, who *pb.Owner, leases []id) {
	_, daemon, err := m.settings()
	if err == nil {
		_, err = giveUp(ctx, daemon, who, among(leases))
	}
	if err != nil {
		m.log.Error("guest that may go on without its locks is still bound to them", "guest", who.GetName(), "error", err)
	}
}

func among(leases []id) func(id) bool {
	return func(i id) bool {
		for _, l := range leases {
			if l == i {
				return true
			}
		}
		return false
	}
}

// takeBack takes leases again that a guest went on without, those that are free.
func (m *Manager) takeBack(ctx context.Context, who *pb.Owner, leases []id) {
	m.mu.Lock()
	o := m.owners[keyOf(who)]
	var resources []*pb.Resource
	if o != nil {
		for _, h := range o.leases {
			if among(leases)(idOf(&h.lease)) {
				resources = append(resources, h.resource)
			}
		}
	}
	m.mu.Unlock()
	if len(resources) == 0 {
		return
	}
	a, err := m.begin(ctx, who, pb.Action_ACTION_UNSPECIFIED, resources)
	if err != nil {
		m.log.Debug("locks of guest not taken again", "guest", who.GetName(), "error", err)
		return
	}
	defer a.end()
	for i, w := range distinct(a.wants) {
		one := *a
		one.wants = []want{w}
		m.mu.Lock()
		h := a.owner.find(i)
		lost := h != nil && h.status == pb.Status_STATUS_LOST
		m.mu.Unlock()
		if !lost {
			continue
		}
		one.recover(ctx)
		m.mu.Lock()
		if h.status != pb.Status_STATUS_LOST {
			m.publish(a.owner, h, time.Time{})
		}
		m.mu.Unlock()
	}
}

// forgetDead forgets guests whose process has ended and of whom nobody has said so, and records of such.
func (m *Manager) forgetDead(ctx context.Context) {
	var dead []*pb.Owner
	m.each(func(o *owner) {
		if !lives(o.who) {
			dead = append(dead, o.who)
		}
	})
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	for _, who := range dead {
		o, end, err := m.take(ctx, who)
		if err != nil {
			return
		}
		if !lives(o.who) {
			m.mu.Lock()
			o.leases, o.asleep = nil, nil
			m.mu.Unlock()
			if err := m.forget(ctx, keyOf(who)); err != nil {
				m.log.Debug("guest that is gone is not forgotten", "guest", who.GetName(), "error", err)
			}
		}
		end()
	}
	if err := m.sweep(ctx); err != nil {
		m.log.Debug("guests that are gone are not forgotten", "error", err)
	}
}
