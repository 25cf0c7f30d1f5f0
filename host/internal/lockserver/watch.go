package lockserver

import (
	"context"
	"errors"
	"sync"

	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/host/internal/xdr"
)

const (
	// tableQueue is how many changes the table keeps for a client whose goroutine has not had its turn yet.
	tableQueue = 64
	// clientQueue is how many changes wait for a client to read.
	clientQueue = 1024
)

// watch is a client's wish to be told of changes.
type watch struct {
	mu     sync.Mutex
	cancel context.CancelFunc // nil while nobody watches
	queue  []lockproto.Change
	missed bool
}

// begin starts to watch, unless the client does so already. It may have missed changes before.
func (w *watch) begin(c *session, missed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cancel != nil {
		return
	}
	var ctx context.Context
	ctx, w.cancel = context.WithCancel(c.server.calls)
	w.missed = missed
	changes := c.server.table.Watch(tableQueue)
	c.server.work.Go(func() {
		defer changes.Close()
		for {
			change, err := changes.Next(ctx)
			if err != nil && !errors.Is(err, leases.ErrMissed) {
				return
			}
			w.add(change, err != nil)
			c.client.Pull()
		}
	})
}

// add queues a change, or notes that some were missed.
func (w *watch) add(change leases.Change, missed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if missed || w.missed || len(w.queue) == clientQueue {
		w.missed, w.queue = true, nil
		return
	}
	w.queue = append(w.queue, lockproto.Change{Number: change.Number, State: uint32(change.State), Ended: change.Ended})
}

// end stops to watch.
func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cancel != nil {
		w.cancel()
	}
}

// on reports whether somebody watches.
func (w *watch) on() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cancel != nil
}

// next takes the change that is to be told next.
func (w *watch) next() (change lockproto.Change, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.missed:
		w.missed = false
		return lockproto.Change{Missed: true}, true
	case len(w.queue) == 0:
		return change, false
	}
	change, w.queue = w.queue[0], w.queue[1:]
	return change, true
}

// Next implements hub.Source.
func (c *session) Next() (h rpc.Header, payload []byte, ok bool) {
	change, ok := c.watch.next()
	if !ok {
		return h, nil, false
	}
	payload, err := xdr.Append(nil, &change)
	if err != nil {
		c.server.log.Error("change of a lease cannot be told", "lease", change.Number, "error", err)
		return h, nil, false
	}
	return rpc.Header{Program: lockproto.Program, Version: lockproto.Version, Procedure: lockproto.Changed, Type: rpc.Message}, payload, true
}
