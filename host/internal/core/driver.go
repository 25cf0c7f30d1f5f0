package core

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/host/internal/connection"
	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/host/internal/images"
	"github.com/lodgevirt/lodge/host/internal/manifest"
	"github.com/lodgevirt/lodge/host/internal/node"
	"github.com/lodgevirt/lodge/host/internal/supervise"
	"github.com/lodgevirt/lodge/sdk/fdpass"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
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
	host     *Host
	manifest *manifest.Manifest
	settings *manifest.Settings
	plugin   *supervise.Plugin
	served   []*served
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
	seen := map[string]bool{}
	for _, dir := range h.cfg.PluginDirs {
		manifests, err := manifest.ReadDir(dir)
		if err != nil {
			h.cfg.Log.Error("manifests could not be read", "dir", dir, "error", err)
		}
		for _, m := range manifests {
			if seen[m.Name] || !h.enabled(m.Name) {
				continue
			}
			seen[m.Name] = true
			if err := h.addDriver(m); err != nil {
				return fmt.Errorf("plugin %q: %w", m.Name, err)
			}
		}
	}
	for _, name := range h.cfg.Settings.Plugins.Enabled {
		if !seen[name] {
			return fmt.Errorf("plugin %q is enabled, but none of %v has its manifest", name, h.cfg.PluginDirs)
		}
	}
	return nil
}

func (h *Host) enabled(name string) bool {
	list := h.cfg.Settings.Plugins.Enabled
	return len(list) == 0 || slices.Contains(list, name)
}

func (h *Host) addDriver(m *manifest.Manifest) error {
	settings, err := manifest.ReadSettings(filepath.Join(h.cfg.Layout.Conf, "plugins.d"), m.Name)
	if err != nil || settings.Disabled {
		return err
	}
	d := &driver{host: h, manifest: m, settings: settings}
	restart := supervise.DefaultRestart
	restart.Crashes = h.cfg.Settings.Plugins.CrashesPerMinute
	d.plugin = supervise.New(supervise.Config{
		Manifest: m, Pin: settings.SHA256, Log: h.cfg.Log.Named("plugin"), Restart: restart,
		Dirs: supervise.Dirs{
			Private: filepath.Join(h.cfg.Layout.Run, "plugins", m.Name),
			LogFile: filepath.Join(h.cfg.Layout.Log, "plugins", m.Name+".log"),
		},
		Core: func(g *grpc.Server) {
			corev1.RegisterStateServiceServer(g, &stateService{catalog: h.catalog, plugin: m.Name})
		},
		Configure: d.configure, Recover: d.recover, Idle: d.idle,
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
			Files: sender{d.plugin}, Catalog: h.catalog, Events: h.events, Locks: d.locks(),
			ProcessCPUTime: node.ProcessCPUTime, Log: h.cfg.Log.Named("domain").With("uri", uri),
		})
		if err != nil {
			return err
		}
		conn := connection.New(connection.Config{
			Scheme: scheme, Path: paths[0], Type: m.Type, ErrorDomain: verr.Domain(m.ErrorDomain), Domains: inv, Seeds: m.Seeds,
			Images: d.images(inv), Plugin: d.plugin, Host: h.machine,
		})
		h.router.Add(conn, paths[1:]...)
		h.inventories = append(h.inventories, inv)
		d.served = append(d.served, &served{conn, inv, inv.Watcher()})
	}
	return nil
}

// images are the storage pools of a connection: folders of this machine, for guests whose disks are here.
func (d *driver) images(inv *domain.Inventory) *images.Pools {
	if d.manifest.Disks != manifest.DisksLocal {
		return nil
	}
	return images.New(inv.DiskFolders)
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

// locks are the locks of the driver's guests. The disks of a pretended or remote hypervisor are no files here; their locks are named by
// hash in a folder of their own.
func (d *driver) locks() domain.Locks {
	s := d.host.cfg.Settings.Locks
	if !s.Disks {
		return noLocks{}
	}
	folder := s.FileLockspace
	if d.manifest.Disks == manifest.DisksElsewhere {
		folder = filepath.Join(d.host.cfg.Layout.State, "lockspace", d.manifest.Name)
	}
	return diskLocks{client: d.host.locks, debts: &d.host.debts, folder: folder}
}

// sender hands descriptors to a plugin.
type sender struct{ plugin *supervise.Plugin }

func (s sender) SendFile(ctx context.Context, token []byte, file *os.File) error {
	return s.plugin.Send(ctx, fdpass.Token(token), file)
}

// configure makes the settings of a plugin that has just started.
func (d *driver) configure(desc *basev1.DescribeResponse) (*basev1.ConfigureRequest, error) {
	own, err := manifest.EncodeConfig(d.settings.Config, desc.ConfigKeys)
	if err != nil {
		return nil, err
	}
	l, name := d.host.cfg.Layout, d.manifest.Name
	for _, dir := range []string{l.Guests(name), l.PluginState(name), l.GuestLogs(name)} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("make folder for plugin: %w", err)
		}
	}
	level := d.settings.LogLevel
	if level == "" {
		level = d.host.cfg.Settings.LogLevel
	}
	return &basev1.ConfigureRequest{
		ConfigJson: own, RuntimeDir: l.Guests(name), StateDir: l.PluginState(name), LogDir: l.GuestLogs(name),
		CgroupParent: cgroupParent, LogLevel: level,
	}, nil
}

// cgroupParent is the control group that guests are put below.
const cgroupParent = "lodge"

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

func (d *driver) log() hclog.Logger { return d.host.cfg.Log.With("plugin", d.manifest.Name) }

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
