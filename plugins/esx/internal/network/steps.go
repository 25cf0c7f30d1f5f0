package network

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// takeBack bounds how long steps are taken back, an absence of the endpoint included.
	takeBack = 15 * time.Second
	// again is the pause between two attempts to take a step back.
	again = 100 * time.Millisecond
)

// call is one call that changes something at the endpoint.
type call func(ctx context.Context, c *vim25.Client) error

// step is a part of a change.
type step struct {
	// name says what is done, left what is left if it is not taken back.
	name, left string
	do, undo   call
}

// run takes steps in order. When one fails it takes back those before, newest first, and the failed one too if the endpoint has not
// answered, so that it may have done it. The error names what is left.
func (n *Networks) run(ctx context.Context, steps []step) error {
	for i, s := range steps {
		err := n.endpoint.Do(ctx, s.do)
		if err == nil {
			continue
		}
		done := steps[:i]
		if !answered(err) {
			done = steps[:i+1]
		}
		if left := n.back(ctx, done); len(left) > 0 {
			return explain(err, s.name+" (and what was done before could not be taken back: "+strings.Join(left, ", ")+")")
		}
		return explain(err, s.name)
	}
	return nil
}

// back takes steps back and names what is left.
func (n *Networks) back(ctx context.Context, steps []step) (left []string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeBack)
	defer cancel()
	for i := len(steps) - 1; i >= 0; i-- {
		if err := n.undo(ctx, steps[i].undo); err != nil {
			n.log.Warn("step was not taken back", "step", steps[i].name, "error", err)
			left = append(left, steps[i].left)
		}
	}
	return left
}

// undo takes a step back as soon as the endpoint is there. What is not there any more, or not yet, is taken back.
func (n *Networks) undo(ctx context.Context, undo call) error {
	for {
		_, err := n.endpoint.Await(ctx)
		if err == nil {
			err = n.endpoint.Do(ctx, undo)
		}
		if err == nil || fault.Is(err, &types.NotFound{}) {
			return nil
		}
		if answered(err) || verr.Is(err, verr.InvalidConn) {
			return err // the endpoint refuses, or is closed for good
		}
		if rest(ctx); ctx.Err() != nil {
			return err
		}
	}
}

// rest waits before another attempt.
func rest(ctx context.Context) {
	select {
	case <-time.After(again):
	case <-ctx.Done():
	}
}

// answered says whether an error is the endpoint's own answer, so that it has not done what it was told.
func answered(err error) bool {
	var f interface{ Fault() types.BaseMethodFault }
	return errors.As(err, &f)
}

// codes are libvirt's for what a host answers.
var codes = []struct {
	fault types.BaseMethodFault
	code  verr.Code
}{
	{&types.AlreadyExists{}, verr.OperationFailed},
	{&types.DuplicateName{}, verr.OperationFailed},
	{&types.ResourceInUse{}, verr.ResourceBusy},
	{&types.InvalidArgument{}, verr.InvalidArg},
	{&types.NotFound{}, verr.OperationFailed},
}

// explain says what failed, with libvirt's code for it.
func explain(err error, doing string) error {
	code := verr.From(err).Code
	for _, c := range codes {
		if fault.Is(err, c.fault) {
			code = c.code
		}
	}
	return verr.New(code, "%s: %w", doing, err).In(verr.FromNetwork)
}
