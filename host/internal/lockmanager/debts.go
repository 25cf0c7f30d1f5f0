package lockmanager

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/lockclient"
)

// payEvery is the time between two attempts to release what is owed.
const payEvery = time.Second

// debt is one life of a guest whose locks are still to be released.
type debt struct {
	uuid       uuid.UUID
	generation uint64
}

// Debts are the releases that the lock daemon has not heard of. The zero value owes nothing.
type Debts struct {
	mu    sync.Mutex // guards lives
	lives map[debt]bool
}

func (d *Debts) add(l debt) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lives == nil {
		d.lives = map[debt]bool{}
	}
	d.lives[l] = true
}

// Pay releases what is owed, again and again, until the context ends.
func (d *Debts) Pay(ctx context.Context, client *lockclient.Client) error {
	tick := time.NewTicker(payEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			d.payOnce(ctx, client)
		}
	}
}

// payOnce releases what is owed; what fails again is owed still.
func (d *Debts) payOnce(ctx context.Context, client *lockclient.Client) {
	d.mu.Lock()
	lives := d.lives
	d.lives = nil
	d.mu.Unlock()
	for l := range lives {
		if _, err := client.Release(ctx, l.uuid, l.generation); err != nil {
			d.add(l)
		}
	}
}
