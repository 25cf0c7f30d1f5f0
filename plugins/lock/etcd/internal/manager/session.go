package manager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/boot"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/guard"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/store"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// right is the right to make locks. What has names in JSON is kept in the core's State.
type right struct {
	// Instance tells hosts apart.
	Instance string `json:"instance"`
	// Boot is the start of the machine in which the lease was last used.
	Boot string `json:"boot"`
	// Lease that the locks are bound to, or 0.
	Lease int64 `json:"lease"`
	// TTL of the lease.
	TTL time.Duration `json:"ttl"`

	// adopted says that this process knows that the lease is this host's and lives.
	adopted bool
	// fence is the revision of the host's key, 0 where it is not known or an older request may be under way.
	fence int64
	// watched is since when it is looked whether somebody else renews the lease.
	watched boot.Time
}

func (r right) lease() clientv3.LeaseID { return clientv3.LeaseID(r.Lease) }

func parseRight(text []byte) (right, error) {
	var r right
	if err := json.Unmarshal(text, &r); err != nil {
		return right{}, fmt.Errorf("read session: %w", err)
	}
	if r.Instance == "" || strings.Contains(r.Instance, "/") || r.TTL < 0 {
		return right{}, fmt.Errorf("read session: instance %q or time to live %v is wrong", r.Instance, r.TTL)
	}
	return r, nil
}

// loadRight reads what an earlier process has kept, or makes this host's instance.
func (m *Manager) loadRight(ctx context.Context) (right, error) {
	text, ok, err := m.core.State().Get(ctx, sessionKey)
	if err != nil {
		return right{}, fmt.Errorf("read the session from the core's state: %w", err)
	}
	if ok {
		r, err := parseRight(text)
		if err == nil {
			return r, nil
		}
		m.log.Error("session is not to be read: this host begins anew", "error", err)
	}
	return right{Instance: newInstance()}, nil
}

// saveRight keeps the right for the next process.
func (m *Manager) saveRight(ctx context.Context, r right) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode session: %w", err)
	}
	if err := m.core.State().Put(ctx, sessionKey, text); err != nil {
		return fmt.Errorf("write the session into the core's state: %w", err)
	}
	return nil
}

// restorePage has the page speak of the lease that was loaded. If its time is not known any more, it may end now.
func (m *Manager) restorePage(w *work) {
	m.mu.Lock()
	r := m.right
	m.mu.Unlock()
	switch {
	case r.Lease == 0 || r.Boot != w.boot:
		w.page.Set(guard.Lease{})
	case w.page.Lease().ID != r.Lease:
		w.page.Set(guard.Lease{ID: r.Lease, TTL: r.TTL, Ends: m.opts.Clock()})
	}
}

// errQuiet says that this process was replaced, and does nothing by itself.
var errQuiet = errors.New("another process of this host has taken over")

// session returns the right to make locks, which is obtained if there is none. What the core asks for takes it from another process of
// this host, which the core has given up then; what goes on by itself does not.
func (m *Manager) session(ctx context.Context, background bool) (*store.Store, store.Session, error) {
	if !acquire(ctx, m.entering) {
		return nil, store.Session{}, fmt.Errorf("wait for the session: %w", ctx.Err())
	}
	defer func() { <-m.entering }()
	m.mu.Lock()
	st, w, r := m.store, m.work, m.right
	if !background {
		m.quiet = false
	}
	quiet := m.quiet
	m.mu.Unlock()
	switch {
	case w == nil:
		return nil, store.Session{}, errNotConfigured
	case quiet:
		return nil, store.Session{}, errQuiet
	}
	adopt := false
	if !r.adopted {
		var err error
		if adopt, err = m.obtain(ctx, st, w, &r); err != nil {
			return nil, store.Session{}, err
		}
		m.mu.Lock()
		st = m.store // it may be another one
		m.mu.Unlock()
		if st == nil {
			return nil, store.Session{}, errNotConfigured
		}
	}
	if r.fence == 0 {
		fence, err := st.Enter(ctx, r.lease(), adopt)
		if errors.Is(err, store.ErrLeaseGone) {
			m.leaseGone(ctx, r.Lease)
		}
		if err != nil {
			return nil, store.Session{}, err
		}
		m.mu.Lock()
		m.right.fence = fence
		r.fence = fence
		m.mu.Unlock()
	}
	return st, store.Session{Lease: r.lease(), Fence: r.fence}, nil
}

// obtain goes on with the lease that was kept, or makes one; adopt says that the host's key may be of another start of the machine.
// Called while entering is held.
func (m *Manager) obtain(ctx context.Context, st *store.Store, w *work, r *right) (adopt bool, err error) {
	if r.Lease != 0 {
		if r.Boot != w.boot {
			adopt = true
			err = m.isOurs(ctx, st, *r)
		}
		var granted store.Granted
		if err == nil {
			granted, err = st.Renew(ctx, r.lease(), guard.Patience(r.TTL)+time.Second)
		}
		switch {
		case err == nil:
			return adopt, m.adopt(ctx, w, r, granted)
		case errors.Is(err, errCopied):
			m.log.Error("another machine works under this host's identity, so this one takes another: was it copied?", "instance", r.Instance)
			*r = right{Instance: newInstance()}
			m.mu.Lock()
			m.right = *r
			m.mu.Unlock()
			if st, err = m.reopen(w); err != nil {
				return false, err
			}
		case errors.Is(err, store.ErrLeaseGone):
			m.leaseGone(ctx, r.Lease)
		default:
			return false, err
		}
	}
	granted, err := st.Grant(ctx)
	if err != nil {
		return false, err
	}
	return adopt, m.adopt(ctx, w, r, granted)
}

// reopen connects anew, under another identity.
func (m *Manager) reopen(w *work) (*store.Store, error) {
	id := m.identity(w.boot)
	m.mu.Lock()
	defer m.mu.Unlock()
	st, err := store.Open(m.conf, id, m.opts.Clock)
	if err != nil {
		return nil, err
	}
	old := m.store
	m.store = st
	return st, old.Close()
}

// adopt keeps a lease, and has the page and the next process know of it, before a lock is bound to it.
func (m *Manager) adopt(ctx context.Context, w *work, r *right, g store.Granted) error {
	next := right{Instance: r.Instance, Boot: w.boot, Lease: int64(g.Lease), TTL: g.TTL, adopted: true}
	if r.Lease != next.Lease || r.Boot != next.Boot || r.TTL != next.TTL {
		if err := m.saveRight(ctx, next); err != nil {
			return err
		}
	}
	if w.page.Lease().ID == next.Lease {
		w.page.Raise(next.Lease, g.Ends())
	} else {
		w.page.Set(guard.Lease{ID: next.Lease, Ends: g.Ends(), TTL: g.TTL})
	}
	m.mu.Lock()
	m.right = next
	m.mu.Unlock()
	*r = next
	m.judge()
	m.kick()
	return nil
}

var (
	// errCopied says that a machine that was made from the same image renews the lease.
	errCopied = errors.New("somebody else renews the lease")
	// errMaybeCopied says that it is not known yet.
	errMaybeCopied = errors.New("the lease of this machine's last start was renewed only just before, or by somebody else")
)

// isOurs finds out whether a lease is that of this machine before it was started anew: then nobody renews it. A machine that was made
// from the same image has the same lease in its state, and may be using it.
func (m *Manager) isOurs(ctx context.Context, st *store.Store, r right) error {
	granted, left, err := st.Left(ctx, r.lease())
	if err != nil {
		return err
	}
	const slack = 2 * time.Second // etcd tells whole seconds
	if granted-left > guard.Interval(granted)+slack {
		return nil
	}
	m.mu.Lock()
	if m.right.watched == 0 {
		m.right.watched = m.opts.Clock()
	}
	watched := m.opts.Clock().Sub(m.right.watched)
	m.mu.Unlock()
	if watched > guard.Overdue(granted)+slack {
		return errCopied
	}
	return errMaybeCopied
}

// leaseGone takes note that etcd has ended a lease. The guests get a moment, in which their locks are taken again.
func (m *Manager) leaseGone(ctx context.Context, lease int64) {
	m.mu.Lock()
	if m.right.Lease != lease || m.work == nil {
		m.mu.Unlock()
		return
	}
	ttl, w := m.right.TTL, m.work
	now := m.opts.Clock()
	m.right = right{Instance: m.right.Instance, Boot: m.right.Boot, TTL: ttl}
	m.late = false
	var guests []guard.Guest
	for _, o := range m.owners {
		for _, h := range o.locks {
			if h.status == there || h.status == again {
				h.status = missing
			}
		}
		if len(o.locks) > 0 {
			if o.lost == 0 {
				o.lost = now.Add(guard.MissingGrace(ttl))
			}
			guests = append(guests, o.guest())
		}
	}
	if len(guests) > 0 && m.lost == 0 {
		m.lost, m.lostTold = now, false
	}
	m.mu.Unlock()
	if len(guests) == 0 {
		m.log.Info("lease has ended", "lease", lease)
	} else {
		m.log.Error("etcd has ended this host's lease", "lease", lease, "guests", len(guests))
		if err := w.post.Set(context.WithoutCancel(ctx), guests...); err != nil {
			m.log.Error("guests are not guarded", "error", err)
		}
	}
	if w.page.Lease().ID == lease {
		w.page.Set(guard.Lease{TTL: ttl})
	}
	m.kick()
}

// withSession does something in etcd, and tries again for as long as that may help, at most for patience. doubt says that what was tried
// may have been done, or may yet be.
func (m *Manager) withSession(
	ctx context.Context, background bool, patience time.Duration, do func(context.Context, *store.Store, store.Session) error,
) (doubt bool, err error) {
	const firstWait, maxWait = 20 * time.Millisecond, 500 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for wait := firstWait; ; wait = min(2*wait, maxWait) {
		st, sess, err := m.session(ctx, background)
		if err == nil {
			doubt = false // whatever was under way is fenced
			if err = do(ctx, st, sess); err == nil {
				return false, nil
			}
			doubt = m.failed(ctx, sess, err, background)
		}
		var final *verr.Error
		switch {
		case errors.As(err, &final):
			return doubt, err
		case errors.Is(err, errNotConfigured), errors.Is(err, errQuiet):
			return doubt, verr.New(verr.OperationAborted, "%w", err)
		case errors.Is(err, store.ErrLeaseGone), errors.Is(err, store.ErrFenced), errors.Is(err, store.ErrNoHost):
			wait = firstWait
		}
		if !pause(ctx, wait) {
			return doubt, m.unreachable(err)
		}
	}
}

// failed draws the conclusions from an error in a session, and says whether what was tried may be done nevertheless.
func (m *Manager) failed(ctx context.Context, sess store.Session, err error, background bool) (doubt bool) {
	var unsure *store.Unsure
	switch {
	case errors.Is(err, store.ErrLeaseGone):
		m.leaseGone(ctx, int64(sess.Lease))
	case errors.Is(err, store.ErrFenced):
		m.unfence(sess, background)
	case errors.Is(err, store.ErrNoHost):
		m.unfence(sess, false)
	case errors.As(err, &unsure):
		m.unfence(sess, false)
		return true
	}
	return false
}

// unfence has the next session write the host's key anew, unless this process has done so already. If it is quiet, only one that the
// core asks for.
func (m *Manager) unfence(sess store.Session, quiet bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.right.fence == sess.Fence {
		m.right.fence = 0
		m.quiet = quiet
	}
}

// unreachable says that etcd does not answer.
func (m *Manager) unreachable(err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conf == nil {
		return verr.New(verr.OperationAborted, "%w", errNotConfigured)
	}
	return verr.New(verr.OperationTimeout, "etcd at %s does not answer: %w", strings.Join(m.conf.Endpoints, ", "), err)
}
