package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/lodgevirt/lodge/tests/lockd"
)

// lockRounds is how often each lock daemon is measured, in turns with the other, so that what else the machine does falls on both. Each figure
// is the median.
const lockRounds = 3

// measureLocks measures the lock daemons.
func measureLocks(ctx context.Context, who chosen, bin, scratch string, p plan) ([]*result, error) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the lock daemons are not measured: their folders need root")
		return nil, nil
	}
	var makers []func(dir string) (*keeper, error)
	if who.ours {
		makers = append(makers, func(dir string) (*keeper, error) { return newOurs(ctx, bin, dir) })
	}
	if who.theirs {
		makers = append(makers, func(dir string) (*keeper, error) { return newTheirs(ctx, dir) })
	}
	rounds := make([][]*result, len(makers))
	var errs []error
	for n := range lockRounds {
		for i, make := range makers {
			r, err := measureRound(ctx, make, scratch, p)
			if err != nil {
				errs = append(errs, fmt.Errorf("round %d: %w", n+1, err))
			}
			if r != nil {
				rounds[i] = append(rounds[i], r)
			}
		}
	}
	var results []*result
	for _, r := range rounds {
		if len(r) > 0 {
			results = append(results, middle(r))
		}
	}
	return results, errors.Join(errs...)
}

// measureRound measures a lock daemon that it starts and ends.
func measureRound(ctx context.Context, make func(dir string) (*keeper, error), scratch string, p plan) (*result, error) {
	dir, err := memory(scratch)
	if err != nil {
		return nil, err
	}
	k, err := make(dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	fmt.Fprintf(os.Stderr, "measuring %s\n", k.title)
	r, err := measureKeeper(ctx, k, p)
	if err != nil {
		err = fmt.Errorf("measure %s: %w", k.title, err)
	}
	return r, err
}

// lockMeter measures one lock daemon.
type lockMeter struct {
	*keeper
	plan plan
	r    *result
	// owners are processes for whom locks are taken.
	owners []*exec.Cmd
	// holder has the locks that are held in large numbers.
	holder *lockd.Client
}

// measureKeeper takes every figure of a lock daemon. What could be measured before an error is in the result.
func measureKeeper(ctx context.Context, k *keeper, p plan) (r *result, err error) {
	m := &lockMeter{keeper: k, plan: p, r: newResult(k.title)}
	defer func() { err = errors.Join(err, m.end()) }()
	if err := m.begin(ctx); err != nil {
		return m.r, err
	}
	many := func(n int) func(context.Context) error {
		return func(ctx context.Context) error { return m.reexecution(ctx, n) }
	}
	for _, s := range []struct {
		what string
		run  func(context.Context) error
	}{
		{"memory", m.idle},
		{"pairs", m.pairs},
		{"a refusal", m.refusal},
		{fmt.Sprintf("%d locks", p.fewLocks), func(context.Context) error { return m.hold(0, p.fewLocks) }},
		{fmt.Sprintf("re-execution with %d locks", p.fewLocks), many(p.fewLocks)},
		{fmt.Sprintf("%d locks", p.manyLocks), func(context.Context) error { return m.hold(p.fewLocks, p.manyLocks) }},
		{fmt.Sprintf("re-execution with %d locks", p.manyLocks), many(p.manyLocks)},
		{"restart after SIGKILL", m.restart},
	} {
		progress(os.Stderr, "%s: %s", k.title, s.what)
		if err := s.run(ctx); err != nil {
			return m.r, fmt.Errorf("%s: %w", s.what, err)
		}
	}
	return m.r, nil
}

// begin starts the daemon and the owners' processes.
func (m *lockMeter) begin(ctx context.Context) error {
	for range together + 1 {
		cmd := exec.CommandContext(context.WithoutCancel(ctx), "sleep", "3600")
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start an owner: %w", err)
		}
		m.owners = append(m.owners, cmd)
	}
	return m.start(ctx)
}

// end ends everything.
func (m *lockMeter) end() error {
	if m.holder != nil {
		m.holder.Close()
	}
	err := m.close()
	for _, cmd := range m.owners {
		_ = cmd.Process.Kill() // It does nothing but wait for that.
		_ = cmd.Wait()
	}
	return err
}

// dial connects for the owner of a number.
func (m *lockMeter) dial(n int) (*lockd.Client, error) { return m.owner(n, m.owners[n].Process.Pid) }

func (m *lockMeter) idle(context.Context) error {
	m.r.size("resident memory, no lock", residentMiB(m.pids()))
	return nil
}

// pairs measures taking and dropping a lock whose file is made and removed with it.
func (m *lockMeter) pairs(ctx context.Context) error {
	for _, conns := range []int{1, together} {
		l, err := spread(ctx, m.pids, m.dial, conns, 0, m.plan.window/lockRounds, func(c *lockd.Client, worker, _ int) error {
			name := fmt.Sprint("pair-", worker)
			if err := c.Acquire(m.space(), name, lockd.Autocreate); err != nil {
				return err
			}
			return c.Release(m.space(), name)
		})
		if err != nil {
			return err
		}
		m.r.load("take and drop a lock", conns, l)
	}
	return nil
}

// refusal measures the answer to who asks for a lock that another has.
func (m *lockMeter) refusal(ctx context.Context) error {
	holder, err := m.dial(together)
	if err != nil {
		return err
	}
	defer holder.Close()
	if err := holder.Acquire(m.space(), "held", lockd.Autocreate); err != nil {
		return err
	}
	l, err := spread(ctx, m.pids, m.dial, 1, 0, m.plan.window/lockRounds, func(c *lockd.Client, _, _ int) error {
		return m.refused(c, "held")
	})
	if err != nil {
		return err
	}
	m.r.answer("refusal of a lock that is held", l)
	return holder.Release(m.space(), "held")
}

// refused asks for a lock that another has.
func (m *lockMeter) refused(c *lockd.Client, name string) error {
	if err := c.Acquire(m.space(), name, lockd.Autocreate); err == nil {
		return fmt.Errorf("the lock %s was free", name)
	} else if !lockd.Busy(err) {
		return err
	}
	return nil
}

func lockName(n int) string { return fmt.Sprintf("lock-%05d", n) }

// hold takes locks in a row, which stay held, and measures what memory they cost.
func (m *lockMeter) hold(first, last int) (err error) {
	if m.holder == nil {
		if m.holder, err = m.dial(together); err != nil {
			return err
		}
	}
	began := time.Now()
	for n := first; n < last; n++ {
		if err := m.holder.Acquire(m.space(), lockName(n), lockd.Autocreate); err != nil {
			return fmt.Errorf("lock %d: %w", n, err)
		}
	}
	took := time.Since(began)
	rate := float64(last-first) / took.Seconds()
	m.r.add(figure{what: fmt.Sprintf("take %d locks in a row, %d in all", last-first, last), text: fmt.Sprintf("%.0f/s", rate), value: rate, more: true})
	m.r.size(fmt.Sprintf("resident memory, %d locks", last), residentMiB(m.pids()))
	return nil
}

// reexecution measures from SIGUSR1 until the next answer on a connection that was open before. The call is made once the daemon
// executes itself: virtlockd does not answer what came before that.
func (m *lockMeter) reexecution(_ context.Context, locks int) error {
	what := fmt.Sprintf("re-execution with %d locks until the next answer", locks)
	c, err := m.dial(0)
	if err != nil {
		return err
	}
	defer c.Close()
	var times []time.Duration
	before := cpuTime(m.pids())
	for range lockRounds {
		began := time.Now()
		if err := m.reexecute(); err != nil {
			m.r.none(what, "-")
			fmt.Fprintln(os.Stderr, "  not measured:", err)
			return nil
		}
		if err := m.refused(c, lockName(0)); err != nil {
			return err
		}
		times = append(times, time.Since(began))
		if err := m.refused(c, lockName(locks-1)); err != nil {
			return err
		}
	}
	m.r.costly(what, median(times), (cpuTime(m.pids())-before)/lockRounds)
	m.r.size(fmt.Sprintf("resident memory after re-execution, %d locks", locks), residentMiB(m.pids()))
	return nil
}

// restart measures from SIGKILL, with the time that it takes to start the next daemon, until that has every lock.
func (m *lockMeter) restart(ctx context.Context) error {
	what := fmt.Sprintf("restart after SIGKILL with %d locks until all are known and held", m.plan.manyLocks)
	var (
		times []time.Duration
		cpu   time.Duration
	)
	for range lockRounds {
		began := time.Now()
		if err := m.kill(); err != nil {
			return err
		}
		if err := m.start(ctx); err != nil {
			return err
		}
		if !m.remembers {
			return m.forgotten(what)
		}
		if err := m.allHeld(); err != nil {
			return err
		}
		times = append(times, time.Since(began))
		cpu += cpuTime(m.pids())
	}
	m.r.costly(what, median(times), cpu/lockRounds)
	return nil
}

// forgotten checks that a lock of before can be had by another, and says so.
func (m *lockMeter) forgotten(what string) error {
	c, err := m.dial(0)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Acquire(m.space(), lockName(0), lockd.Autocreate); err != nil {
		return fmt.Errorf("a lock is not lost after SIGKILL, as it was expected to be: %w", err)
	}
	m.r.none(what, "all are lost")
	return nil
}

// allHeld waits until our daemon lists all leases as held.
func (m *lockMeter) allHeld() error {
	c, err := lockd.Dial(m.socket)
	if err != nil {
		return err
	}
	defer c.Close()
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		s, err := c.Status()
		if err != nil {
			return err
		}
		if s.Held == uint32(m.plan.manyLocks) && s.Unproven+s.Lost == 0 {
			break
		}
		if time.Since(began) > time.Minute {
			return fmt.Errorf("after a minute %d locks are held, %d unproven and %d lost", s.Held, s.Unproven, s.Lost)
		}
	}
	all, err := c.List()
	if err == nil && len(all) != m.plan.manyLocks {
		err = fmt.Errorf("%d leases are listed, want %d", len(all), m.plan.manyLocks)
	}
	return err
}
