// Package manager is the lock manager: the methods of lock.Manager over package store, and what has to go on between calls. Read it in
// this order: manager.go (what there is), owner.go (who has what), session.go (the right to make locks), acquire.go, release.go and
// recover.go (the calls), keep.go (the lease), tend.go (what is mended without a call).
//
// All locks of a host are bound to one etcd lease. A lease for each guest would cost etcd a renewal for each, which its followers
// hand on to the leader one by one: with ten thousand guests that is a thousand requests in a second that say nothing but that one
// process is still there. What a lease for each would give, freeing the locks of one guest while the host lives, the core does
// with Release. The price is that a host loses all its locks at once; but what ends one of its leases (etcd is out of reach, the
// machine stands still) would end all of them.
//
// What must survive the process is in the core's State, and is there before etcd is told: the lease's id and the host's instance
// (key "session"), what each owner has or is about to take ("owner/"), what was released while etcd was away ("owed/"), and what
// guests that are suspended need to resume ("suspended/"). A process that is killed at any moment has left behind what the next
// one needs to say what is held, to give back what is owed, and to go on with the same lease within its time.
//
// Every owner has a turn, which is held by whoever changes it; mu guards the memory and is held only for moments. Goroutines are
// started by the first Configure and end with Close.
package manager

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/boot"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/config"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/guard"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/record"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/store"
	"github.com/lodgevirt/lodge/sdk/lock"
	"github.com/lodgevirt/lodge/sdk/plugin"
	"github.com/lodgevirt/lodge/sdk/procfs"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Manager is the lock manager.
type Manager struct {
	lock.Feed

	core    plugin.Core
	log     hclog.Logger
	opts    Options
	process string

	// entering is held by whoever makes or renews the right to make locks.
	entering chan struct{}
	// configuring is held by Configure and Close.
	configuring chan struct{}
	// tending wakes tend.
	tending chan struct{}

	mu     sync.Mutex // guards all below
	conf   *config.Config
	store  *store.Store
	work   *work
	right  right
	owners map[record.Life]*owner
	// debtors are those of the owners that owe something.
	debtors map[record.Life]*owner
	// late says that the lease was not renewed for so long that the core was told; lost, since when there is none that should
	// be, and lostTold whether the core was told of that.
	late     bool
	lost     boot.Time
	lostTold bool
	// quiet says that another process has taken over: nothing is done but what the core asks for.
	quiet bool
	// trouble is the last thing that went wrong between calls, or empty.
	trouble string
}

var (
	_ lock.Manager      = (*Manager)(nil)
	_ plugin.Configurer = (*Manager)(nil)
	_ plugin.Diagnoser  = (*Manager)(nil)
	_ plugin.Closer     = (*Manager)(nil)
)

// Options are for tests; the zero value is for everybody else.
type Options struct {
	// MinTTL is the shortest time to live that the configuration may have.
	MinTTL time.Duration
	// Linger is how long the guard stays without a guest.
	Linger time.Duration
	// Clock replaces the machine's.
	Clock boot.Clock
}

// work is what the first Configure makes and Close ends.
type work struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	page   *guard.Page
	post   *guard.Post
	boot   string
}

// Plugin describes the lock manager to the SDK.
func Plugin(version string, opts Options) plugin.Plugin {
	return plugin.Plugin{
		Name:        "etcd",
		Version:     version,
		ConfigKeys:  config.Keys(),
		LockManager: func(core plugin.Core) (lock.Manager, error) { return New(core, opts), nil },
		Commands:    map[string]func([]string) int{guard.Command: guard.Main, listCommand: listMain},
	}
}

// New returns a lock manager that waits for its configuration.
func New(core plugin.Core, opts Options) *Manager {
	if opts.Linger == 0 {
		opts.Linger = guard.Linger
	}
	if opts.Clock == nil {
		opts.Clock = boot.Now
	}
	return &Manager{
		core: core, log: core.Logger(), opts: opts, process: rand.Text(),
		entering: make(chan struct{}, 1), configuring: make(chan struct{}, 1), tending: make(chan struct{}, 1),
		owners: make(map[record.Life]*owner), debtors: make(map[record.Life]*owner),
	}
}

// Configure takes the plugin's table. A core that has none for it yet is content with a manager that refuses every call.
func (m *Manager) Configure(ctx context.Context, settings plugin.Settings) error {
	if !acquire(ctx, m.configuring) {
		return ctx.Err()
	}
	defer func() { <-m.configuring }()
	conf, err := config.Parser{MinTTL: m.opts.MinTTL, Machine: boot.Machine}.Parse(settings.Config)
	if err != nil {
		return err
	}
	m.mu.Lock()
	before, w, held := m.conf, m.work, len(m.owners)
	m.mu.Unlock()
	if before != nil && held > 0 && before.Prefix != conf.Prefix {
		return verr.New(verr.ConfigUnsupported, "prefix cannot be changed from %q to %q while %d guests of this host have locks", before.Prefix, conf.Prefix, held)
	}
	started := w != nil
	if !started {
		if w, err = m.begin(ctx, settings.RuntimeDir); err != nil {
			return err
		}
	}
	st, err := store.Open(conf, m.identity(w.boot), m.opts.Clock)
	if err != nil {
		return verr.New(verr.ConfigUnsupported, "%w", err)
	}
	m.mu.Lock()
	old := m.store
	m.conf, m.store, m.work = conf, st, w
	m.mu.Unlock()
	if old != nil {
		if err := old.Close(); err != nil { // calls under way go on with the new one
			m.log.Warn("old connection to etcd", "error", err)
		}
	}
	if err := m.forgetLease(ctx); err != nil {
		m.log.Warn("time to live is not changed", "error", err)
	}
	if started {
		if err := w.post.Refresh(ctx); err != nil {
			m.log.Error("guests are not guarded", "error", err)
		}
	} else {
		m.run(w)
	}
	m.kick()
	return nil
}

// begin makes what is made once, and reads what earlier processes have left.
func (m *Manager) begin(ctx context.Context, dir string) (*work, error) {
	id, err := procfs.BootID()
	if err != nil {
		return nil, err
	}
	if err := m.load(ctx, id); err != nil {
		return nil, err
	}
	page, err := guard.OpenPage(filepath.Join(dir, guard.PageFile), id)
	if err != nil {
		return nil, err
	}
	w := &work{page: page, boot: id, post: guard.NewPost(dir, m.log, m.opts.Linger, m.hello)}
	m.restorePage(w)
	m.guardAll(w.post)
	return w, nil
}

// run starts what goes on between calls.
func (m *Manager) run(w *work) {
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	w.wg.Go(func() { w.post.Run(ctx) })
	w.wg.Go(func() { m.keep(ctx) })
	w.wg.Go(func() { m.oversee(ctx) })
	w.wg.Go(func() { m.tend(ctx) })
	w.wg.Go(func() { m.watchLease(ctx) })
}

// hello is what the guard needs to know.
func (m *Manager) hello() *guard.Hello {
	m.mu.Lock()
	conf, w := m.conf, m.work
	m.mu.Unlock()
	return &guard.Hello{Version: guard.Version, Page: w.page.Ident(), Config: conf, Identity: m.identity(w.boot)}
}

func (m *Manager) identity(bootID string) store.Identity {
	m.mu.Lock()
	defer m.mu.Unlock()
	return store.Identity{Instance: m.right.Instance, Process: m.process, Boot: bootID, PID: os.Getpid()}
}

// Close ends the manager. Guests live on with their locks: the guard keeps the lease. A host that has none gives its lease back.
func (m *Manager) Close(ctx context.Context) error {
	m.configuring <- struct{}{}
	defer func() { <-m.configuring }()
	m.mu.Lock()
	w, st := m.work, m.store
	m.work, m.store, m.conf = nil, nil, nil
	m.mu.Unlock()
	if w == nil {
		return nil
	}
	w.cancel()
	w.wg.Wait()
	// Calls have ended, and what they have started is done.
	err := m.giveBack(ctx, st)
	w.post.Close()
	return errors.Join(err, st.Close())
}

// giveBack ends the lease of a host that has no locks, so that nothing is left in etcd. Where etcd does not answer it ends by itself.
func (m *Manager) giveBack(ctx context.Context, st *store.Store) error {
	m.mu.Lock()
	r, held := m.right, len(m.owners)
	m.right = right{Instance: r.Instance}
	m.mu.Unlock()
	if held > 0 || r.Lease == 0 {
		return nil
	}
	// The next process must not take up a lease that is about to end.
	if err := m.saveRight(ctx, right{Instance: r.Instance}); err != nil {
		return err
	}
	if err := st.Revoke(ctx, r.lease()); err != nil {
		m.log.Info("lease is left to end by itself", "error", err)
	}
	return nil
}

// forgetLease has a host without locks take its next one under a new lease, if the configuration wants another time to live.
func (m *Manager) forgetLease(ctx context.Context) error {
	if !acquire(ctx, m.entering) {
		return ctx.Err()
	}
	defer func() { <-m.entering }()
	m.mu.Lock()
	r, other := m.right, m.right.TTL != m.conf.TTL
	if len(m.owners) > 0 || r.Lease == 0 || !other {
		m.mu.Unlock()
		return nil
	}
	m.right = right{Instance: r.Instance}
	page := m.work.page
	m.mu.Unlock()
	page.Set(guard.Lease{})
	return m.saveRight(ctx, right{Instance: r.Instance})
}

// Diagnose tells how it is.
func (m *Manager) Diagnose(ctx context.Context) map[string]string {
	m.mu.Lock()
	w := m.work
	m.mu.Unlock()
	if w == nil {
		return map[string]string{"state": "not configured"}
	}
	pid := w.post.Guard(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conf == nil {
		return map[string]string{"state": "ended"}
	}
	locks, owed := 0, 0
	for _, o := range m.owners {
		locks += len(o.locks)
		owed += len(o.owed)
	}
	facts := map[string]string{
		"endpoints": strings.Join(m.conf.Endpoints, " "), "prefix": m.conf.Prefix, "host": m.conf.Host, "instance": m.right.Instance,
		"lease": "none", "guests": strconv.Itoa(len(m.owners)), "locks": strconv.Itoa(locks), "releases_owed": strconv.Itoa(owed),
		"state": "good", "guard": strconv.Itoa(int(pid)),
	}
	if l := w.page.Lease(); l.ID != 0 {
		facts["lease"] = strconv.FormatInt(l.ID, 16)
		facts["ttl"] = l.TTL.String()
		facts["left"] = l.Ends.Sub(m.opts.Clock()).Round(time.Millisecond).String()
	}
	switch {
	case m.late:
		facts["state"] = "the lease was not renewed"
	case m.lost != 0:
		facts["state"] = "the lease has ended"
	case m.trouble != "":
		facts["state"] = m.trouble
	}
	return facts
}

// ready returns what calls need, or says that the manager is not configured.
func (m *Manager) ready() (*config.Config, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.work == nil {
		return nil, verr.New(verr.OperationInvalid, "lock manager etcd is not configured")
	}
	return m.conf, nil
}

// acquire takes a turn, and says whether it got it before the context ended.
func acquire(ctx context.Context, turn chan struct{}) bool {
	select {
	case turn <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// kick has tend look after everything soon.
func (m *Manager) kick() {
	select {
	case m.tending <- struct{}{}:
	default:
	}
}

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

// checkOwner refuses an owner that no key could be made of.
func checkOwner(o *pb.Owner) error {
	if id, err := uuid.Parse(o.GetUuid()); err != nil || id.String() != o.GetUuid() {
		return verr.New(verr.InvalidArg, "owner %q is no UUID in the form 8-4-4-4-12, lower case", record.Show(o.GetUuid()))
	}
	if len(o.GetName()) > record.MaxName || len(o.GetUri()) > record.MaxName {
		return verr.New(verr.InvalidArg, "owner %s: name and URI may have at most %d bytes", o.GetUuid(), record.MaxName)
	}
	return nil
}

// newInstance makes a host's instance.
func newInstance() string { return uuid.NewString() }

// errNotConfigured ends what goes on between calls when the manager is closed.
var errNotConfigured = fmt.Errorf("not configured: %w", context.Canceled)
