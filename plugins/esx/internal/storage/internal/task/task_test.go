package task

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/sdk/verr"
)

func change(name string, value any) types.ObjectUpdate {
	return types.ObjectUpdate{ChangeSet: []types.PropertyChange{{Name: name, Val: value}}}
}

func TestWatchTellsProgressAndTheEnd(t *testing.T) {
	var told []uint64
	w := newWatch(types.ManagedObjectReference{Value: "task-1"}, func(done, total uint64) { told = append(told, done, total) })
	for _, update := range []types.ObjectUpdate{
		change("info.state", types.TaskInfoStateQueued), change("info.state", types.TaskInfoStateRunning), change("info.progress", nil),
		change("info.progress", int32(0)), change("info.progress", int32(40)),
	} {
		if err := w.Apply(update); err != nil {
			t.Errorf("%v: %v", update.ChangeSet, err)
		}
	}
	if len(told) != 2 || told[0] != 40 || told[1] != 100 {
		t.Errorf("progress is told as %v", told)
	}
	if err := w.Apply(change("info.progress", "40 %")); err == nil || errors.Is(err, errEnded) {
		t.Errorf("progress of another type: %v", err)
	}
	if err := w.Apply(change("info.state", types.TaskInfoStateError)); !errors.Is(err, errEnded) {
		t.Errorf("the end: %v", err)
	}
	if state := <-w.ended; state != types.TaskInfoStateError {
		t.Errorf("it has ended as %q", state)
	}
}

func TestWatchRemembersOnlyTheLastLoss(t *testing.T) {
	w := newWatch(types.ManagedObjectReference{Value: "task-1"}, nil)
	first, second := errors.New("first"), errors.New("second")
	w.Lost(context.Background(), first)
	w.Lost(context.Background(), second)
	if err := <-w.lost; !errors.Is(err, second) {
		t.Errorf("the loss is %v", err)
	}
	w.Lost(context.Background(), first)
	w.Publish(true)
	if err := <-w.lost; err != nil {
		t.Errorf("after it was found again the loss is %v", err)
	}
	w.Publish(false)
	w.Lost(context.Background(), failure(&types.ManagedObjectNotFound{}))
	if err := <-w.gone; err == nil {
		t.Error("a task that is not known any more is not told")
	}
}

func failure(f types.BaseMethodFault) error {
	return task.Error{LocalizedMethodFault: &types.LocalizedMethodFault{Fault: f, LocalizedMessage: "no"}}
}

func TestFaultsHaveLibvirtsCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		code verr.Code
		word string
	}{
		{failure(&types.FileNotFound{}), verr.NoStorageVol, "no such file"},
		{failure(&types.FileAlreadyExists{}), verr.StorageVolExist, "already"},
		{failure(&types.FileLocked{}), verr.OperationInvalid, "in use"},
		{failure(&types.NoDiskSpace{}), verr.OperationFailed, "full"},
		{failure(&types.InvalidDatastore{}), verr.NoStoragePool, "datastore"},
		{verr.New(verr.AccessDenied, "no: %w", failure(&types.NoPermission{})), verr.AccessDenied, "no"},
		{context.DeadlineExceeded, verr.OperationTimeout, "deadline"},
	} {
		err := Explain(c.err, "delete %q", "a")
		got := verr.From(err)
		if got.Code != c.code || got.Domain != verr.FromStorage || !strings.Contains(got.Message, c.word) || !strings.HasPrefix(got.Message, `delete "a": `) {
			t.Errorf("%v is told as %+v", c.err, got)
		}
		if !errors.Is(err, c.err) {
			t.Errorf("the cause of %v is lost", err)
		}
		if Answered(err) == errors.Is(c.err, context.DeadlineExceeded) {
			t.Errorf("%v is taken for an answer: %v", c.err, Answered(err))
		}
	}
}
