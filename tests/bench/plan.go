package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/lodgevirt/lodge/tests/wire"
)

// plan says how much is measured.
type plan struct {
	// window is how long each load runs.
	window time.Duration
	// starts is how many guests are started one after another.
	starts int
	// small and large are the numbers of definitions.
	small, large int
	// repeat is how often short figures are taken; the median counts.
	repeat int
	// fewLocks and manyLocks are the numbers of locks.
	fewLocks, manyLocks int
	// content is how much is written to a volume and read from it, in bytes.
	content int64
	// machines are the numbers of virtual machines of an ESX host.
	machines []int
}

var (
	fullPlan = plan{
		window: 3 * time.Second, starts: 10, small: 1000, large: 10000, repeat: 5, fewLocks: 1000, manyLocks: 10000, content: 1 << 30,
		machines: []int{10, 100, 1000},
	}
	quickPlan = plan{
		window: 700 * time.Millisecond, starts: 4, small: 200, large: 2000, repeat: 3, fewLocks: 1000, manyLocks: 10000, content: 128 << 20,
		machines: []int{10, 100},
	}
)

// together is how many connections the figures for many clients use.
const together = 16

// settle is how long a daemon is left alone before it is killed.
const settle = time.Second

// guests is how many guests run when the daemon is killed.
const guests = 10

// meter measures one target.
type meter struct {
	t    target
	plan plan
	r    *result
}

// measure takes every figure of a target. What could be measured before an error is in the result.
func measure(ctx context.Context, t target, p plan) (r *result, err error) {
	m := &meter{t: t, plan: p, r: newResult(t.name())}
	defer func() { err = errors.Join(err, t.close()) }()
	steps := []struct {
		what string
		run  func(context.Context) error
	}{
		{"start-up without domains", func(ctx context.Context) error { return m.startUp(ctx, 0) }},
		{fmt.Sprintf("start-up with %d domains", p.small), func(ctx context.Context) error { return m.startUp(ctx, p.small) }},
		{"calls", m.calls},
		{"define", m.define},
		{"start and destroy", m.guests},
		{"restart with guests", m.restart},
		{fmt.Sprintf("start-up with %d domains", p.large), func(ctx context.Context) error { return m.startUp(ctx, p.large) }},
		{"lists", m.lists},
	}
	for _, s := range steps {
		progress(os.Stderr, "%s: %s", t.name(), s.what)
		if err := s.run(ctx); err != nil {
			return m.r, fmt.Errorf("%s: %w", s.what, err)
		}
	}
	return m.r, nil
}

// startUp measures from launch until a list of n domains is complete. The first start is not counted: daemons learn about QEMU then.
func (m *meter) startUp(ctx context.Context, n int) error {
	if err := m.t.seed(ctx, n); err != nil {
		return err
	}
	if n == 0 {
		if err := m.warmUp(ctx); err != nil {
			return err
		}
	}
	repeat := m.plan.repeat
	if n == m.plan.large {
		repeat = 1
	}
	var times []time.Duration
	for range repeat {
		if err := m.t.stop(ctx); err != nil {
			return err
		}
		d, err := begin(ctx, m.t, n)
		if err != nil {
			return err
		}
		times = append(times, d)
	}
	m.r.time(fmt.Sprintf("start-up until a list is complete, %d domains", n), median(times))
	if n > 0 {
		if err := m.t.settle(ctx); err != nil {
			return err
		}
		m.r.size(fmt.Sprintf("resident memory, %d definitions", n), residentMiB(m.t.pids()))
	}
	return nil
}

// warmUp lets the daemon probe QEMU by starting a guest once.
func (m *meter) warmUp(ctx context.Context) error {
	if _, err := begin(ctx, m.t, 0); err != nil {
		return err
	}
	c, err := dial(m.t.socket(), m.t.uri())
	if err != nil {
		return err
	}
	defer c.Close()
	dom, err := createPaused(c, tiny("bench-warm-up"))
	if err != nil {
		return err
	}
	return destroy(c, dom)
}

// calls measures the calls that a daemon answers by itself.
func (m *meter) calls(ctx context.Context) error {
	name := wire.String(nil, domainName(m.plan.small/2))
	c, err := dial(m.t.socket(), m.t.uri())
	if err != nil {
		return err
	}
	dom, err := lookup(c, domainName(m.plan.small/2))
	c.Close()
	if err != nil {
		return err
	}
	getXML := wire.Uint32(dom, 0)
	for _, call := range []struct {
		what string
		proc uint32
		args []byte
	}{
		{"smallest call (ConnectGetLibVersion)", procLibVersion, nil},
		{"lookup by name", procLookupName, name},
		{"XML of a domain", procGetXMLDesc, getXML},
	} {
		for _, conns := range []int{1, together} {
			l, err := drive(ctx, m.t, conns, 0, m.plan.window, func(c *conn, _, _ int) error {
				_, err := c.call(call.proc, call.args)
				return err
			})
			if err != nil {
				return fmt.Errorf("%s: %w", call.what, err)
			}
			m.r.load(call.what, conns, l)
		}
	}
	return nil
}

// define measures definitions that are acknowledged, and removes them again.
func (m *meter) define(ctx context.Context) error {
	for _, conns := range []int{1, together} {
		defined := make([][][]byte, conns)
		l, err := drive(ctx, m.t, conns, 0, m.plan.window, func(c *conn, worker, n int) error {
			dom, err := define(c, definition(fmt.Sprintf("bench-new-%d-%d", worker, n)))
			defined[worker] = append(defined[worker], dom)
			return err
		})
		if err != nil {
			return err
		}
		m.r.load("define", conns, l)
		if _, err := drive(ctx, m.t, conns, 0, time.Minute, func(c *conn, worker, n int) error {
			if n >= len(defined[worker]) {
				return errDone
			}
			return undefine(c, defined[worker][n])
		}); err != nil {
			return err
		}
	}
	return nil
}

// guests measures starting and destroying paused guests, one after another and many at once.
func (m *meter) guests(ctx context.Context) error {
	started := make([][]byte, together)
	start := func(c *conn, worker, n int) (err error) {
		started[worker], err = createPaused(c, tiny(fmt.Sprintf("bench-guest-%d", worker)))
		return err
	}
	end := func(c *conn, worker, _ int) error { return destroy(c, started[worker]) }
	var starts, ends []time.Duration
	for range m.plan.starts {
		s, err := drive(ctx, m.t, 1, 1, time.Minute, start)
		if err != nil {
			return err
		}
		e, err := drive(ctx, m.t, 1, 1, time.Minute, end)
		if err != nil {
			return err
		}
		starts, ends = append(starts, s.times...), append(ends, e.times...)
	}
	m.r.time("start a paused guest", median(starts))
	m.r.time("destroy it", median(ends))
	s, err := drive(ctx, m.t, together, 1, time.Minute, start)
	if err != nil {
		return err
	}
	m.r.rate(fmt.Sprintf("start, %d at once", together), s)
	e, err := drive(ctx, m.t, together, 1, time.Minute, end)
	if err != nil {
		return err
	}
	m.r.rate(fmt.Sprintf("destroy, %d at once", together), e)
	return nil
}

// restart measures from the start after SIGKILL until the list is complete and every guest answers.
func (m *meter) restart(ctx context.Context) error {
	var wg sync.WaitGroup
	errs := make([]error, guests)
	doms := make([][]byte, guests)
	for i := range guests {
		wg.Go(func() {
			c, err := dial(m.t.socket(), m.t.uri())
			if err != nil {
				errs[i] = err
				return
			}
			defer c.Close()
			doms[i], errs[i] = createPaused(c, tiny(fmt.Sprintf("bench-guest-%d", i)))
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	var times []time.Duration
	for range m.plan.repeat {
		// libvirtd loses guests that it has not finished reconnecting to.
		time.Sleep(settle)
		if err := m.t.kill(ctx); err != nil {
			return err
		}
		began := time.Now()
		if _, err := begin(ctx, m.t, m.plan.small+guests); err != nil {
			return err
		}
		if err := m.allAnswer(ctx); err != nil {
			return err
		}
		times = append(times, time.Since(began))
	}
	m.r.time(fmt.Sprintf("restart after SIGKILL, %d guests, until all answer", guests), median(times))
	c, err := dial(m.t.socket(), m.t.uri())
	if err != nil {
		return err
	}
	defer c.Close()
	for i := range guests {
		errs[i] = destroy(c, doms[i])
	}
	return errors.Join(errs...)
}

// allAnswer asks for the figures of the guests' vCPUs, which lodged has from its driver and libvirtd from the monitor, until all
// guests have answered.
func (m *meter) allAnswer(ctx context.Context) error {
	c, err := dial(m.t.socket(), m.t.uri())
	if err != nil {
		return err
	}
	defer c.Close()
	args := wire.Uint32(wire.Uint32(wire.Uint32(nil, 0), statsVCPU), listActive)
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		reply, err := c.call(procAllStats, args)
		if err != nil {
			return err
		}
		answered := bytes.Count(reply, []byte("vcpu.current"))
		if answered == guests {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Since(start) > time.Minute {
			return fmt.Errorf("%d of %d guests answer after a minute", answered, guests)
		}
	}
}

// lists measures the calls whose answers grow with the number of domains.
func (m *meter) lists(ctx context.Context) error {
	for _, list := range []struct {
		what string
		do   func(c *conn) (int, error)
	}{
		{"list all", func(c *conn) (int, error) { return listCount(c, 0) }},
		{"statistics (state) of all", allStats},
	} {
		l, err := drive(ctx, m.t, 1, 0, m.plan.window, func(c *conn, _, _ int) error {
			n, err := list.do(c)
			if err == nil && n != m.plan.large {
				err = fmt.Errorf("%d domains in the answer, want %d", n, m.plan.large)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", list.what, err)
		}
		m.r.answer(fmt.Sprintf("%s, %d domains", list.what, m.plan.large), l)
	}
	return nil
}

// median returns the middle of some durations.
func median(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Clone(d)
	slices.Sort(d)
	return d[len(d)/2]
}
