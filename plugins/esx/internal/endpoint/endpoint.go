package endpoint

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vmware/govmomi/vim25"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// Endpoint is the connection to one host or server.
type Endpoint struct {
	config Config
	log    hclog.Logger
	// wanted wakes the goroutine that connects.
	wanted chan struct{}
	// stopped is closed when that goroutine has ended.
	stopped chan struct{}
	cancel  context.CancelFunc

	mu sync.Mutex
	// session is the last one, nil before the first.
	session *Session
	// suspect is set when the session has to be proven before its next use.
	suspect bool
	// attempt is closed at the end of the attempt that is under way or wanted, nil if there is none.
	attempt chan struct{}
	failure *verr.Error
	retryAt time.Time
	backoff time.Duration
	closed  bool
	// calls are the calls under way.
	calls   map[*context.CancelFunc]struct{}
	running sync.WaitGroup
}

// Open returns an endpoint that connects when it is first needed. A wrong configuration is an error of code InvalidArg.
func Open(config Config, log hclog.Logger) (*Endpoint, error) {
	config, err := config.complete()
	if err != nil {
		return nil, err
	}
	if _, err := newSOAP(config); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	e := &Endpoint{
		config: config, log: log, wanted: make(chan struct{}, 1), stopped: make(chan struct{}), cancel: cancel,
		calls: map[*context.CancelFunc]struct{}{},
	}
	go e.run(ctx)
	return e, nil
}

// Name is the configured name.
func (e *Endpoint) Name() string { return e.config.Name }

// run connects, keeps alive and says farewell.
func (e *Endpoint) run(ctx context.Context) {
	defer close(e.stopped)
	tick := time.NewTicker(e.config.KeepAlive)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			if s := e.last(); s != nil {
				e.logout(ctx, s)
			}
			return
		case <-e.wanted:
			s, err := e.renew(ctx, e.last())
			e.settle(s, err)
		case <-tick.C:
			e.keepAlive(ctx)
		}
	}
}

func (e *Endpoint) last() *Session {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.session
}

// keepAlive touches the session, and renews it before somebody needs it.
func (e *Endpoint) keepAlive(ctx context.Context) {
	s := e.last()
	if s == nil {
		return
	}
	if err := e.touch(ctx, s); err != nil && ctx.Err() == nil {
		e.log.Warn("session is not alive", "endpoint", e.config.Name, "error", err)
		e.doubt(s)
		s, err := e.renew(ctx, s)
		e.settle(s, err)
	}
}

// settle records the end of an attempt and tells who waits for it.
func (e *Endpoint) settle(s *Session, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case err == nil:
		if e.failure != nil || e.session != s {
			e.log.Info("connected", "endpoint", e.config.Name, "product", s.About().FullName)
		}
		e.session, e.suspect, e.failure, e.backoff = s, false, nil, 0
	case !e.closed:
		var now time.Duration
		now, e.backoff = pause(e.backoff, e.config, err)
		e.failure, e.retryAt = e.config.unreachable(err), time.Now().Add(now)
		e.log.Warn("attempt to connect failed", "endpoint", e.config.Name, "error", e.failure, "pause", now)
	}
	if e.attempt != nil {
		close(e.attempt)
		e.attempt = nil
	}
}

// Session returns the session, connecting if there is none.
func (e *Endpoint) Session(ctx context.Context) (*Session, error) {
	s, attempt, err := e.present()
	if s != nil || err != nil {
		return s, err
	}
	select {
	case <-attempt:
	case <-e.stopped:
	case <-ctx.Done():
		return nil, e.config.failed(ctx.Err())
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		return nil, e.over()
	case e.failure != nil:
		return nil, e.failure
	}
	return e.session, nil
}

// present returns the session, why there is none, or what to wait for.
func (e *Endpoint) present() (*Session, <-chan struct{}, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		return nil, nil, e.over()
	case e.session != nil && !e.suspect:
		return e.session, nil, nil
	case e.attempt != nil:
		return nil, e.attempt, nil
	case e.failure != nil && time.Now().Before(e.retryAt):
		return nil, nil, e.failure
	}
	e.attempt = make(chan struct{})
	select {
	case e.wanted <- struct{}{}:
	default: // the wake-up of an attempt that a keep-alive has made meanwhile is still there, and does as well
	}
	return nil, e.attempt, nil
}

func (e *Endpoint) over() error {
	return verr.New(verr.InvalidConn, "endpoint %q is closed", e.config.Name).In(verr.FromESX)
}

// Await returns the session as soon as there is one, past as many failed attempts as it takes.
func (e *Endpoint) Await(ctx context.Context) (*Session, error) {
	for {
		s, err := e.Session(ctx)
		if err == nil || ctx.Err() != nil || verr.Is(err, verr.InvalidConn) {
			return s, err
		}
		e.mu.Lock()
		wait := time.Until(e.retryAt)
		e.mu.Unlock()
		select {
		case <-time.After(max(wait, time.Millisecond)):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// Do makes a call, or a few, within Config.CallTimeout. If the session turns out to be expired, it makes a new one and calls once
// more, so of the calls that call makes only the last may change anything.
func (e *Endpoint) Do(ctx context.Context, call func(ctx context.Context, client *vim25.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, e.config.CallTimeout)
	defer cancel()
	leave, err := e.Enter(cancel)
	if err != nil {
		return err
	}
	defer leave()
	for again := true; ; again = false {
		s, err := e.Session(ctx)
		if err != nil {
			return err
		}
		err = call(ctx, s.Client)
		if err == nil {
			return nil
		}
		told := e.Report(s, err)
		if !again || !expired(err) {
			return told
		}
	}
}

// Enter registers something that uses sessions beyond Do: Close calls cancel, and waits until leave is called.
func (e *Endpoint) Enter(cancel context.CancelFunc) (leave func(), err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, e.over()
	}
	key := &cancel
	e.calls[key] = struct{}{}
	e.running.Add(1)
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.calls, key)
		e.running.Done()
	}, nil
}

// Report tells of an error of a call that was made with a session outside of Do, and returns it in libvirt's words. Unless it is the
// endpoint's answer, the session is proven before its next use.
func (e *Endpoint) Report(s *Session, err error) error {
	if err == nil {
		return nil
	}
	var own *verr.Error
	if expired(err) || !answered(err) && !errors.As(err, &own) && !errors.Is(err, context.Canceled) {
		e.doubt(s)
	}
	return e.config.failed(err)
}

func (e *Endpoint) doubt(s *Session) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.session == s {
		e.suspect = true
	}
}

// Close ends all calls and the session, and waits until nothing is left. It may be called more than once.
func (e *Endpoint) Close() {
	e.mu.Lock()
	e.closed = true
	for cancel := range e.calls {
		(*cancel)()
	}
	e.mu.Unlock()
	e.running.Wait()
	e.cancel()
	<-e.stopped
}
