package process_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

func start(t *testing.T) (*exec.Cmd, *process.Process) {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	id, err := process.Find(int32(cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	p, err := process.Open(id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return cmd, p
}

func TestWaitSeesTheExitOfANonChildToo(t *testing.T) {
	_, p := start(t)
	done := make(chan error, 1)
	go func() { done <- p.Wait(context.Background()) }()
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// It is a zombie now, which is gone for our purposes.
	if _, err := process.Open(p.ID()); !errors.Is(err, process.ErrGone) {
		t.Errorf("Open of a zombie: %v, want ErrGone", err)
	}
}

func TestWaitEndsWithTheContextAndWithClose(t *testing.T) {
	_, p := start(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := p.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait: %v, want the context's error", err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Wait(context.Background()) }()
	p.Close()
	if err := <-done; err == nil {
		t.Error("Wait of a closed process that lives returned nil")
	}
}

func TestPIDUsedAgainIsGone(t *testing.T) {
	self, err := process.Find(int32(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	self.StartTime++
	for _, id := range []process.ID{self, {}, {PID: -1}, {PID: 1 << 30, StartTime: 1}} {
		if _, err := process.Open(id); !errors.Is(err, process.ErrGone) {
			t.Errorf("Open of %v: %v, want ErrGone", id, err)
		}
	}
}
