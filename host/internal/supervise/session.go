package supervise

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/lodgevirt/lodge/host/internal/launch"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
)

const (
	// endWait is how long a process may take to end after Shutdown, and after SIGKILL.
	endWait = 5 * time.Second
	// idleCheck is how often idleness is looked at.
	idleCheck = time.Second
	// healthService is the name that the SDK serves.
	healthService = "plugin"
)

// session is one process, from its being attached to its end.
type session struct {
	process    *launch.Process
	conn       *grpc.ClientConn
	generation uint64
	calls      int           // guarded by Plugin.mu
	quiet      chan struct{} // guarded by Plugin.mu: closed when calls reaches 0
}

// verdict is why a session ended.
type verdict int

const (
	died     verdict = iota // the process is gone by itself
	hung                    // it does not answer
	refused                 // it could not be configured or recovered
	drained                 // it shall end
	detached                // the core ends
)

// live takes a process from Configuring to its end.
func (r *run) live(ctx context.Context, process *launch.Process, reattached bool) {
	record := process.Record()
	r.generation = record.Generation
	r.pid.Store(int64(record.PID))
	r.update(func(s *Status) { s.PID, s.Generation = record.PID, record.Generation })
	conn, err := process.Dial(grpc.WithStatsHandler(tracer{}))
	if err != nil { // impossible but for a wrong option
		r.log.Error("plugin cannot be dialled", "error", err)
		r.kill(process)
		r.crashed(ctx, err.Error(), 0)
		return
	}
	s := &session{process: process, conn: conn, generation: record.Generation}
	bound, cancel := context.WithCancel(ctx)
	stop := afterClose(process.Exited(), cancel)
	readySince, why, err := r.serve(bound, ctx, s, reattached)
	stop()
	cancel()
	r.finish(ctx, s, why, err, readySince)
}

// serve brings the session up and watches it; it returns when the session must end.
func (r *run) serve(bound, ctx context.Context, s *session, reattached bool) (ready time.Time, why verdict, err error) {
	unhealthy := make(chan error, 1)
	up, hangUp := context.WithCancel(bound)
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		if err := r.askHealth(up, s); err != nil {
			unhealthy <- err
			hangUp()
		}
	}()
	defer func() { hangUp(); <-asked }()
	if err := r.bringUp(up, s, reattached); err != nil {
		if ctx.Err() != nil {
			return ready, detached, nil
		}
		select { // a broken connection may be noticed before the end of the process
		case herr := <-unhealthy:
			return ready, hung, herr
		case <-s.process.Exited():
			return ready, died, nil
		case <-time.After(reconnectWait):
			return ready, refused, err
		}
	}
	ready = time.Now()
	r.used.Store(ready.UnixNano())
	r.mu.Lock()
	r.session = s
	r.mu.Unlock()
	r.step(evRecovered, "")
	why, err = r.watch(ctx, s, unhealthy)
	return ready, why, err
}

// bringUp describes, configures and recovers.
func (r *run) bringUp(ctx context.Context, s *session, reattached bool) error {
	conn := direct{plugin: r.Plugin, session: s}
	client := basev1.NewPluginServiceClient(conn)
	starting, cancel := context.WithTimeout(ctx, r.cfg.StartTimeout)
	defer cancel()
	d, err := client.Describe(starting, &basev1.DescribeRequest{})
	if err != nil {
		return fmt.Errorf("describe: %w", err)
	}
	if d.GetName() != r.Name() {
		return fmt.Errorf("describe: the plugin says that it is %q", d.GetName())
	}
	r.update(func(st *Status) {
		st.Version, st.Services = d.GetVersion(), nil
		for _, service := range d.GetServices() {
			st.Services = append(st.Services, service.GetName())
		}
	})
	req := &basev1.ConfigureRequest{}
	if r.cfg.Configure != nil {
		if req, err = r.cfg.Configure(d); err != nil {
			return fmt.Errorf("configure: %w", err)
		}
	}
	if _, err := client.Configure(starting, req); err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	r.step(evConfigured, "")
	if r.cfg.Recover != nil {
		if err := r.cfg.Recover(ctx, conn, s.generation, reattached); err != nil {
			return fmt.Errorf("recover: %w", err)
		}
	}
	return nil
}

// watch returns when the session must end.
func (r *run) watch(ctx context.Context, s *session, unhealthy <-chan error) (verdict, error) {
	tick := time.NewTicker(idleCheck)
	defer tick.Stop()
	for {
		select {
		case <-s.process.Exited():
			return died, nil
		case err := <-unhealthy:
			return hung, err
		case <-r.drains:
			return drained, nil
		case <-tick.C:
			r.boundLog()
			if r.idle() {
				return drained, nil
			}
		case <-r.resets: // it is up: nothing to reset
		case <-ctx.Done():
			return detached, nil
		}
	}
}

// askHealth asks until too many answers in a row are missing, which is an error, or the context ends, which is none.
func (r *run) askHealth(ctx context.Context, s *session) error {
	h := r.cfg.Health
	tick := time.NewTicker(h.Every)
	defer tick.Stop()
	client := healthv1.NewHealthClient(s.conn)
	for misses := 0; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		one, cancel := context.WithTimeout(ctx, h.Deadline)
		_, err := client.Check(one, &healthv1.HealthCheckRequest{Service: healthService}, grpc.WaitForReady(true))
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			misses = 0
			continue
		}
		if misses++; misses >= h.Misses {
			return fmt.Errorf("it did not answer %d times in a row: %w", misses, err)
		}
	}
}

// boundLog keeps a plugin that prints without end from filling the disk.
func (r *run) boundLog() {
	cut, err := launch.BoundLog(r.cfg.Dirs.LogFile)
	if cut || err != nil {
		r.log.Warn("plugin's standard error was too long and is emptied", "file", r.cfg.Dirs.LogFile, "error", err)
	}
}

// idle reports whether the process may end because nobody needs it.
func (r *run) idle() bool {
	limit := time.Duration(r.cfg.Manifest.IdleTimeout)
	if limit <= 0 || r.cfg.Idle == nil {
		return false
	}
	r.mu.Lock()
	calls := 0
	if r.session != nil {
		calls = r.session.calls
	}
	r.mu.Unlock()
	return calls == 0 && time.Since(time.Unix(0, r.used.Load())) >= limit && r.cfg.Idle()
}

// finish ends a session for a reason and moves the machine on.
func (r *run) finish(ctx context.Context, s *session, why verdict, err error, readySince time.Time) {
	var ready time.Duration
	if !readySince.IsZero() {
		ready = time.Since(readySince)
	}
	r.mu.Lock()
	r.session = nil
	r.mu.Unlock()
	recovered := r.Status().State >= Recovering
	text := ""
	switch why {
	case died:
		text = "process " + s.process.Status()
	case hung:
		text = "it hung: " + err.Error()
		r.abort(s.process)
	case refused:
		text = err.Error()
		r.kill(s.process)
	case drained:
		r.drain(ctx, s)
	case detached:
		if r.cfg.Detach {
			s.process.Release()
		} else {
			r.drain(context.WithoutCancel(ctx), s)
		}
	}
	_ = s.conn.Close()
	r.pid.Store(0)
	r.update(func(st *Status) { st.PID = 0 })
	if recovered && r.cfg.Lost != nil {
		r.cfg.Lost(s.generation)
	}
	if why == died || why == hung || why == refused {
		r.crashed(ctx, text, ready)
	}
}

// drain waits for the calls under way, asks the process to end, and sees to it that it does.
func (r *run) drain(ctx context.Context, s *session) {
	r.step(evDrain, "")
	limit, cancel := context.WithTimeout(ctx, endWait)
	defer cancel()
	if quiet := r.whenQuiet(s); quiet != nil {
		select {
		case <-quiet:
		case <-s.process.Exited():
		case <-limit.Done():
		}
	}
	conn := direct{plugin: r.Plugin, session: s}
	if _, err := basev1.NewPluginServiceClient(conn).Shutdown(limit, &basev1.ShutdownRequest{}); err != nil {
		r.log.Debug("plugin did not take its shutdown", "error", err)
	}
	select {
	case <-s.process.Exited():
	case <-limit.Done():
		r.kill(s.process)
	}
	r.step(evEnded, "")
}

// whenQuiet returns a channel that is closed when the last call is over, or nil if there is none.
func (r *run) whenQuiet(s *session) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.calls == 0 {
		return nil
	}
	s.quiet = make(chan struct{})
	return s.quiet
}

// abort makes a hung process write its stacks, and kills it.
func (r *run) abort(process *launch.Process) {
	if err := process.Abort(); err == nil {
		select {
		case <-process.Exited():
			return
		case <-time.After(r.cfg.Health.AbortWait):
		}
	}
	r.kill(process)
}

// kill ends a process and waits for its end. One that the kernel does not let go of is left behind.
func (r *run) kill(process *launch.Process) {
	err := process.Kill()
	select {
	case <-process.Exited():
	case <-time.After(endWait):
		r.log.Error("plugin process does not end", "pid", process.Record().PID, "error", errors.Join(err))
		process.Release()
	}
}

// afterClose calls f once ch is closed, unless it is stopped before; stop waits until neither can happen any more.
func afterClose(ch <-chan struct{}, f func()) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-ch:
			f()
		case <-quit:
		}
	}()
	return func() { close(quit); <-done }
}
