// Package supervise keeps one plugin's process alive and reachable: it starts it when it is needed, finds it again after a restart of
// the core, configures it, lets its owner recover, restarts it after a crash, kills it when it hangs, ends it when nobody needs
// it, and carries calls to it through all of this.
//
// A Plugin is a grpc.ClientConnInterface: generated clients work on it. A call waits until the plugin is ready, but never longer
// than the contract allows the call as a whole; after a crash in the middle it is sent again or not, as the call's class says;
// and its error tells what is known of its effect (Outcome). Nothing here waits without an end.
//
// Run owns the one goroutine that changes the plugin's state, and the hooks of Config are called from it, one at a time. All other
// methods are safe concurrently. The mutex is held neither during a call nor during a hook.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/host/internal/manifest"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
)

// Dirs are the folders and files of one plugin. They are made if they are missing.
type Dirs struct {
	// Private is the plugin's own folder for sockets, for example run/plugins/NAME.
	Private string
	// LogFile takes its standard error, for example log/plugins/NAME.log.
	LogFile string
}

// Health says how a hung plugin is noticed. Zero fields stand for DefaultHealth's.
type Health struct {
	// Every is the time between two questions.
	Every time.Duration
	// Deadline is the time for an answer.
	Deadline time.Duration
	// Misses in a row make the plugin hung.
	Misses int
	// AbortWait is the time between SIGABRT, for the stacks, and SIGKILL.
	AbortWait time.Duration
}

// DefaultHealth is what a host uses.
var DefaultHealth = Health{Every: 5 * time.Second, Deadline: 2 * time.Second, Misses: 3, AbortWait: 2 * time.Second}

// Config is a plugin, its place, and what its owner does for it. Only Manifest, Dirs and Log are required.
type Config struct {
	// Manifest of the plugin.
	Manifest *manifest.Manifest
	// Pin is the checksum that the operator demands, or empty.
	Pin string
	// Dirs are its folders.
	Dirs Dirs
	// Log is the logger; the plugin's own lines come out under its name.
	Log hclog.Logger
	// Args and Env are added to the process' own.
	Args, Env []string
	// OrphanGrace is how long the process goes on without a core; 0 is the SDK's default.
	OrphanGrace time.Duration
	// Core registers the core's services on the socket that is the plugin's alone; LogService is there already.
	Core func(*grpc.Server)
	// Configure makes the settings from what the plugin said of itself.
	Configure func(*basev1.DescribeResponse) (*basev1.ConfigureRequest, error)
	// Recover is called before the first call of a process, with a connection that is not held back. It ends with ctx, which
	// is that of the process. An error is a crash.
	Recover func(ctx context.Context, conn grpc.ClientConnInterface, generation uint64, reattached bool) error
	// Lost is called once a process is gone, for whatever reason, that Recover was called for.
	Lost func(generation uint64)
	// Idle reports whether nothing depends on the process; without it, the process never ends for idleness.
	Idle func() bool
	// Restart, Health and StartTimeout (the time from a start to readiness, without Recover) have defaults.
	Restart      Restart
	Health       Health
	StartTimeout time.Duration
	// Detach leaves the process running when Run ends, for the next core to find.
	Detach bool
}

// Status is a plugin at a glance.
type Status struct {
	// State is where it stands, since when.
	State State
	Since time.Time
	// PID of the process, or 0.
	PID int
	// Generation counts processes.
	Generation uint64
	// Crashes since Run.
	Crashes int
	// Detail says why it is not ready or how it last ended; empty if nothing is wrong.
	Detail string
	// Version and Services are as the plugin said last; Version is the manifest's before that.
	Version  string
	Services []string
}

// Plugin is one plugin under supervision.
type Plugin struct {
	cfg    Config
	log    hclog.Logger
	epoch  string        // tells the plugin which of two cores is the later one
	wanted chan struct{} // has room for one
	resets chan struct{} // has room for one
	drains chan struct{} // has room for one
	pid    atomic.Int64  // whom the core's socket lets in
	used   atomic.Int64  // when the last call ended, in nanoseconds

	mu      sync.Mutex // guards all below
	status  Status
	session *session      // the one that takes calls, or nil
	changed chan struct{} // closed and replaced with each change of state
	waiting int           // calls that wait for a session
	eager   bool          // start without a call that waits
	missing bool          // the binary was not there when it was last looked at
	running bool
	stopped bool
}

// ErrStopped is what calls get once Run has ended.
var ErrStopped = errors.New("supervision has ended")

// New returns a plugin that is not supervised yet: calls wait until Run has begun.
func New(cfg Config) *Plugin {
	cfg.Health = cfg.Health.orDefault()
	if cfg.StartTimeout <= 0 {
		cfg.StartTimeout = 20 * time.Second
	}
	p := &Plugin{
		cfg: cfg, log: cfg.Log.With("plugin", cfg.Manifest.Name), epoch: newEpoch(),
		wanted: make(chan struct{}, 1), resets: make(chan struct{}, 1), drains: make(chan struct{}, 1),
		changed: make(chan struct{}),
		status:  Status{State: Absent, Since: time.Now(), Version: cfg.Manifest.Version},
	}
	return p
}

func (h Health) orDefault() Health {
	if h.Every <= 0 {
		h.Every = DefaultHealth.Every
	}
	if h.Deadline <= 0 {
		h.Deadline = DefaultHealth.Deadline
	}
	if h.Misses <= 0 {
		h.Misses = DefaultHealth.Misses
	}
	if h.AbortWait <= 0 {
		h.AbortWait = DefaultHealth.AbortWait
	}
	return h
}

// Name is the plugin's.
func (p *Plugin) Name() string { return p.cfg.Manifest.Name }

// Status returns the present state.
func (p *Plugin) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// Start has the process started although no call needs it yet, and does not wait for it.
func (p *Plugin) Start() {
	p.mu.Lock()
	p.eager = true
	p.mu.Unlock()
	signal(p.wanted)
}

// needed reports whether the process shall be started, and takes note that it is.
func (p *Plugin) needed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	is := p.eager || p.waiting > 0
	p.eager = false
	return is
}

// Reset lets a plugin that failed, or that waits for its next start, be started at once.
func (p *Plugin) Reset() { signal(p.resets) }

// Stop lets the process finish its calls and end, and does not wait for it; the next call starts another one.
func (p *Plugin) Stop() { signal(p.drains) }

// Restart lets the process finish its calls and end, and waits until a new one is ready; it starts one where there is none, too. A
// plugin that fails meanwhile is an error, as is the end of the context.
func (p *Plugin) Restart(ctx context.Context) (Status, error) {
	before := p.Status()
	p.Start()
	switch before.State {
	case Failed, Backoff:
		p.Reset()
	default:
		p.Stop()
	}
	for {
		p.mu.Lock()
		now, changed, stopped := p.status, p.changed, p.stopped
		p.mu.Unlock()
		switch {
		case stopped:
			return now, ErrStopped
		case now.State == Ready && now.Generation > before.Generation:
			return now, nil
		case now.State == Failed && now.Since.After(before.Since):
			return now, fmt.Errorf("driver %q has failed: %s", p.Name(), now.Detail)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return now, fmt.Errorf("driver %q is %s (%s): %w", p.Name(), now.State, now.Detail, ctx.Err())
		}
	}
}

// Wait waits until the plugin is ready, starting it if need be.
func (p *Plugin) Wait(ctx context.Context) error {
	s, err := p.acquire(ctx)
	if err != nil {
		return err
	}
	p.release(s)
	return nil
}

// signal leaves a note in a channel that has room for one.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// acquire waits for the session that takes calls, and counts a call on it until release.
func (p *Plugin) acquire(ctx context.Context) (*session, error) {
	p.mu.Lock()
	p.waiting++
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.waiting--
		p.mu.Unlock()
	}()
	for {
		p.mu.Lock()
		s, state, detail, changed, stopped := p.session, p.status.State, p.status.Detail, p.changed, p.stopped
		missing := p.missing
		if s != nil {
			s.calls++
		}
		p.mu.Unlock()
		switch {
		case s != nil:
			return s, nil
		case stopped:
			return nil, ErrStopped
		case state == Failed:
			return nil, fmt.Errorf("driver %q has failed: %s", p.Name(), detail)
		case missing:
			return nil, fmt.Errorf("driver %q cannot be started: %s", p.Name(), detail)
		}
		signal(p.wanted)
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("driver %q is %s (%s): %w", p.Name(), state, detail, ctx.Err())
		}
	}
}

// release ends what acquire began.
func (p *Plugin) release(s *session) {
	p.used.Store(time.Now().UnixNano())
	p.mu.Lock()
	defer p.mu.Unlock()
	s.calls--
	if s.calls == 0 && s.quiet != nil {
		close(s.quiet)
		s.quiet = nil
	}
}

// step moves the machine. An event that cannot happen is a bug, which is told and changes nothing.
func (p *Plugin) step(e event, detail string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	from := p.status.State
	to, ok := next(from, e)
	if !ok {
		p.log.Error("impossible event of a plugin", "state", from, "event", int(e))
		return
	}
	p.status.State, p.status.Since, p.status.Detail = to, time.Now(), detail
	p.missing = e == evMissing
	close(p.changed)
	p.changed = make(chan struct{})
	p.log.Debug("plugin state changed", "from", from, "to", to, "detail", detail)
}

// update changes the status without a change of state.
func (p *Plugin) update(change func(*Status)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.status)
}

// makeDirs makes what is missing.
func (d Dirs) makeDirs() error {
	if err := os.MkdirAll(d.Private, 0o700); err != nil {
		return fmt.Errorf("make folder of plugin: %w", err)
	}
	if err := os.Chmod(d.Private, 0o700); err != nil {
		return fmt.Errorf("make folder of plugin: %w", err)
	}
	if err := os.MkdirAll(parent(d.LogFile), 0o700); err != nil {
		return fmt.Errorf("make folder of logs: %w", err)
	}
	return nil
}
