package lockclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/host/internal/xdr"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Change is what became of a lease.
type Change struct {
	// Number is the lease's.
	Number uint64
	// State is its state now, or its last one if it has ended.
	State State
	// Ended says that it was ended by force.
	Ended bool
	// Resync says that nothing is known of what has happened until now: whoever wants to know lists the leases. Then nothing else is
	// set. It is the first change always, and comes again after the daemon was away or there was more than it could tell.
	Resync bool
}

// Watch calls f for every change that a lease undergoes by itself or by force: its lock is lost, or had again, or was taken away. What owners
// do themselves is not told. It has a connection of its own, which it makes again whenever it is lost; a slow f loses changes, and
// gets a Resync for them. It returns when the context ends, the client is closed, or the daemon does not know how to watch.
func (c *Client) Watch(ctx context.Context, f func(Change)) error {
	for wait := firstPause; ; wait = min(2*wait, lastPause) {
		answered, err := c.watch(ctx, f)
		var refused *verr.Error
		switch {
		case c.over(ctx) != nil || errors.As(err, &refused):
			return fmt.Errorf("watch leases: %w", err)
		case answered:
			wait = firstPause
		}
		pause(ctx, wait)
	}
}

// watch is Watch on one connection. It tells whether the daemon ever answered.
func (c *Client) watch(ctx context.Context, f func(Change)) (answered bool, err error) {
	var d net.Dialer
	raw, err := d.DialContext(ctx, "unix", c.path)
	if err != nil {
		return false, errors.Join(c.over(ctx), err)
	}
	var guard sync.WaitGroup
	ended := make(chan struct{})
	guard.Go(func() {
		select {
		case <-ctx.Done():
		case <-c.done:
		case <-ended:
		}
		raw.Close()
	})
	answered, err = follow(raw, f)
	close(ended)
	guard.Wait()
	return answered, errors.Join(c.over(ctx), err)
}

// over returns why nothing more is to be done, or nil.
func (c *Client) over(ctx context.Context) error {
	select {
	case <-c.done:
		return ErrClosed
	default:
		return ctx.Err()
	}
}

// follow asks to be told of changes and passes them on until the connection ends.
func follow(raw net.Conn, f func(Change)) (answered bool, err error) {
	if err := raw.SetDeadline(time.Now().Add(writeTimeout)); err != nil {
		return false, err
	}
	w := rpc.NewWriter(raw, writeTimeout)
	h := rpc.Header{Program: lockproto.Program, Version: lockproto.Version, Procedure: lockproto.Watch, Type: rpc.Call}
	if err := w.Send(h, nil); err != nil {
		return false, err
	}
	r := rpc.NewReader(raw, rpc.ReaderConfig{FrameTimeout: writeTimeout})
	defer r.Close()
	for {
		frame, err := r.Next()
		switch {
		case err != nil:
			return answered, err
		case frame.Type == rpc.Reply:
			if _, err := finish(frame, nil); err != nil {
				return true, err
			}
			answered = true
			if err := raw.SetDeadline(time.Time{}); err != nil {
				return true, err
			}
			f(Change{Resync: true})
		case frame.Type == rpc.Message && frame.Procedure == lockproto.Changed:
			var change lockproto.Change
			if _, err := xdr.Unmarshal(frame.Payload, &change); err != nil {
				return answered, fmt.Errorf("decode change of a lease: %w", err)
			}
			if change.Missed {
				f(Change{Resync: true})
			} else {
				f(Change{Number: change.Number, State: State(change.State), Ended: change.Ended})
			}
		}
	}
}
