package pool

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Task is long work that is under way.
type Task struct {
	// ID names it among all tasks since the start of the core.
	ID uint64
	// Kind is "refresh", "build", "delete", "create", "wipe", "upload" or "download".
	Kind string
	// Pool and Volume are what it is about; Volume is empty for a pool.
	Pool, Volume string
	// Since is when it began.
	Since time.Time
	// Done and Total are how far it is, in volumes for a refresh, else in bytes; Total is 0 where it is not known.
	Done, Total uint64
}

// errCancelled is why a task has ended that Cancel was called for.
var errCancelled = errors.New("cancelled")

// task is a Task as it goes on.
type task struct {
	about       Task
	done, total atomic.Uint64
	cancel      context.CancelCauseFunc
}

// Tasks are all that are under way, of one inventory or more. The zero value has none.
type Tasks struct {
	mu   sync.Mutex // guards all below
	last uint64
	all  map[uint64]*task
}

// List returns them, the oldest first.
func (ts *Tasks) List() []Task {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	out := make([]Task, 0, len(ts.all))
	for _, t := range ts.all {
		now := t.about
		now.Done, now.Total = t.done.Load(), t.total.Load()
		out = append(out, now)
	}
	slices.SortFunc(out, func(a, b Task) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Cancel ends a task, whose caller is told so. It does not wait for its end.
func (ts *Tasks) Cancel(id uint64) error {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t := ts.all[id]
	if t == nil {
		return storageError(verr.InvalidArg, "no job has the number %d", id)
	}
	t.cancel(errCancelled)
	return nil
}

// task enters work on a pool or one of its volumes, which goes on in the context; end is to be called with how it has ended.
func (p *Pool) task(ctx context.Context, kind, volume string) (context.Context, *task) {
	all := p.inv.tasks
	t := &task{about: Task{Kind: kind, Pool: p.View().Name, Volume: volume, Since: time.Now()}}
	ctx, t.cancel = context.WithCancelCause(ctx)
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.all == nil {
		all.all = map[uint64]*task{}
	}
	all.last++
	t.about.ID = all.last
	all.all[t.about.ID] = t
	return ctx, t
}

// end takes a task out. It may be repeated.
func (p *Pool) end(t *task) {
	t.cancel(nil)
	p.inv.tasks.mu.Lock()
	defer p.inv.tasks.mu.Unlock()
	delete(p.inv.tasks.all, t.about.ID)
}

// failed is an error of a task's context as its caller shall see it.
func (t *task) failed(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, io.EOF) || !errors.Is(context.Cause(ctx), errCancelled) {
		return err
	}
	what := "storage pool '" + t.about.Pool + "'"
	if t.about.Volume != "" {
		what = "volume '" + t.about.Volume + "' of " + what
	}
	return storageError(verr.OperationAborted, "%s of %s was cancelled", t.about.Kind, what)
}

// add takes note of further bytes or volumes.
func (t *task) add(n uint64) { t.done.Add(n) }

// tell takes note of what a driver says.
func (t *task) tell(p *pb.Progress) {
	if p == nil {
		return
	}
	t.done.Store(p.GetDone())
	t.total.Store(p.GetTotal())
}

// follow reads a stream of progress to its end.
func follow[R interface{ GetProgress() *pb.Progress }](t *task, stream interface{ Recv() (R, error) }) error {
	for {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		t.tell(msg.GetProgress())
	}
}
