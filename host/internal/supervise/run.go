package supervise

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/lodgevirt/lodge/host/internal/launch"
	"github.com/lodgevirt/lodge/sdk/plugin/handshake"
)

func parent(path string) string { return filepath.Dir(path) }

// Run supervises until the context ends, and then ends the process too, unless it shall be left running. It may be called once.
func (p *Plugin) Run(ctx context.Context) error {
	p.mu.Lock()
	if p.running {
		p.mu.Unlock()
		return errors.New("run plugin: it is supervised already")
	}
	p.running = true
	p.mu.Unlock()
	defer p.stop()
	if err := p.cfg.Dirs.makeDirs(); err != nil {
		return err
	}
	core, err := p.serveCore(filepath.Join(p.cfg.Dirs.Private, handshake.CoreSocket))
	if err != nil {
		return err
	}
	defer core.stop()
	r := &run{Plugin: p, budget: newBudget(p.cfg.Restart)}
	if record, err := launch.ReadRecord(p.cfg.Dirs.Private); err == nil {
		r.generation = record.Generation
	}
	if process := r.reattach(); process != nil {
		r.step(evAttached, "")
		r.live(ctx, process, true)
	}
	for ctx.Err() == nil {
		r.once(ctx)
	}
	return nil
}

// stop lets every call know that nothing will come any more.
func (p *Plugin) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	close(p.changed)
	p.changed = make(chan struct{})
}

// run is the state of Run's goroutine.
type run struct {
	*Plugin
	budget     *budget
	generation uint64
}

// reattach finds the process that an earlier core left.
func (r *run) reattach() *launch.Process {
	process, err := launch.Reattach(r.cfg.Dirs.Private, r.log)
	switch {
	case err == nil:
		r.log.Info("plugin found again", "pid", process.Record().PID, "gen", process.Record().Generation)
		return process
	case errors.Is(err, os.ErrNotExist), errors.Is(err, launch.ErrGone):
		return nil
	default:
		r.log.Warn("plugin could not be found again, another one is started", "error", err)
		return nil
	}
}

// once goes from Absent to the end of a process, or as far as it gets.
func (r *run) once(ctx context.Context) {
	switch r.Status().State {
	case Absent:
		r.verify(ctx)
	case Verified:
		select {
		case <-r.wanted:
			if r.needed() {
				r.step(evWanted, "")
				r.launch(ctx)
			}
		case <-r.resets:
		case <-r.drains:
		case <-ctx.Done():
		}
	case Failed:
		select {
		case <-r.resets:
			r.budget.reset()
			r.step(evReset, "")
		case <-r.drains:
		case <-ctx.Done():
		}
	default: // what began a process also ends it, so this is a bug; better slow than spinning
		r.log.Error("plugin is in a state that it cannot stay in", "state", r.Status().State)
		r.pause(ctx, time.Second)
	}
}

func (r *run) isMissing() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.missing
}

// missingPause is how often a binary that cannot be used is looked for again.
const missingPause = time.Second

// verify looks at the binary without reading it: it is verified when it is started.
func (r *run) verify(ctx context.Context) {
	_, err := os.Stat(r.cfg.Manifest.Binary)
	if err == nil {
		detail := r.Status().Detail
		if r.isMissing() {
			detail = ""
		}
		r.step(evVerified, detail)
		return
	}
	r.step(evMissing, err.Error())
	r.pause(ctx, missingPause)
}

// pause waits, unless a reset or the end comes first.
func (r *run) pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.resets:
		r.budget.reset()
	case <-ctx.Done():
	}
}

// launch starts a process and stays with it until its end.
func (r *run) launch(ctx context.Context) {
	r.generation++
	process, err := r.startProcess(ctx)
	if err != nil {
		r.crashed(ctx, err.Error(), 0)
		return
	}
	r.log.Info("plugin started", "pid", process.Record().PID, "gen", r.generation)
	r.step(evAttached, "")
	r.live(ctx, process, false)
}

func (r *run) startProcess(ctx context.Context) (*launch.Process, error) {
	m := r.cfg.Manifest
	binary, err := m.OpenBinary(r.cfg.Pin)
	if err != nil {
		return nil, err
	}
	defer func() { _ = binary.Close() }()
	ctx, cancel := context.WithTimeout(ctx, r.cfg.StartTimeout)
	defer cancel()
	return launch.Start(ctx, launch.Config{
		Name: m.Name, Binary: binary, Path: m.Binary, Args: r.cfg.Args, Dir: r.cfg.Dirs.Private,
		LogFile: r.cfg.Dirs.LogFile, Env: r.environment(), Protocol: protocols(m.Protocol),
		Generation: r.generation, OrphanGrace: r.cfg.OrphanGrace, OpenFiles: m.Limits.OpenFiles,
		Spawned: func(pid int) { r.pid.Store(int64(pid)) }, Log: r.log,
	})
}

// protocols are the versions that both the core and the manifest name.
func protocols(of []int) []int {
	var both []int
	for _, v := range of {
		if v == handshake.Protocol {
			both = append(both, v)
		}
	}
	return both
}

// passed are the variables that a plugin gets from the core's own environment.
var passed = []string{"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"}

func (r *run) environment() []string {
	var env []string
	for _, name := range passed {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return append(env, r.cfg.Env...)
}

// crashed counts a crash, pauses, and brings the machine back to its beginning, or into Failed.
func (r *run) crashed(ctx context.Context, why string, ready time.Duration) {
	if ctx.Err() != nil {
		return
	}
	r.update(func(s *Status) { s.Crashes++ })
	pause, again := r.budget.crashed(time.Now(), ready)
	if !again {
		r.log.Error("plugin failed and stays down until it is reset", "gen", r.generation, "reason", why)
		r.step(evExhausted, why)
		return
	}
	r.log.Warn("plugin crashed", "gen", r.generation, "reason", why, "pause", pause)
	r.step(evCrashed, why)
	r.pause(ctx, spread(pause))
	r.step(evRetry, why)
	r.Start() // whoever depended on it still does
}
