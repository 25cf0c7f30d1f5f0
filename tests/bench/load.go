package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// load is what a run of many calls has come to.
type load struct {
	calls int
	took  time.Duration
	// cpu is the processor time that the server's processes have used.
	cpu   time.Duration
	times []time.Duration
}

// rate is calls a second.
func (l load) rate() float64 { return float64(l.calls) / l.took.Seconds() }

// cpuPerCall is the server's processor time for one call.
func (l load) cpuPerCall() time.Duration {
	if l.calls == 0 {
		return 0
	}
	return l.cpu / time.Duration(l.calls)
}

// percentile returns the time that a share of the calls (0 to 1) did not exceed.
func (l load) percentile(share float64) time.Duration {
	if len(l.times) == 0 {
		return 0
	}
	return l.times[min(int(share*float64(len(l.times))), len(l.times)-1)]
}

// samplesMax bounds the calls of one connection in a load, and with them the memory for their times.
const samplesMax = 2_000_000

// errDone, returned by a caller, ends its connection's part of a load.
var errDone = errors.New("done")

// caller makes one call on a connection; n counts the calls of that connection and worker numbers it.
type caller func(c *conn, worker, n int) error

// drive makes calls on a number of connections, each with one call at a time, for a duration or until each connection has made
// limit calls (0: as many as there is memory for).
func drive(ctx context.Context, t target, conns, limit int, d time.Duration, do caller) (load, error) {
	open := func(int) (*conn, error) { return dial(t.socket(), t.uri()) }
	return spread(ctx, t.pids, open, conns, limit, d, do)
}

// spread is drive for connections of any kind, to a server with some processes. open makes the connection of a worker.
func spread[C interface{ Close() }](ctx context.Context, pids func() []int, open func(worker int) (C, error),
	conns, limit int, d time.Duration, do func(c C, worker, n int) error,
) (load, error) {
	if limit == 0 {
		limit = samplesMax
	}
	all := make([]C, 0, conns)
	defer func() {
		for _, c := range all {
			c.Close()
		}
	}()
	for w := range conns {
		c, err := open(w)
		if err != nil {
			return load{}, err
		}
		all = append(all, c)
	}
	var (
		wg      sync.WaitGroup
		samples = make([][]time.Duration, conns)
		errs    = make([]error, conns)
		before  = cpuTime(pids())
		start   = time.Now()
	)
	for w, c := range all {
		wg.Go(func() {
			for n := 0; n < limit && time.Since(start) < d && ctx.Err() == nil; n++ {
				began := time.Now()
				err := do(c, w, n)
				if errors.Is(err, errDone) {
					return
				}
				if err != nil {
					errs[w] = fmt.Errorf("call %d of connection %d: %w", n, w, err)
					return
				}
				samples[w] = append(samples[w], time.Since(began))
			}
		})
	}
	wg.Wait()
	l := load{took: time.Since(start), cpu: cpuTime(pids()) - before, times: slices.Concat(samples...)}
	l.calls = len(l.times)
	slices.Sort(l.times)
	return l, errors.Join(append(errs, ctx.Err())...)
}
