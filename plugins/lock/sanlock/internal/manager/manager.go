package manager

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/client"
	"github.com/lodgevirt/lodge/sdk/lock"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// maxListed is how many locks List tells of.
const maxListed = 16384

// Manager implements lock.Manager. Make one with New.
type Manager struct {
	lock.Feed
	core plugin.Core
	log  hclog.Logger

	// loops counts what Close waits for, ending ends it.
	loops  sync.WaitGroup
	ending context.CancelFunc
	// wake has the watch look at once.
	wake chan struct{}
	// began is when this manager was made, by CLOCK_MONOTONIC in seconds.
	began uint64

	mu     sync.Mutex // guards all below
	config *config
	client *client.Client
	owners map[key]*owner
	space  space
	seen   map[string]renewal
}

// Compile-time guards.
var (
	_ lock.Manager      = (*Manager)(nil)
	_ plugin.Configurer = (*Manager)(nil)
	_ plugin.Diagnoser  = (*Manager)(nil)
	_ plugin.Closer     = (*Manager)(nil)
)

// Plugin is the lock manager as a plugin of a version.
func Plugin(version string) plugin.Plugin {
	return plugin.Plugin{
		Name: "sanlock", Version: version, ConfigKeys: configKeys(),
		LockManager: func(core plugin.Core) (lock.Manager, error) { return New(core), nil },
	}
}

// New returns a manager that does nothing until it is configured.
func New(core plugin.Core) *Manager {
	m := &Manager{
		core: core, log: core.Logger(), wake: make(chan struct{}, 1), owners: map[key]*owner{}, seen: map[string]renewal{},
		space: space{changed: make(chan struct{})}, began: monotonic(),
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.ending = cancel
	m.loops.Go(func() { m.watch(ctx) })
	m.loops.Go(func() { m.tidy(ctx) })
	return m
}

// Configure implements plugin.Configurer. Settings by which leases are found can't change while guests have some.
func (m *Manager) Configure(_ context.Context, settings plugin.Settings) error {
	c, err := parseConfig(settings.Config)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.config != nil && len(m.owners) > 0 && m.config.moves(c) {
		return verr.New(verr.ConfigUnsupported,
			"host_id, auto_disk_leases, disk_lease_dir and run_dir of the lock manager sanlock cannot change while guests have leases")
	}
	m.config, m.client = c, client.New(c.RunDir)
	m.space.reset()
	m.look()
	return nil
}

// look has the watch look at once.
func (m *Manager) look() {
	select {
	case m.wake <- struct{}{}:
	default: // it will anyhow
	}
}

// settings returns the present settings and the daemon that they name.
func (m *Manager) settings() (*config, *client.Client, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.config == nil {
		return nil, nil, verr.New(verr.Internal, "lock manager is not configured yet")
	}
	return m.config, m.client, nil
}

// Diagnose implements plugin.Diagnoser.
func (m *Manager) Diagnose(context.Context) map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	facts := map[string]string{}
	if m.config != nil {
		facts["daemon"] = m.client.Socket()
		facts["lockspace"] = m.space.String(m.config)
	}
	return facts
}

// Close implements plugin.Closer. Guests keep their leases.
func (m *Manager) Close(context.Context) error {
	m.ending()
	m.loops.Wait()
	return nil
}

// List implements lock.Manager.
func (m *Manager) List(context.Context) ([]*pb.Lease, error) {
	var all []*pb.Lease
	m.each(func(o *owner) {
		for _, h := range o.leases {
			if len(all) < maxListed && h.status != pb.Status_STATUS_UNSPECIFIED {
				all = append(all, h.tell(o.who))
			}
		}
	})
	return all, nil
}

// pause waits, unless the context ends first.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// failure turns an error of the daemon into one for the core, unless it is one already.
func failure(err error) error {
	var own *verr.Error
	switch {
	case err == nil, errors.As(err, &own), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return err
	}
	return verr.New(verr.OperationFailed, "%w", err)
}
