package domain

import (
	"context"
	"sync"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// namespace of the values that the core keeps for its connections.
const namespace = "core/connections"

// Waiting reports whether the driver has something to do before a client calls: guests to be taken back, guests to be started at boot,
// or a first use.
func (i *Inventory) Waiting(bootID string) bool {
	if len(i.Lives()) > 0 {
		return true
	}
	if !i.Seeded() {
		return true
	}
	last, _, err := i.cfg.Catalog.Value(namespace, "autostarted/"+i.cfg.URI)
	return err != nil || string(last) != bootID
}

// Seeded reports whether the connection was used before.
func (i *Inventory) Seeded() bool {
	_, seeded, err := i.cfg.Catalog.Value(namespace, "seeded/"+i.cfg.URI)
	return err == nil && seeded
}

// Seed defines the guests that a connection has from its first use on, once for ever: a user who undefines one does not get it back.
func (i *Inventory) Seed(ctx context.Context, seeds []*pb.Seed) error {
	key := "seeded/" + i.cfg.URI
	if _, done, err := i.cfg.Catalog.Value(namespace, key); err != nil || done {
		return err
	}
	for _, seed := range seeds {
		rsp, id, err := i.validate(ctx, seed.Xml, false)
		if err != nil {
			return err
		}
		if _, err := i.define(ctx, id, rsp, seed.Active); err != nil {
			return err
		}
	}
	return i.cfg.Catalog.Update(func(tx *catalog.Tx) error { return tx.PutValue(namespace, key, []byte{1}) })
}

// autostarters is how many guests are started at once at boot.
const autostarters = 4

// Autostart starts what is to run from boot on, once for each boot of the host. It returns when all were tried; those that failed are
// logged.
func (i *Inventory) Autostart(ctx context.Context, bootID string) error {
	key := "autostarted/" + i.cfg.URI
	if last, _, err := i.cfg.Catalog.Value(namespace, key); err != nil || string(last) == bootID {
		return err
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, autostarters)
	for _, d := range i.all() {
		s := d.state.Load()
		if s.phase != catalog.Inactive || s.hidden || !s.Autostart && !s.seed {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := d.Start(ctx, 0); err != nil {
				i.cfg.Log.Error("guest could not be started at boot", "guest", s.Name, "error", err)
			}
		})
	}
	wg.Wait()
	return i.cfg.Catalog.Update(func(tx *catalog.Tx) error { return tx.PutValue(namespace, key, []byte(bootID)) })
}
