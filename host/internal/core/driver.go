package core

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/host/internal/config"
	"github.com/lodgevirt/lodge/host/internal/connection"
	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/host/internal/manifest"
	"github.com/lodgevirt/lodge/host/internal/node"
	"github.com/lodgevirt/lodge/host/internal/pool"
	"github.com/lodgevirt/lodge/host/internal/secret"
	"github.com/lodgevirt/lodge/host/internal/supervise"
	"github.com/lodgevirt/lodge/sdk/fdpass"
	corev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/core/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Waits of the package.
const (
	// stopTimeout is how long calls under way may take when the host stops.
	stopTimeout = 10 * time.Second
	// rewatchPause is the time before a watch that broke is tried again.
	rewatchPause = time.Second
	// mendEvery is the time between two questions for guests in doubt.
	mendEvery = 2 * time.Second
)

// driver is a hypervisor's plugin with its connections.
type driver struct {
	part
	served []*served
	// incarnation is the generation of the process that the guests are being recovered by.
	incarnation atomic.Uint64
	// work are the goroutines that look after the guests of a process; they end with it.
	work sync.WaitGroup
}

// served is one connection of a driver.
type served struct {
	conn    *connection.Connection
	domains *domain.Inventory
	watcher *domain.Watcher
}

func (d *driver) inventories() []*domain.Inventory {
	all := make([]*domain.Inventory, len(d.served))
	for n, s := range d.served {
		all[n] = s.domains
	}
	return all
}

// addDrivers reads the manifests and makes a driver of each that is enabled. One that is wrong is left out, and the log says why.
func (h *Host) addDrivers() error {
	found := map[string]*manifest.Manifest{}
	var ordered []*manifest.Manifest
	for _, dir := range h.cfg.PluginDirs {
		manifests, err := manifest.ReadDir(dir)
		if err != nil {
			h.cfg.Log.Error("manifests could not be read", "dir", dir, "error", err)
		}
		for _, m := range manifests {
			if found[m.Name] == nil && h.enabled(m) {
				found[m.Name] = m
				ordered = append(ordered, m)
			}
		}
	}
	// Hypervisors come last, since they use what the others serve.
	for _, kind := range []manifest.Kind{manifest.KindLock, manifest.KindStorage, manifest.KindHypervisor} {
		if kind == manifest.KindHypervisor {
			if err := h.openPools(); err != nil {
				return err
			}
		}
		for _, m := range ordered {
			if m.Kind != kind {
				continue
			}
			if err := h.add(m); err != nil {
				return fmt.Errorf("plugin %q: %w", m.Name, err)
			}
		}
	}
	for _, name := range h.cfg.Settings.Plugins.Enabled {
		if found[name] == nil {
			return fmt.Errorf("plugin %q is enabled, but none of %v has its manifest", name, h.cfg.PluginDirs)
		}
	}
	if name := h.cfg.Settings.Locks.Manager; name != config.BuiltInManager && h.lockPlugin == nil {
		return fmt.Errorf("locks.manager is %q, but none of %v has a manifest of that name and of kind %q that is not disabled",
			name, h.cfg.PluginDirs, manifest.KindLock)
	}
	return nil
}

// enabled reports whether a plugin is to be used: a driver that the list of enabled ones has, and the one lock manager that is named.
func (h *Host) enabled(m *manifest.Manifest) bool {
	if m.Kind == manifest.KindLock {
		return m.Name == h.cfg.Settings.Locks.Manager
	}
	list := h.cfg.Settings.Plugins.Enabled
	return len(list) == 0 || slices.Contains(list, m.Name)
}

func (h *Host) add(m *manifest.Manifest) error {
	switch m.Kind {
	case manifest.KindLock:
		return h.addLockPlugin(m)
	case manifest.KindStorage:
		return h.addStorage(m)
	case manifest.KindHypervisor:
	}
	if m.Inventory == manifest.InventoryDriver {
		return h.addRemote(m)
	}
	return h.addDriver(m)
}

func (h *Host) addDriver(m *manifest.Manifest) error {
	settings, err := h.settings(m)
	if err != nil || settings.Disabled {
		return err
	}
	d := &driver{part: part{host: h, manifest: m, settings: settings}}
	d.plugin = d.supervised(func(c *supervise.Config) {
		c.Recover, c.Idle = d.recover, d.idle
		c.Core = func(g *grpc.Server) {
			d.serveState(g)
			corev1.RegisterLockServiceServer(g, &claimService{driver: d})
		}
	})
	if err := d.connect(); err != nil {
		return err
	}
	h.drivers = append(h.drivers, d)
	return nil
}

// connect makes the driver's connections: its first path is the canonical one, the others are further names of it.
func (d *driver) connect() error {
	h, m := d.host, d.manifest
	paths := d.paths()
	for _, scheme := range m.Schemes {
		uri := scheme + ":///" + paths[0]
		inv, err := domain.New(domain.Config{
			URI: uri, Connection: paths[0], Driver: m.Name, Plugin: d.plugin, Incarnation: d.incarnation.Load,
			Files: sender{d.plugin}, Catalog: h.catalog, Events: h.events, Locks: d.locks(), Volumes: d.volumes(), Secrets: d.values(),
			ProcessCPUTime: node.ProcessCPUTime, SaveDir: h.cfg.Layout.Saves(scheme, paths[0]), Log: h.cfg.Log.Named("domain").With("uri", uri),
		})
		if err != nil {
			return err
		}
		conn := connection.New(connection.Config{
			Scheme: scheme, Path: paths[0], Type: m.Type, ErrorDomain: verr.Domain(m.ErrorDomain), Domains: connection.Kept(inv),
			Seeds: m.Seeds && !inv.Seeded(),
			Pools: d.pools(), Secrets: d.secrets(), Plugin: d.plugin, Host: h.machine,
		})
		h.router.Add(conn, paths[1:]...)
		h.inventories = append(h.inventories, inv)
		d.served = append(d.served, &served{conn, inv, inv.Watcher()})
	}
	return nil
}

// pools and secrets are the host's, for guests whose disks are on this machine.
func (d *driver) pools() *pool.Inventory {
	if d.manifest.Disks != manifest.DisksLocal {
		return nil
	}
	return d.host.pools
}

func (d *driver) secrets() *secret.Store {
	if d.manifest.Disks != manifest.DisksLocal {
		return nil
	}
	return d.host.secrets
}

// volumes and values are the same for what disks name; they are nil, and not an interface of a nil, where there are none.
func (d *driver) volumes() domain.Volumes {
	if p := d.pools(); p != nil {
		return p
	}
	return nil
}

func (d *driver) values() domain.Secrets {
	if s := d.secrets(); s != nil {
		return s
	}
	return nil
}

// paths orders a driver's connections: root is served by "system", whatever it asks for, and a user by "session" alone.
func (d *driver) paths() []string {
	all := d.manifest.Connections
	if !slices.Contains(all, "system") || !slices.Contains(all, "session") {
		return all
	}
	if d.host.cfg.Privileged {
		return []string{"system", "session"}
	}
	return []string{"session"}
}

// sender hands descriptors to a plugin.
type sender struct{ plugin *supervise.Plugin }

func (s sender) SendFile(ctx context.Context, token []byte, file *os.File) error {
	return s.plugin.Send(ctx, fdpass.Token(token), file)
}

// idle reports whether no guest needs the driver's process.
func (d *driver) idle() bool {
	return !slices.ContainsFunc(d.served, func(s *served) bool { return len(s.domains.Lives()) > 0 })
}

// recover takes the guests back by a process that has just come up. A guest that could not be recovered is shown as unknown and does
// not keep the others from their driver.
func (d *driver) recover(ctx context.Context, conn grpc.ClientConnInterface, generation uint64, _ bool) error {
	client := pb.NewDriverServiceClient(conn)
	d.incarnation.Store(generation)
	for _, s := range d.served {
		stream, _, err := s.watcher.Open(ctx, client)
		if err != nil {
			return err
		}
		if err := s.domains.Recover(ctx, client); err != nil {
			d.log().Error("guests could not be recovered", "uri", s.conn.URI, "error", err)
		}
		d.work.Go(func() { s.follow(ctx, d, client, stream) })
		d.work.Go(func() { s.settle(ctx, d, client) })
		d.work.Go(func() { s.mend(ctx) })
	}
	return nil
}

// follow hands the driver's events to the guests for as long as the process lives.
func (s *served) follow(ctx context.Context, d *driver, client pb.DriverServiceClient, stream domain.WatchStream) {
	for stream != nil {
		err := s.watcher.Follow(stream)
		if ctx.Err() != nil {
			return
		}
		d.log().Warn("watch of guests broke", "uri", s.conn.URI, "error", err)
		stream = s.rewatch(ctx, d, client)
	}
}

// rewatch opens a watch that broke again, and recovers the guests if events were missed. It returns nil when the process is gone.
func (s *served) rewatch(ctx context.Context, d *driver, client pb.DriverServiceClient) domain.WatchStream {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rewatchPause):
		}
		if d.incarnation.Load() != d.plugin.Status().Generation {
			return nil
		}
		stream, resync, err := s.watcher.Open(ctx, client)
		if err == nil && resync {
			err = s.domains.Recover(ctx, client)
		}
		if err == nil {
			return stream
		}
		d.log().Warn("guests could not be watched again", "uri", s.conn.URI, "error", err)
	}
}

// mend asks for guests in doubt for as long as the process lives.
func (s *served) mend(ctx context.Context) {
	tick := time.NewTicker(mendEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.domains.Mend(ctx)
		}
	}
}

// settle learns what the driver can do, and does what is due at first use and at boot.
func (s *served) settle(ctx context.Context, d *driver, client pb.DriverServiceClient) {
	probe, err := s.conn.Probe(ctx, client)
	if err != nil {
		d.log().Error("hypervisor could not be probed", "uri", s.conn.URI, "error", err)
		return
	}
	if err := s.domains.Seed(ctx, probe.Seeds); err != nil {
		d.log().Error("first guests could not be defined", "uri", s.conn.URI, "error", err)
	}
	defer s.conn.Settled()
	if err := s.domains.Autostart(ctx, d.host.bootID); err != nil {
		d.log().Error("guests could not be started at boot", "uri", s.conn.URI, "error", err)
	}
}
