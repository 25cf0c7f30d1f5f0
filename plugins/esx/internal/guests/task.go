package guests

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/inventory"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Times of a task.
const (
	// maxMargin is how much of a call's time is kept for cancelling; of a short call it is a quarter.
	maxMargin = 8 * time.Second
	// cancelTimeout bounds the cancelling.
	cancelTimeout = 3 * time.Second
	// minCancel is what cancelling takes at least, and answerTime what is left of a call's time for its answer.
	minCancel  = 500 * time.Millisecond
	answerTime = 200 * time.Millisecond
	// retryPause is between two tries to wait for a task when the connection was lost.
	retryPause = 200 * time.Millisecond
	// taskWait is how long the endpoint may hold up an answer about a task, in seconds.
	taskWait = 10
)

// budget is the context of a change, which ends early enough for cancelling it.
func budget(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	margin := min(maxMargin, time.Until(deadline)/4)
	return context.WithDeadline(ctx, deadline.Add(-margin))
}

// starter begins a task.
type starter func(ctx context.Context, client *vim25.Client) (types.ManagedObjectReference, error)

// ender says what becomes of a task that could not be waited for.
type ender func(ctx context.Context, what string, ref types.ManagedObjectReference, cause error) (types.AnyType, error)

// run runs a task to its end and returns its result. vm is the machine whose questions may hold it up, or the zero value.
func (g *Guests) run(ctx context.Context, what string, vm inventory.VM, start starter) (types.AnyType, error) {
	return g.runOr(ctx, what, vm, start, g.giveUp)
}

// runOr is run with something else to do when time is over.
func (g *Guests) runOr(ctx context.Context, what string, vm inventory.VM, start starter, end ender) (types.AnyType, error) {
	within, cancel := budget(ctx)
	defer cancel()
	if err := g.unasked(vm); err != nil {
		return nil, err
	}
	var ref types.ManagedObjectReference
	err := g.endpoint.Do(within, func(ctx context.Context, client *vim25.Client) (err error) {
		ref, err = start(ctx, client)
		return err
	})
	if err != nil {
		return nil, explain(what, err)
	}
	result, err := g.wait(within, ref, vm)
	var question *questionError
	switch {
	case err == nil:
		return result, nil
	case errors.As(err, &question), within.Err() != nil:
		return end(ctx, what, ref, err)
	}
	return nil, explain(what, err)
}

// wait waits for a task, over lost connections, until it ends, the context does, or the machine asks something.
func (g *Guests) wait(ctx context.Context, ref types.ManagedObjectReference, vm inventory.VM) (types.AnyType, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type end struct {
		result types.AnyType
		err    error
	}
	over := make(chan end, 1)
	go func() {
		result, err := g.outlast(ctx, ref)
		over <- end{result, err}
	}()
	for {
		g.mu.Lock()
		changed := g.changed
		g.mu.Unlock()
		if err := g.unasked(vm); err != nil {
			cancel()
			<-over
			return nil, err
		}
		select {
		case e := <-over:
			return e.result, e.err
		case <-changed:
		}
	}
}

// outlast waits for the end of a task, again when the connection was lost.
func (g *Guests) outlast(ctx context.Context, ref types.ManagedObjectReference) (types.AnyType, error) {
	for {
		s, err := g.endpoint.Session(ctx)
		if err == nil {
			var info *types.TaskInfo
			info, err = waitOnce(ctx, s.Client, ref)
			if info != nil {
				return outcome(info)
			}
			lost := fault.Is(err, &types.ManagedObjectNotFound{})
			err = g.endpoint.Report(s, err)
			if lost {
				return nil, fmt.Errorf("the endpoint has forgotten the task, so it is not known whether it has succeeded: %w", err)
			}
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (%w)", ctx.Err(), err)
		}
	}
}

// outcome is the result of a task that has ended.
func outcome(info *types.TaskInfo) (types.AnyType, error) {
	if info.State == types.TaskInfoStateSuccess {
		return info.Result, nil
	}
	if info.Error == nil {
		return nil, failed(verr.Internal, "task %s failed and does not say why", info.Key)
	}
	return nil, task.Error{LocalizedMethodFault: info.Error, Description: info.Description}
}

// waitOnce waits for a task with a collector of its own. It returns nil for a task that has not ended.
func waitOnce(ctx context.Context, client *vim25.Client, ref types.ManagedObjectReference) (_ *types.TaskInfo, err error) {
	collector, err := property.DefaultCollector(client).Create(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = collector.Destroy(ctx) // ends with the session otherwise
	}()
	_, err = collector.CreateFilter(ctx, types.CreateFilter{Spec: types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: ref}},
		PropSet:   []types.PropertySpec{{Type: ref.Type, PathSet: []string{"info.state"}}},
	}})
	if err != nil {
		return nil, err
	}
	version := ""
	for {
		seconds := int32(taskWait)
		res, err := methods.WaitForUpdatesEx(ctx, client, &types.WaitForUpdatesEx{
			This: collector.Reference(), Version: version, Options: &types.WaitOptions{MaxWaitSeconds: &seconds},
		})
		if err != nil {
			return nil, err
		}
		if res.Returnval != nil {
			version = res.Returnval.Version
		}
		info, err := taskInfo(ctx, client, ref)
		if err != nil || ended(info) {
			return info, err
		}
	}
}

// taskInfo reads a task.
func taskInfo(ctx context.Context, client *vim25.Client, ref types.ManagedObjectReference) (*types.TaskInfo, error) {
	var read mo.Task
	if err := property.DefaultCollector(client).RetrieveOne(ctx, ref, []string{"info"}, &read); err != nil {
		return nil, err
	}
	return &read.Info, nil
}

// ended says whether a task has.
func ended(info *types.TaskInfo) bool {
	return info.State == types.TaskInfoStateSuccess || info.State == types.TaskInfoStateError
}

// giveUp cancels a task and says what has become of it. One that turns out to have succeeded is a success.
func (g *Guests) giveUp(ctx context.Context, what string, ref types.ManagedObjectReference, cause error) (types.AnyType, error) {
	limit := cancelTimeout
	if deadline, ok := ctx.Deadline(); ok {
		limit = max(minCancel, min(limit, time.Until(deadline)-answerTime))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	var info *types.TaskInfo
	var refusal error
	err := g.endpoint.Do(ctx, func(ctx context.Context, client *vim25.Client) (err error) {
		if _, refusal = methods.CancelTask(ctx, client, &types.CancelTask{This: ref}); refusal != nil {
			info, err = taskInfo(ctx, client, ref)
			return err
		}
		info, err = waitOnce(ctx, client, ref)
		return err
	})
	if refusal != nil {
		err = refusal
	}
	code := verr.OperationTimeout
	var question *questionError
	if errors.As(cause, &question) {
		code = verr.OperationFailed
	}
	switch {
	case info != nil && info.State == types.TaskInfoStateSuccess:
		return info.Result, nil
	case info != nil && ended(info):
		return nil, failed(code, "%s: given up, the task was cancelled at the host: %w", what, cause)
	case err != nil:
		return nil, failed(code, "%s: given up, and the task could not be cancelled, so it may still end later: %w (%v)", what, cause, err)
	}
	return nil, failed(code, "%s: given up, and the task goes on at the host: %w", what, cause)
}

// letGo leaves a task alone that takes as long as the machine is large, and says so. One that waits for an answer is given up.
func (g *Guests) letGo(ctx context.Context, what string, ref types.ManagedObjectReference, cause error) (types.AnyType, error) {
	var question *questionError
	if errors.As(cause, &question) {
		return g.giveUp(ctx, what, ref, cause)
	}
	return nil, failed(verr.OperationTimeout, "%s: it has begun and takes longer than this call may; it goes on at the host: %w", what, cause)
}

// questionError is a question that nobody answers.
type questionError struct{ text string }

// Error has the question.
func (q *questionError) Error() string { return q.text }

// unasked fails if a machine waits for an answer that is not given by us.
func (g *Guests) unasked(vm inventory.VM) error {
	if g.options.AutoAnswer || vm.UUID == "" {
		return nil
	}
	now, ok := g.mirror.Snapshot().Ref(vm.Ref)
	if !ok || now.Question == nil {
		return nil
	}
	var answers []string
	for _, c := range now.Question.Choice.ChoiceInfo {
		if d := c.GetElementDescription(); d != nil {
			answers = append(answers, "'"+d.Label+"'")
		}
	}
	return verr.New(verr.OperationFailed, "domain '%s': %w", now.Name, &questionError{fmt.Sprintf("pending question blocks virtual machine "+
		"execution, question is '%s', possible answers are %s; answer it at the host or use auto_answer=1 in the URI",
		now.Question.Text, strings.Join(answers, ", "))}).In(verr.FromESX)
}

// answerAll answers the questions of machines with their defaults, each once.
func (g *Guests) answerAll(ctx context.Context) {
	if !g.options.AutoAnswer {
		return
	}
	pending := map[string]bool{}
	for _, vm := range g.mirror.Snapshot().All() {
		q := vm.Question
		if q == nil {
			continue
		}
		key := vm.Ref.Value + "/" + q.Id
		pending[key] = true
		g.mu.Lock()
		known := g.answered[key]
		g.answered[key] = true
		g.mu.Unlock()
		if !known {
			g.answer(ctx, vm, q)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for key := range g.answered {
		if !pending[key] {
			delete(g.answered, key)
		}
	}
}

// answer gives a question its default answer, or the first where it has none.
func (g *Guests) answer(ctx context.Context, vm inventory.VM, q *types.VirtualMachineQuestionInfo) {
	choices := q.Choice.ChoiceInfo
	at := int(q.Choice.DefaultIndex)
	if at < 0 || at >= len(choices) {
		at = 0
	}
	if len(choices) == 0 {
		g.log.Warn("a question has no answers", "guest", vm.Name, "question", q.Text)
		return
	}
	choice := choices[at].GetElementDescription()
	err := g.endpoint.Do(ctx, func(ctx context.Context, client *vim25.Client) error {
		_, err := methods.AnswerVM(ctx, client, &types.AnswerVM{This: vm.Ref, QuestionId: q.Id, AnswerChoice: choice.Key})
		return err
	})
	g.log.Info("a question was answered", "guest", vm.Name, "question", q.Text, "answer", choice.Label, "error", err)
}
