// Package core puts the host together: catalog, drivers under supervision, inventories, connections, the lock daemon's keeper, and the
// doors. It holds no rule of its own; each part's rules are in its package.
//
// New opens and checks everything that can fail for good, so that an operator sees the error at once. Run serves until its context
// ends. Clients are answered from the first moment, from the catalog; drivers start when they are needed or have guests to take
// back. When Run ends, guests and their locks stay as they are; plugins end, and so does a lock daemon of ours that holds nothing.
// When the process is killed instead, plugins and lock daemon go on, and the next core finds them.
package core

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/host/internal/config"
	"github.com/lodgevirt/lodge/host/internal/connection"
	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/host/internal/door"
	"github.com/lodgevirt/lodge/host/internal/event"
	"github.com/lodgevirt/lodge/host/internal/layout"
	"github.com/lodgevirt/lodge/host/internal/lockclient"
	"github.com/lodgevirt/lodge/host/internal/lockmanager"
	"github.com/lodgevirt/lodge/host/internal/node"
	"github.com/lodgevirt/lodge/host/internal/pidfile"
	"github.com/lodgevirt/lodge/host/internal/pool"
	"github.com/lodgevirt/lodge/host/internal/secret"
	"github.com/lodgevirt/lodge/sdk/procfs"
)

// eventsPerStart separates the sequence numbers of two starts of the core.
const eventsPerStart = 1 << 32

// Config is what a host is made of.
type Config struct {
	// Layout says where everything lies.
	Layout layout.Layout
	// Settings are the operator's.
	Settings config.Config
	// PluginDirs are searched for manifests.
	PluginDirs []string
	// LockDaemon is the lock daemon's binary, started when nobody serves its socket; empty never starts one.
	LockDaemon string
	// Privileged: the host runs as root and serves "system" connections, else "session" ones.
	Privileged bool
	// Ready is called once when clients can connect.
	Ready func()
	// Log is the host's log.
	Log hclog.Logger
}

// Host is a host that is put together.
type Host struct {
	cfg         Config
	bootID      string
	started     time.Time
	lock        *pidfile.File // one core for a layout
	catalog     *catalog.Catalog
	events      *event.Bus
	machine     *node.Host
	locks       *lockclient.Client
	debts       lockmanager.Debts
	lockPlugin  *lockPlugin  // the lock manager in place of the lock daemon, or nil
	settled     atomic.Int64 // pid of the lock daemon that knows all guests
	storage     []*storagePlugin
	pools       *pool.Inventory
	tasks       pool.Tasks
	secrets     *secret.Store
	drivers     []*driver
	remotes     []*remote
	inventories []*domain.Inventory
	router      *connection.Router
	door        *door.Server
	sockets     []socket
}

// New opens the catalog, reads the manifests, and binds the sockets.
func New(cfg Config) (*Host, error) {
	h := &Host{
		cfg: cfg, started: time.Now(), machine: node.New(node.Options{}), router: connection.NewRouter(),
		locks: lockclient.New(cfg.Layout.Lockd()),
	}
	if err := h.open(); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

func (h *Host) open() error {
	var err error
	if h.bootID, err = procfs.BootID(); err != nil {
		return err
	}
	if err := h.cfg.Layout.Make(); err != nil {
		return err
	}
	if h.lock, err = pidfile.Claim(filepath.Join(h.cfg.Layout.Run, "lodged.pid")); err != nil {
		return err
	}
	if h.catalog, err = catalog.Open(h.cfg.Layout.Catalog()); err != nil {
		return err
	}
	starts, err := h.catalog.Starts()
	if err != nil {
		return err
	}
	h.events = event.NewBus(starts * eventsPerStart)
	if err := h.addDrivers(); err != nil {
		return err
	}
	limits := h.cfg.Settings.Limits
	h.door = door.New(door.Config{
		Router: h.router, Events: h.events, Node: h.machine, Log: h.cfg.Log.Named("door"), Policy: h.policy(),
		Limits: door.Limits{
			Clients: limits.MaxClients, InFlight: limits.MaxRequests, KeepaliveCount: limits.KeepaliveCount,
			KeepaliveInterval: time.Duration(limits.KeepaliveSeconds) * time.Second,
		},
	})
	return h.listen()
}

// policy lets a configured group connect: the socket's mode has checked it already.
func (h *Host) policy() door.Policy {
	if h.cfg.Settings.Sockets.Group == "" {
		return nil
	}
	return func(door.Peer, bool) error { return nil }
}

// Run serves until the context ends, and then waits for calls under way.
func (h *Host) Run(ctx context.Context) error {
	defer func() {
		if err := h.close(); err != nil {
			h.cfg.Log.Error("host did not close well", "error", err)
		}
	}()
	g, gctx := errgroup.WithContext(ctx)
	if l := h.lockPlugin; l != nil {
		g.Go(func() error {
			err := ended(l.plugin.Run(gctx))
			l.work.Wait()
			return err
		})
		l.plugin.Start()
	} else {
		g.Go(func() error { return ended(h.keepLockDaemon(gctx)) })
		g.Go(func() error { return h.debts.Pay(gctx, h.locks) })
		g.Go(func() error { return h.watchLocks(gctx) })
	}
	for _, s := range h.storage {
		g.Go(func() error { return ended(s.run(gctx)) })
	}
	for _, d := range h.drivers {
		g.Go(func() error {
			err := ended(d.plugin.Run(gctx))
			d.work.Wait()
			return err
		})
		if slices.ContainsFunc(d.inventories(), func(i *domain.Inventory) bool { return i.Waiting(h.bootID) }) {
			d.plugin.Start()
		}
	}
	for _, r := range h.remotes {
		g.Go(func() error { return ended(r.run(gctx)) })
	}
	for _, s := range h.sockets {
		g.Go(func() error { return ended(s.serve(gctx)) })
	}
	h.cfg.Log.Info("host is ready", "socket", h.cfg.Layout.Libvirt(), "plugins", len(h.parts()))
	if h.cfg.Ready != nil {
		h.cfg.Ready()
	}
	return g.Wait()
}

// ended is nil for a part that ended because it was asked to.
func ended(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// close gives back what open took.
func (h *Host) close() error {
	var errs []error
	for _, s := range h.sockets {
		errs = append(errs, s.close())
	}
	h.locks.Close()
	if h.catalog != nil {
		errs = append(errs, h.catalog.Close())
	}
	if h.lock != nil {
		errs = append(errs, h.lock.Release())
	}
	return errors.Join(errs...)
}

// idlePause is the time between two looks at a lock daemon that is to end.
const idlePause = 10 * time.Millisecond

// keepLockDaemon keeps a lock daemon running until the context ends, and then ends one of ours that holds nothing.
func (h *Host) keepLockDaemon(ctx context.Context) error {
	l := h.cfg.Layout
	var command []string
	if h.cfg.LockDaemon != "" {
		command = []string{
			h.cfg.LockDaemon, "--socket", l.Lockd(), "--journal", filepath.Join(l.Run, "lockd.journal"),
			"--pid-file", filepath.Join(l.Run, "lockd.pid"),
		}
	}
	keeper := lockclient.NewKeeper(lockclient.KeeperConfig{
		Client: h.locks, Command: command, LogFile: filepath.Join(l.Log, "lockd.log"), Log: h.cfg.Log.Named("locks"),
		OnReady: h.settleLocks,
	})
	err := keeper.Run(ctx)
	if len(command) > 0 {
		h.endIdleLockDaemon()
	}
	return err
}

// endIdleLockDaemon ends a lock daemon that holds no lock and serves nobody else; one that holds locks stays, for the guests.
func (h *Host) endIdleLockDaemon() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	st, err := h.locks.Status(ctx)
	for err == nil && st.Clients > 1 && ctx.Err() == nil {
		// The keeper's own connection has ended, but the daemon may not have seen that yet.
		time.Sleep(idlePause)
		st, err = h.locks.Status(ctx)
	}
	if err != nil || st.Held+st.Unproven+st.Lost > 0 || st.Clients > 1 {
		return
	}
	p, err := os.FindProcess(st.PID)
	if err == nil {
		err = p.Signal(os.Interrupt)
	}
	if err != nil {
		h.cfg.Log.Warn("idle lock daemon could not be ended", "pid", st.PID, "error", err)
	}
}
