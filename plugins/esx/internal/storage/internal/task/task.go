// Package task runs long pieces of work at an endpoint, which goes on with them by itself.
//
// Run starts one and waits for its end, past a lost session: the task is looked for again. When the context ends, the task is cancelled at
// the endpoint, and the error says whether that worked. When the endpoint is out of reach for longer than Runner.Patience, the error says
// that the outcome is not known. A task is started once; a start whose answer is lost is not repeated, and its error says so.
//
// Errors are verr errors of the storage domain; Explain gives an endpoint's faults libvirt's codes. A Runner holds nothing and is safe
// concurrently.
package task

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	"github.com/lodgevirt/lodge/plugins/esx/internal/follow"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Runner runs tasks of one endpoint.
type Runner struct {
	// Endpoint is where.
	Endpoint *endpoint.Endpoint
	// Follow is how tasks are followed; the zero value is good for real endpoints.
	Follow follow.Options
	// Patience is how long the endpoint may be out of reach before a task is given up, 0 for 2 minutes.
	Patience time.Duration
	// Farewell bounds the cancelling of a task, 0 for 10 s.
	Farewell time.Duration
}

// answer bounds the answer that has the result of a task, which can be large.
const answer = 5 * time.Minute

// Start is a call that starts a task.
type Start func(ctx context.Context, client *vim25.Client) (*object.Task, error)

// Run runs a task. What names it in errors: "copy 'a' to 'b'".
func (r Runner) Run(ctx context.Context, what string, progress storage.Progress, start Start) error {
	_, err := r.run(ctx, what, progress, start)
	return err
}

// Result runs a task and returns what it has brought.
func (r Runner) Result(ctx context.Context, what string, start Start) (types.AnyType, error) {
	ref, err := r.run(ctx, what, nil, start)
	if err != nil {
		return nil, err
	}
	info, err := r.info(ctx, ref, "info.result")
	if err != nil {
		return nil, Explain(err, "%s: ask task %s for its result", what, ref.Value)
	}
	return info.Result, nil
}

func (r Runner) run(ctx context.Context, what string, progress storage.Progress, start Start) (types.ManagedObjectReference, error) {
	if err := ctx.Err(); err != nil {
		return types.ManagedObjectReference{}, givenUp(ctx, "%s: not begun", what)
	}
	ref, err := r.start(ctx, what, start)
	if err != nil {
		return ref, err
	}
	w := newWatch(ref, progress)
	f, err := follow.Start(r.Endpoint, r.Follow, w)
	if err != nil {
		return ref, Explain(err, "%s: task %s goes on at the endpoint", what, ref.Value)
	}
	defer f.Close()
	return ref, r.wait(ctx, what, w)
}

// start starts a task.
func (r Runner) start(ctx context.Context, what string, start Start) (ref types.ManagedObjectReference, err error) {
	unanswered := false
	err = r.Endpoint.Do(ctx, func(ctx context.Context, client *vim25.Client) error {
		started, err := start(ctx, client)
		if err == nil {
			ref = started.Reference()
		}
		unanswered = err != nil && !Answered(err)
		return err
	})
	switch {
	case unanswered:
		return ref, Explain(err, "%s: the endpoint has not answered, so it is not known whether it was begun", what)
	case err != nil:
		return ref, Explain(err, "%s", what)
	}
	return ref, nil
}

// wait waits for the end.
func (r Runner) wait(ctx context.Context, what string, w *watch) error {
	var lost error
	var patience <-chan time.Time
	for {
		select {
		case state := <-w.ended:
			return r.outcome(ctx, what, w.ref, state)
		case err := <-w.gone:
			return Explain(err, "%s: the endpoint does not know task %s any more, so its outcome is not known", what, w.ref.Value)
		case lost = <-w.lost:
			switch {
			case lost == nil:
				patience = nil
			case patience == nil:
				patience = time.After(or(r.Patience, 2*time.Minute))
			}
		case <-patience:
			return Explain(lost, "%s: the outcome of task %s is not known", what, w.ref.Value)
		case <-ctx.Done():
			return r.cancel(ctx, what, w)
		}
	}
}

// outcome is what a task has ended with.
func (r Runner) outcome(ctx context.Context, what string, ref types.ManagedObjectReference, state types.TaskInfoState) error {
	if state == types.TaskInfoStateSuccess {
		return nil
	}
	info, err := r.info(ctx, ref, "info.error")
	switch {
	case err != nil:
		return Explain(err, "%s: task %s has failed, and why is not known", what, ref.Value)
	case info.Error == nil:
		return Explain(r.Endpoint.Report(nil, errNoReason), "%s", what)
	}
	return Explain(r.Endpoint.Report(nil, task.Error{LocalizedMethodFault: info.Error}), "%s", what)
}

// errNoReason is the error of a task that does not tell why it has failed.
var errNoReason = verr.New(verr.Internal, "the task failed without a reason")

// info asks for a property of a task.
func (r Runner) info(ctx context.Context, ref types.ManagedObjectReference, name string) (types.TaskInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	leave, err := r.Endpoint.Enter(cancel)
	if err != nil {
		return types.TaskInfo{}, err
	}
	defer leave()
	s, err := r.Endpoint.Session(ctx)
	if err != nil {
		return types.TaskInfo{}, err
	}
	var have mo.Task
	err = property.DefaultCollector(s.Client).RetrieveOne(ctx, ref, []string{name}, &have)
	return have.Info, r.Endpoint.Report(s, err)
}

// cancel asks the endpoint to end a task, and says what became of it.
func (r Runner) cancel(ctx context.Context, what string, w *watch) error {
	patience, stop := context.WithTimeout(context.WithoutCancel(ctx), or(r.Farewell, 10*time.Second))
	defer stop()
	err := r.Endpoint.Do(patience, func(ctx context.Context, client *vim25.Client) error {
		_, err := methods.CancelTask(ctx, client, &types.CancelTask{This: w.ref})
		return err
	})
	select {
	case state := <-w.ended:
		if state == types.TaskInfoStateSuccess {
			return givenUp(ctx, "%s: was given up, but had been done at the host by then", what)
		}
		return givenUp(ctx, "%s: was given up, and ended at the host", what)
	case <-patience.Done():
	}
	if err != nil {
		return givenUp(ctx, "%s: was given up, but task %s goes on at the host: cannot cancel it: %v", what, w.ref.Value, err)
	}
	return givenUp(ctx, "%s: was given up, and task %s was told to end at the host but has not yet", what, w.ref.Value)
}

// givenUp is the error of what was cut short by its caller.
func givenUp(ctx context.Context, format string, args ...any) error {
	code := verr.OperationAborted
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		code = verr.OperationTimeout
	}
	return verr.New(code, "%s: %w", fmt.Sprintf(format, args...), ctx.Err()).In(verr.FromStorage)
}

func or(d, fallback time.Duration) time.Duration {
	if d <= 0 {
		return fallback
	}
	return d
}
