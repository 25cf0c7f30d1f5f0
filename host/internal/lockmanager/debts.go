package lockmanager

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/lockclient"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
)

// payEvery is the time between two attempts to release what is owed.
const payEvery = time.Second

// debt is one life of a guest of which locks are still to be released.
type debt struct {
	uuid       uuid.UUID
	generation uint64
}

// owed is what is to be released of a life: all, or some.
type owed struct {
	all  bool
	some []lockspace.Resource
}

// Debts are the releases that the lock daemon has not heard of. The zero value owes nothing.
type Debts struct {
	mu    sync.Mutex // guards the fields below; never held across a call
	lives map[debt]owed
	// paying has a channel for each life whose debt is being paid, which is closed then.
	paying map[debt]chan struct{}
}

// add owes some of a life's locks, or all if none is named.
func (d *Debts) add(l debt, some ...lockspace.Resource) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lives == nil {
		d.lives, d.paying = map[debt]owed{}, map[debt]chan struct{}{}
	}
	o := d.lives[l]
	o.all = o.all || len(some) == 0
	o.some = append(o.some, some...)
	d.lives[l] = o
}

// forgive takes back what is owed of locks that are about to be wanted, so that it is not paid once they are held.
func (d *Debts) forgive(ctx context.Context, l debt, some []lockspace.Resource) error {
	for {
		d.mu.Lock()
		paid := d.paying[l]
		if o, owes := d.lives[l]; owes && paid == nil && !o.all {
			o.some = slices.DeleteFunc(o.some, func(r lockspace.Resource) bool {
				return slices.ContainsFunc(some, func(s lockspace.Resource) bool { return s.Path() == r.Path() })
			})
			if d.lives[l] = o; len(o.some) == 0 {
				delete(d.lives, l)
			}
		}
		d.mu.Unlock()
		if paid == nil {
			return nil
		}
		select {
		case <-paid:
		case <-ctx.Done():
			return fmt.Errorf("wait for locks to be released: %w", ctx.Err())
		}
	}
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
			d.payOnce(ctx, client.Release)
		}
	}
}

// release frees locks of a life: some, or all if none is named.
type release func(ctx context.Context, id uuid.UUID, generation uint64, some ...lockspace.Resource) (int, error)

// payOnce releases what is owed; what fails again is owed still.
func (d *Debts) payOnce(ctx context.Context, pay release) {
	d.mu.Lock()
	lives := slices.Collect(maps.Keys(d.lives))
	d.mu.Unlock()
	for _, l := range lives {
		d.payFor(ctx, l, pay)
	}
}

func (d *Debts) payFor(ctx context.Context, l debt, pay release) {
	d.mu.Lock()
	o, owes := d.lives[l]
	paid := make(chan struct{})
	if owes {
		delete(d.lives, l)
		d.paying[l] = paid
	}
	d.mu.Unlock()
	if !owes {
		return
	}
	if o.all {
		o.some = nil
	}
	_, err := pay(ctx, l.uuid, l.generation, o.some...)
	d.mu.Lock()
	delete(d.paying, l)
	d.mu.Unlock()
	if err != nil {
		d.add(l, o.some...)
	}
	close(paid)
}
