// Package failpoint injects faults at named points of a program by a small text, for tests of what happens when a driver, the core or
// a call breaks at exactly that instant.
//
// A point's text is a chain of terms, each used up before the next comes to bear:
//
//	2*off->1*error(disk is full)->delay(100)->hang
//
// A term is [COUNT*]ACTION[(ARGUMENT)]. Without a count a term counts once if another follows, and for ever if it is the last. The
// actions:
//
//	off            nothing happens
//	error(TEXT)    Hit returns an Error with TEXT; error(CODE:TEXT) gives it libvirt's error number
//	panic(TEXT)    Hit panics
//	delay(MS)      Hit returns after MS milliseconds, or with the context's error when that ends first
//	hang           Hit returns when its context ends
//	exit(STATUS)   the process ends, with status 70 if none is given
//	kill           the process kills itself with SIGKILL
//
// Several points in one text are separated by semicolons: "Driver.Start.applied=kill;Driver.Stop.received=2*off->hang".
//
// A Set is safe concurrently; counts are exact. A nil or empty Set does nothing and costs one comparison.
package failpoint

import (
	"context"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// Set is a number of named points.
type Set struct {
	mu     sync.Mutex // guards all below
	points map[string][]term
}

// Parse reads several points. An empty text is an empty set.
func Parse(text string) (*Set, error) {
	s := &Set{points: make(map[string][]term)}
	for name, chain := range split(text) {
		if name == "" {
			return nil, fmt.Errorf("parse failpoint %q: no name", chain)
		}
		if err := s.Set(name, chain); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Set arms a point with a chain of terms in place of what it had; an empty chain disarms it.
func (s *Set) Set(name, chain string) error {
	terms, err := parseChain(chain)
	if err != nil {
		return fmt.Errorf("parse failpoint %q: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.points == nil {
		s.points = make(map[string][]term)
	}
	if len(terms) == 0 {
		delete(s.points, name)
		return nil
	}
	s.points[name] = terms
	return nil
}

// Empty reports whether no point is armed.
func (s *Set) Empty() bool {
	if s == nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.points) == 0
}

// Hit passes a point: it does what the point's present term says and returns nil, a *verr.Error, or the context's error.
func (s *Set) Hit(ctx context.Context, name string) error {
	if s == nil {
		return nil
	}
	t, ok := s.next(name)
	if !ok {
		return nil
	}
	return t.run(ctx, name)
}

// next takes one count off the point's present term.
func (s *Set) next(name string) (term, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	chain := s.points[name]
	for len(chain) > 0 {
		t := &chain[0]
		if t.count == forever {
			return *t, true
		}
		if t.count > 0 {
			t.count--
			return *t, true
		}
		chain = chain[1:]
		s.points[name] = chain
	}
	return term{}, false
}

func (t term) run(ctx context.Context, name string) error {
	switch t.action {
	case actionOff:
	case actionError:
		return verr.New(t.code, "%s", t.text)
	case actionPanic:
		panic(fmt.Sprintf("failpoint %s: %s", name, t.text))
	case actionDelay:
		timer := time.NewTimer(time.Duration(t.number) * time.Millisecond)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	case actionHang:
		<-ctx.Done()
		return ctx.Err()
	case actionExit:
		os.Exit(t.number)
	case actionKill:
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // until the signal arrives
	}
	return nil
}
