package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/lodgevirt/lodge/tests/rig"
)

// target is a daemon to be measured.
type target interface {
	name() string
	// launch starts the daemon and does not wait.
	launch(ctx context.Context) error
	// stop ends the daemon orderly; guests go on.
	stop(ctx context.Context) error
	// kill sends SIGKILL to the daemon and waits for its end; guests go on.
	kill(ctx context.Context) error
	// settle waits until the daemon's processes are all up, which may be after the first answers.
	settle(ctx context.Context) error
	socket() string
	uri() string
	// pids are the processes whose processor time and memory count.
	pids() []int
	// seed makes sure that there are n definitions; the daemon may run or not, and is stopped afterwards.
	seed(ctx context.Context, n int) error
	// close ends everything, guests included.
	close() error
}

// begin launches a target and returns how long it took until a list of n domains was complete.
func begin(ctx context.Context, t target, n int) (time.Duration, error) {
	start := time.Now()
	if err := t.launch(ctx); err != nil {
		return 0, err
	}
	for {
		got, err := countOnce(t)
		if err == nil && got == n {
			return time.Since(start), nil
		}
		if time.Since(start) > time.Minute || ctx.Err() != nil {
			return 0, fmt.Errorf("start with %d domains: %d are listed: %w", n, got, errors.Join(err, ctx.Err()))
		}
		time.Sleep(time.Millisecond)
	}
}

// countOnce opens a connection and counts the domains.
func countOnce(t target) (int, error) {
	c, err := dial(t.socket(), t.uri())
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return listCount(c, 0)
}

// lodge is our daemon.
type lodge struct {
	host    *rig.Host
	running bool
	seeded  int
}

func newLodge(bin, dir string) *lodge { return &lodge{host: &rig.Host{Dir: dir, Bin: bin}} }

func (l *lodge) name() string   { return "lodged" }
func (l *lodge) socket() string { return l.host.Socket() }
func (l *lodge) uri() string    { return "qemu:///system" }
func (l *lodge) close() error   { return l.host.Close() }

func (l *lodge) settle(ctx context.Context) error { return l.host.Await(ctx) }

func (l *lodge) launch(context.Context) error {
	l.running = true
	return l.host.Launch()
}

func (l *lodge) stop(ctx context.Context) error {
	l.running = false
	return l.host.Stop(ctx)
}

func (l *lodge) kill(ctx context.Context) error {
	l.running = false
	if _, err := l.host.Kill(rig.Core); err != nil {
		return err
	}
	return l.host.WaitCore(ctx)
}

// pids are the core and the plugin; the lock daemon has a counterpart that is not counted on the other side either.
func (l *lodge) pids() []int {
	var pids []int
	for _, kind := range []rig.Kind{rig.Core, rig.Plugin} {
		found, err := l.host.Find(kind)
		if err != nil {
			return nil
		}
		for _, p := range found {
			pids = append(pids, p.PID)
		}
	}
	return pids
}

// seed defines through the socket: what is stored is the daemon's own business.
func (l *lodge) seed(ctx context.Context, n int) error {
	if !l.running {
		if err := l.launch(ctx); err != nil {
			return err
		}
	}
	if err := l.host.Await(ctx); err != nil {
		return err
	}
	first, conns := l.seeded, 16
	if n <= first {
		return l.stop(ctx)
	}
	each := (n - first + conns - 1) / conns
	_, err := drive(ctx, l, conns, each, 5*time.Minute, func(c *conn, worker, i int) error {
		number := first + worker*each + i
		if number >= n {
			return nil
		}
		_, err := define(c, definition(domainName(number)))
		return err
	})
	if err != nil {
		return fmt.Errorf("seed %d domains: %w", n, err)
	}
	l.seeded = n
	return l.stop(ctx)
}

// writeDefinitions writes the files in which libvirtd keeps definitions.
func writeDefinitions(dir string, n int) error {
	for i := range n {
		path := filepath.Join(dir, domainName(i)+".xml")
		if err := os.WriteFile(path, []byte(definition(domainName(i))), 0o600); err != nil {
			return fmt.Errorf("write definition: %w", err)
		}
	}
	return nil
}
