package core

import (
	"context"
	"os"
	"path/filepath"
	"sync"

	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/host/internal/manifest"
	"github.com/lodgevirt/lodge/host/internal/pool"
	"github.com/lodgevirt/lodge/host/internal/secret"
	"github.com/lodgevirt/lodge/host/internal/supervise"
)

// storagePlugin is a plugin that serves storage pools of some types.
type storagePlugin struct {
	part
	// work makes the pools usable again by a process; it ends with it.
	work sync.WaitGroup
}

func (h *Host) addStorage(m *manifest.Manifest) error {
	settings, err := h.settings(m)
	if err != nil || settings.Disabled {
		return err
	}
	s := &storagePlugin{part: part{host: h, manifest: m, settings: settings}}
	s.plugin = s.supervised(func(c *supervise.Config) { c.Recover = s.recover })
	h.storage = append(h.storage, s)
	return nil
}

// openPools reads secrets and pools, once the drivers of the latter are known.
func (h *Host) openPools() error {
	var err error
	key := secret.KeySource{Credentials: os.Getenv("CREDENTIALS_DIRECTORY"), File: filepath.Join(h.cfg.Layout.State, "secret.key")}
	if h.secrets, err = secret.Open(h.catalog, h.events, key); err != nil {
		return err
	}
	backends := map[string]grpc.ClientConnInterface{}
	for _, s := range h.storage {
		for _, kind := range s.manifest.PoolTypes {
			if backends[kind] == nil {
				backends[kind] = s.plugin
			}
		}
	}
	h.pools, err = pool.New(pool.Config{
		Catalog: h.catalog, Events: h.events, Secrets: h.secrets, Boot: h.bootID, Backends: backends, Tasks: &h.tasks, Log: h.cfg.Log.Named("pool"),
	})
	return err
}

// recover makes the pools usable by a process that has just come up, in the background: clients' calls need not wait for each of them.
func (s *storagePlugin) recover(ctx context.Context, conn grpc.ClientConnInterface, _ uint64, _ bool) error {
	s.work.Go(func() { s.host.pools.Recover(ctx, conn, s.manifest.PoolTypes) })
	return nil
}

// run supervises the plugin until the context ends.
func (s *storagePlugin) run(ctx context.Context) error {
	if s.host.pools.Waiting(s.manifest.PoolTypes) {
		s.plugin.Start()
	}
	err := s.plugin.Run(ctx)
	s.work.Wait()
	return err
}
