package manager

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/guard"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/record"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/store"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

const (
	// menders is how many guests are looked after at once when many have lost their locks.
	menders = 16
	// checked is how many locks are looked for at once.
	checked = 1000
)

// tend mends what has gone wrong, whenever it is woken and every now and then, until the context ends: it releases what is owed, looks
// whether all locks are there, and takes again what is not.
func (m *Manager) tend(ctx context.Context) {
	const firstWait = 100 * time.Millisecond
	wait := firstWait
	for {
		err := m.tendOnce(ctx)
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
		if err == nil {
			wait = firstWait
		} else {
			m.log.Warn("locks are not looked after", "error", err)
			period, wait = wait, min(2*wait, period)
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

// tendOnce looks after everything once.
func (m *Manager) tendOnce(ctx context.Context) error {
	m.mu.Lock()
	busy := len(m.owners) > 0
	m.mu.Unlock()
	if !busy {
		m.mu.Lock()
		m.lost = 0
		m.mu.Unlock()
		return nil
	}
	if err := m.settleAll(ctx); err != nil {
		return err
	}
	broken, err := m.check(ctx)
	if err != nil {
		return err
	}
	if err := m.mend(ctx, broken); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.right.adopted {
		m.lost, m.lostTold = 0, false
	}
	return nil
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

// settleAll releases what all owners owe.
func (m *Manager) settleAll(ctx context.Context) error {
	m.mu.Lock()
	var lives []record.Life
	for l, o := range m.owners {
		if len(o.owed) > 0 {
			lives = append(lives, l)
		}
	}
	m.mu.Unlock()
	for _, l := range lives {
		o, err := m.take(ctx, l, false)
		if err != nil {
			return err
		}
		if o == nil {
			continue
		}
		err = m.settle(ctx, o, true)
		m.done(o)
		if err != nil {
			return err
		}
	}
	return nil
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

// mend takes the locks of owners again, several owners at once.
func (m *Manager) mend(ctx context.Context, lives []record.Life) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	turns := make(chan struct{}, menders)
	for _, l := range lives {
		if !acquire(ctx, turns) {
			break
		}
		wg.Go(func() {
			defer func() { <-turns }()
			if err := m.mendOne(ctx, l); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if first == nil {
					first = err
				}
			}
		})
	}
	wg.Wait()
	return first
}

// mendOne takes the locks of one owner again, if the core has said that it lives, and tells what has changed.
func (m *Manager) mendOne(ctx context.Context, l record.Life) error {
	o, err := m.take(ctx, l, false)
	if err != nil || o == nil {
		return err
	}
	defer m.done(o)
	m.mu.Lock()
	claimed, before := o.claimed, map[record.ID]status{}
	for id, h := range o.locks {
		before[id] = h.status
	}
	m.mu.Unlock()
	if !claimed || len(before) == 0 {
		return nil
	}
	if err := m.retake(ctx, o, true, m.patience(2)); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, h := range o.locks {
		if h.status != before[id] {
			m.Publish(&pb.WatchResponse{Lease: m.lease(o, h)})
		}
	}
	return nil
}

// retake takes those of an owner's locks that can be had, and has its guard know what that means; called with its turn.
func (m *Manager) retake(ctx context.Context, o *owner, background bool, patience time.Duration) error {
	m.mu.Lock()
	info, wants := o.info, make([]store.Want, 0, len(o.locks))
	before := map[record.ID]status{}
	for id, h := range o.locks {
		wants = append(wants, m.want(info, id, h.res))
		before[id] = h.status
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
	m.mu.Lock()
	for i, w := range wants {
		m.note(o, w, locks[i], before[w.ID])
	}
	m.reckon(o)
	g, post := o.guest(), m.post()
	m.mu.Unlock()
	if post == nil {
		return nil
	}
	return post.Set(ctx, g)
}

// note keeps what became of a lock; called with mu.
func (m *Manager) note(o *owner, w store.Want, l store.Lock, before status) {
	h := o.locks[w.ID]
	if h == nil {
		return
	}
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
	for _, h := range o.locks {
		if h.status == gone || h.status == missing {
			if o.lost == 0 {
				o.lost = m.opts.Clock().Add(guard.GoneGrace(m.right.TTL))
			}
			return
		}
	}
	o.lost = 0
}

// post returns the guard's post, or nil; called with mu.
func (m *Manager) post() *guard.Post {
	if m.work == nil {
		return nil
	}
	return m.work.post
}

// guardAll tells the guard of everybody that earlier processes have left.
func (m *Manager) guardAll(ctx context.Context, post *guard.Post) {
	m.mu.Lock()
	var guests []guard.Guest
	for _, o := range m.owners {
		if len(o.locks) > 0 {
			guests = append(guests, o.guest())
		}
	}
	m.mu.Unlock()
	if len(guests) == 0 {
		return
	}
	if err := post.Set(ctx, guests...); err != nil {
		m.log.Error("guests are not guarded", "error", err)
	}
}
