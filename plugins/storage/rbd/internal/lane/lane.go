// Package lane runs calls that cannot be cancelled, for callers that do not wait longer than their contexts say.
//
// A call into Ceph's libraries returns when Ceph answers, or when the libraries' own timeouts have passed. A Lane runs each in a goroutine
// of its own, a bounded number at a time; a caller whose context ends goes its way, and the call is "late" until it returns. A lane with
// many late calls refuses new ones at once, so that one cluster that does not answer costs a bounded number of threads, and, as each
// pool has its own lane, no other pool anything. Everything is safe concurrently.
package lane

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// Lane is for the calls of one pool.
type Lane struct {
	place   string
	room    *semaphore.Weighted
	maxLate int
	running sync.WaitGroup

	mu   sync.Mutex // guards late
	late int
}

// New makes a lane for a place, which is named in errors: how many threads may be in calls at a time, and with how many late calls new ones are refused.
func New(place string, threads int64, maxLate int) *Lane {
	return &Lane{place: place, room: semaphore.NewWeighted(threads), maxLate: maxLate}
}

// Late returns how many calls nobody waits for any more.
func (l *Lane) Late() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.late
}

// Wait returns when no call is under way.
func (l *Lane) Wait() { l.running.Wait() }

// outcome is what a call has returned.
type outcome[T any] struct {
	value T
	err   error
}

// Do runs a call that takes a number of threads and returns what it returns, or an error once the context has ended. What a late call
// returns in the end goes to drop, unless that is nil. The call sees the context, and should give up between its steps when it has ended.
func Do[T any](ctx context.Context, l *Lane, threads int64, call func(context.Context) (T, error), drop func(T)) (T, error) {
	var none T
	if n := l.Late(); n >= l.maxLate {
		return none, verr.New(verr.OperationTimeout, "%s does not answer: %d earlier calls still wait for it", l.place, n).In(verr.FromStorage)
	}
	if err := l.room.Acquire(ctx, threads); err != nil {
		return none, l.Ended(ctx)
	}
	done := make(chan outcome[T], 1)
	l.running.Go(func() {
		defer l.room.Release(threads)
		var out outcome[T]
		out.value, out.err = guarded(ctx, call)
		done <- out
	})
	select {
	case out := <-done:
		return out.value, out.err
	case <-ctx.Done():
	}
	l.count(1)
	l.running.Go(func() {
		defer l.count(-1)
		if out := <-done; out.err == nil && drop != nil {
			drop(out.value)
		}
	})
	return none, l.Ended(ctx)
}

// guarded makes an error of a panic.
func guarded[T any](ctx context.Context, call func(context.Context) (T, error)) (value T, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return call(ctx)
}

func (l *Lane) count(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.late += n
}

// Ended is the error of a caller whose context has ended.
func (l *Lane) Ended(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return verr.New(verr.OperationTimeout, "%s did not answer in time: %w", l.place, ctx.Err()).In(verr.FromStorage)
	}
	return verr.New(verr.OperationAborted, "work on %s was given up: %w", l.place, ctx.Err()).In(verr.FromStorage)
}
