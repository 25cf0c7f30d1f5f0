package task

import (
	"context"
	"fmt"

	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/follow"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// errEnded ends the following of a task, so that nothing is waited for any more. It says nothing about the session.
var errEnded = verr.New(verr.OperationAborted, "the task has ended")

// watch follows one task; it implements follow.Source. Its channels hold one message, and are never waited for.
type watch struct {
	ref      types.ManagedObjectReference
	progress storage.Progress
	// ended has how the task has ended, gone why it cannot be found any more.
	ended chan types.TaskInfoState
	gone  chan error
	// lost has why it cannot be seen now, or nil when it can again.
	lost chan error
}

var _ follow.Source = (*watch)(nil)

func newWatch(ref types.ManagedObjectReference, progress storage.Progress) *watch {
	return &watch{ref: ref, progress: progress, ended: make(chan types.TaskInfoState, 1), gone: make(chan error, 1), lost: make(chan error, 1)}
}

// Open implements follow.Source. What a task has brought can be large, and is asked for at its end.
func (w *watch) Open(ctx context.Context, at *follow.Watch) error {
	return at.Object(ctx, w.ref, "info.state", "info.progress")
}

// Apply implements follow.Source.
func (w *watch) Apply(update types.ObjectUpdate) error {
	for _, change := range update.ChangeSet {
		switch value := change.Val.(type) {
		case types.TaskInfoState:
			if value == types.TaskInfoStateSuccess || value == types.TaskInfoStateError {
				put(w.ended, value)
				return errEnded
			}
		case int32:
			if w.progress != nil && value > 0 {
				w.progress(uint64(value), 100)
			}
		case nil:
		default:
			return fmt.Errorf("%s is a %T", change.Name, change.Val)
		}
	}
	return nil
}

// Publish implements follow.Source.
func (w *watch) Publish(first bool) {
	if first {
		put(w.lost, nil)
	}
}

// Lost implements follow.Source.
func (w *watch) Lost(_ context.Context, cause error) {
	if fault.Is(cause, &types.ManagedObjectNotFound{}) {
		put(w.gone, cause)
	}
	put(w.lost, cause)
}

// put replaces the message in a channel. Only the follower's goroutine does.
func put[T any](c chan T, value T) {
	select {
	case <-c:
	default:
	}
	c <- value
}
