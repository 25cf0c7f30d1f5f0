package process_test

import (
	"testing"
	"time"

	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

func TestPollerTellsEachExitOnce(t *testing.T) {
	poller, err := process.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- poller.Run() }()
	gone := make(chan int, 100)
	kills := make([]func(), 20)
	for n := range kills {
		cmd, p := start(t)
		kills[n] = func() { _ = cmd.Process.Kill() }
		if err := poller.Add(p, func() { gone <- n }); err != nil {
			t.Fatal(err)
		}
		if n%4 == 3 {
			poller.Remove(p)
			poller.Remove(p)
		}
	}
	for n := range kills {
		kills[n]()
		if n%4 == 3 {
			continue
		}
		select {
		case got := <-gone:
			if got != n {
				t.Errorf("process %d has exited, not %d", n, got)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("exit of process %d is not told", n)
		}
	}
	cmd, late := start(t)
	_ = cmd.Process.Kill()
	if err := late.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := poller.Add(late, func() { gone <- -1 }); err != nil {
		t.Fatal(err)
	}
	if got := <-gone; got != -1 {
		t.Errorf("process %d has exited, not the one that had before", got)
	}
	poller.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	select {
	case n := <-gone:
		t.Errorf("exit of process %d is told twice", n)
	default:
	}
	if _, p := start(t); poller.Add(p, func() {}) == nil {
		t.Error("a closed poller takes a process")
	}
}
