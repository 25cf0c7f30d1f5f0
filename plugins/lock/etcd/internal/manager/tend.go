package manager

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/guard"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/record"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/store"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

// checked is how many locks are looked for at once.
const checked = 1000

// tend mends what has gone wrong, whenever it is woken and every now and then, until the context ends: it releases what is owed, looks
// whether all locks are there, and takes again what is not.
func (m *Manager) tend(ctx context.Context) {
	// least is between two looks, however often it is woken. One that has failed has itself taken as long as requests may take, and etcd may
	// answer again at any moment, so the next one follows soon: locks that are to be taken again are free until then.
	const least, firstWait, maxWait = 50 * time.Millisecond, 100 * time.Millisecond, time.Second
	for wait := firstWait; pause(ctx, least); {
		again, err := m.tendOnce(ctx)
		m.mu.Lock()
		period := 15 * time.Second
		if m.conf != nil {
			period = m.conf.TTL / 2
		}
		m.trouble = ""
		if err != nil {
			m.trouble = err.Error()
		}
		m.mu.Unlock()
		switch {
		case err != nil:
			m.log.Warn("locks are not looked after", "error", err)
			period, wait = wait, min(2*wait, maxWait)
		case again:
			period = firstWait
		default:
			wait = firstWait
		}
		timer := time.NewTimer(period)
		select {
		case <-timer.C:
		case <-m.tending:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// tendOnce looks after everything once; again says that somebody was busy and should be looked after soon.
func (m *Manager) tendOnce(ctx context.Context) (again bool, err error) {
	m.mu.Lock()
	busy := len(m.owners) > 0
	if !busy {
		m.lost = 0
	}
	m.mu.Unlock()
	if !busy {
		return false, nil
	}
	again, err = m.settleAll(ctx)
	if err != nil {
		return false, err
	}
	broken, err := m.check(ctx)
	if err != nil {
		return false, err
	}
	left, err := m.mend(ctx, broken)
	if err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.right.adopted && !left {
		m.lost, m.lostTold = 0, false
	}
	return again || left, nil
}

// patience is how long a call tries to get through to etcd.
func (m *Manager) patience(requests int) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conf == nil {
		return time.Second
	}
	return time.Duration(requests) * m.conf.RequestTimeout
}

// settleAll releases what all owners owe; again says that some were busy.
func (m *Manager) settleAll(ctx context.Context) (again bool, err error) {
	m.mu.Lock()
	lives := slices.Collect(maps.Keys(m.debtors))
	m.mu.Unlock()
	for _, l := range lives {
		o := m.tryTake(l)
		if o == nil {
			again = true
			continue
		}
		err := m.settle(ctx, o, true)
		m.done(o)
		if err != nil {
			return again, err
		}
	}
	return again, nil
}

// settle releases what an owner owes; called with its turn.
func (m *Manager) settle(ctx context.Context, o *owner, background bool) error {
	m.mu.Lock()
	var marks []store.Mark
	for id, d := range o.owed {
		marks = append(marks, mark(o.life, id, d))
	}
	m.mu.Unlock()
	if len(marks) == 0 {
		return nil
	}
	_, err := m.withSession(ctx, background, m.patience(2), func(ctx context.Context, st *store.Store, sess store.Session) error {
		return st.Drop(ctx, sess, marks)
	})
	if err != nil {
		return err
	}
	m.mu.Lock()
	clear(o.owed)
	m.mu.Unlock()
	return m.saveOwed(ctx, o)
}

// check looks whether the locks are there, and returns the owners of those that are not.
func (m *Manager) check(ctx context.Context) (broken []record.Life, err error) {
	var marks []store.Mark
	m.mu.Lock()
	for l, o := range m.owners {
		for id, h := range o.locks {
			marks = append(marks, mark(l, id, debt{res: h.res}))
		}
	}
	m.mu.Unlock()
	seen := map[record.Life]bool{}
	for part := range slices.Chunk(marks, checked) {
		var found []store.Seen
		_, err := m.withSession(ctx, true, m.patience(2), func(ctx context.Context, st *store.Store, sess store.Session) (err error) {
			found, err = st.Check(ctx, sess, part)
			return err
		})
		if err != nil {
			return nil, err
		}
		for i, mk := range part {
			if !m.found(mk, found[i]) && !seen[mk.Life] {
				seen[mk.Life] = true
				broken = append(broken, mk.Life)
			}
		}
	}
	return broken, nil
}

// found notes what was found of a lock, and says whether that is well. What changed meanwhile is left to whoever changed it.
func (m *Manager) found(mk store.Mark, seen store.Seen) (well bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.owners[mk.Life]
	if o == nil || o.locks[mk.ID] == nil {
		return true
	}
	h := o.locks[mk.ID]
	switch {
	case !seen.Held || h.status == gone:
		return false
	case h.status == unknown && !o.claimed:
		h.status, h.token = there, seen.Token
	case h.status == unknown, h.status == missing:
		return false // there is more to be done than to note it
	}
	return true
}

// mend takes the locks of owners again, if the core has said that they live, and tells what has changed. As many of them go into one
// transaction as fit, and several transactions are under way at once. Those whose turn somebody else has are left for the next time,
// which is told.
func (m *Manager) mend(ctx context.Context, lives []record.Life) (left bool, err error) {
	const menders = 4
	batches := make(chan []*owner)
	failures := make(chan error, menders)
	var wg sync.WaitGroup
	for range menders {
		wg.Go(func() {
			var failed error
			for batch := range batches {
				if failed == nil { // else etcd does not answer, and the others are left for the next time
					failed = m.mendSome(ctx, batch)
				}
				for _, o := range batch {
					m.done(o)
				}
			}
			failures <- failed
		})
	}
	var next []*owner
	in := map[record.ID]bool{} // a transaction may change a key only once
	for _, l := range lives {
		o := m.tryTake(l)
		if o == nil {
			left = true
			continue
		}
		m.mu.Lock()
		ids, claimed := slices.Collect(maps.Keys(o.locks)), o.claimed
		m.mu.Unlock()
		if len(ids) == 0 || !claimed {
			m.done(o)
			continue
		}
		if len(in)+len(ids) > store.MaxResources || slices.ContainsFunc(ids, func(id record.ID) bool { return in[id] }) {
			batches <- next
			next = nil
			clear(in)
		}
		next = append(next, o)
		for _, id := range ids {
			in[id] = true
		}
	}
	batches <- next
	close(batches)
	wg.Wait()
	close(failures)
	var problems []error
	for err := range failures {
		problems = append(problems, err)
	}
	return left, errors.Join(problems...)
}

// tryTake returns an owner with its turn if it is to be had at once, or nil.
func (m *Manager) tryTake(l record.Life) *owner {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.owners[l]
	if o == nil {
		return nil
	}
	select {
	case o.turn <- struct{}{}:
		return o
	default:
		return nil
	}
}

// mendSome takes the locks of some owners again, whose turns it has.
func (m *Manager) mendSome(ctx context.Context, batch []*owner) error {
	if len(batch) == 0 {
		return nil
	}
	before := map[*held]status{}
	m.mu.Lock()
	for _, o := range batch {
		for _, h := range o.locks {
			before[h] = h.status
		}
	}
	m.mu.Unlock()
	if err := m.retake(ctx, true, m.patience(2), batch...); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range batch {
		for _, h := range o.locks {
			if h.status != before[h] {
				m.Publish(&pb.WatchResponse{Lease: m.lease(o, h)})
			}
		}
	}
	return nil
}

// retake takes those of owners' locks that can be had, at most store.MaxResources, and has the guard know what that means; called
// with the owners' turns.
func (m *Manager) retake(ctx context.Context, background bool, patience time.Duration, owners ...*owner) error {
	var wants []store.Want
	var of []*owner
	before := map[*held]status{}
	m.mu.Lock()
	for _, o := range owners {
		for id, h := range o.locks {
			wants, of = append(wants, m.want(o.info, id, h.res)), append(of, o)
			before[h] = h.status
		}
	}
	m.mu.Unlock()
	var locks []store.Lock
	_, err := m.withSession(ctx, background, patience, func(ctx context.Context, st *store.Store, sess store.Session) (err error) {
		locks, err = st.Take(ctx, sess, wants, false)
		return err
	})
	if err != nil {
		return err
	}
	guests := make([]guard.Guest, 0, len(owners))
	m.mu.Lock()
	for i, w := range wants {
		if h := of[i].locks[w.ID]; h != nil {
			h.note(w, locks[i], before[h])
		}
	}
	for _, o := range owners {
		m.reckon(o)
		guests = append(guests, o.guest())
	}
	post := m.post()
	m.mu.Unlock()
	if post == nil {
		return nil
	}
	return post.Set(ctx, guests...)
}

// note keeps what became of a lock; called with mu.
func (h *held) note(w store.Want, l store.Lock, before status) {
	if !l.Held {
		h.status, h.detail = gone, record.Title(w.Resource)+" is in use by "+l.Holder
		return
	}
	h.token, h.epoch, h.since, h.detail = l.Token, l.Epoch, l.Since, ""
	switch {
	case l.Taken:
		h.status = again
	case before != again:
		h.status = there
	}
}

// reckon decides when an owner's guest must have ended, if it has lost a lock; called with mu.
func (m *Manager) reckon(o *owner) {
	worst := there
	for _, h := range o.locks {
		worst = max(worst, h.status)
	}
	now, ttl := m.opts.Clock(), m.right.TTL
	switch {
	case worst < missing:
		o.lost = 0
	case worst == missing && o.lost == 0:
		o.lost = now.Add(guard.MissingGrace(ttl))
	case worst == gone && !o.goneTold:
		if at := now.Add(guard.LostGrace(ttl)); o.lost == 0 || at < o.lost {
			o.lost = at
		}
	}
	o.goneTold = worst == gone
}

// post returns the guard's post, or nil; called with mu.
func (m *Manager) post() *guard.Post {
	if m.work == nil {
		return nil
	}
	return m.work.post
}

// guardAll has everybody guarded that earlier processes have left.
func (m *Manager) guardAll(post *guard.Post) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var guests []guard.Guest
	for _, o := range m.owners {
		if len(o.locks) > 0 {
			guests = append(guests, o.guest())
		}
	}
	post.Adopt(guests...)
}
