package lockclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

// keep runs a keeper of a daemon in a folder, and returns what its OnReady is told. The daemon ends with the test.
func keep(t *testing.T, dir string, change func(*KeeperConfig)) (k *Keeper, ready chan Status) {
	t.Helper()
	t.Setenv(roleVariable, "daemon")
	ready = make(chan Status, 64)
	cfg := KeeperConfig{
		Client: client(t, dir), Command: []string{os.Args[0], dir}, LogFile: filepath.Join(dir, "log"), Log: hclog.NewNullLogger(),
		OnReady:    func(_ context.Context, s Status) error { ready <- s; return nil },
		CheckEvery: 10 * time.Millisecond, CheckTimeout: 500 * time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	k = NewKeeper(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := k.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("keeper ended: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		done.Wait()
		if len(cfg.Command) == 0 {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if s, err := cfg.Client.ask(ctx); err == nil && s.PID != os.Getpid() {
			send(t, s.PID, unix.SIGINT)
		}
	})
	return k, ready
}

// next waits for a daemon that has not been seen yet.
func next(t *testing.T, ready chan Status) Status {
	t.Helper()
	select {
	case s := <-ready:
		return s
	case <-time.After(patience):
		t.Fatal("no daemon")
	}
	return Status{}
}

// send sends a signal, and waits for the end of the process, or for SIGSTOP to have stopped it.
func send(t *testing.T, pid int, sig unix.Signal) {
	t.Helper()
	p, err := open(int32(pid))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Signal(sig); err != nil {
		t.Fatal(err)
	}
	if sig == unix.SIGSTOP {
		eventually(t, "the daemon does not stop", func() bool {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return err == nil && bytes.Contains(text, []byte(") T "))
		})
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.Wait(ctx); err != nil {
		t.Errorf("daemon does not end: %v", err)
	}
}

func TestKeeperBringsBackADaemonThatDied(t *testing.T) {
	for name, how := range map[string]func(*testing.T, int){
		"is killed": func(t *testing.T, pid int) { send(t, pid, unix.SIGKILL) },
		"hangs":     func(t *testing.T, pid int) { send(t, pid, unix.SIGSTOP) },
		"ends":      func(t *testing.T, pid int) { send(t, pid, unix.SIGINT) },
	} {
		t.Run("when it "+name, func(t *testing.T) {
			dir := t.TempDir()
			_, ready := keep(t, dir, nil)
			first := next(t, ready)
			c := client(t, dir)
			got, err := c.Acquire(t.Context(), guest(1, 1), disks(dir, 1))
			if err != nil {
				t.Fatal(err)
			}
			closeLeases(got)
			begun := time.Now()
			how(t, first.PID)
			second := next(t, ready)
			t.Logf("back after %v", time.Since(begun).Round(time.Millisecond))
			if second.PID == first.PID || second.Held+second.Unproven != 1 {
				t.Errorf("after %+v came %+v", first, second)
			}
			// The kernel may still be closing the old daemon's descriptors when the new one looks; it looks again.
			eventually(t, "the lease is not held again", func() bool {
				all, err := c.List(t.Context())
				return err == nil && len(all) == 1 && all[0].State == Held
			})
		})
	}
}

func TestKeeperEndsADaemonThatHungBeforeItCame(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(roleVariable, "daemon")
	// As an earlier core would have started it.
	cmd := exec.Command(os.Args[0], dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if s, err := client(t, dir).Status(t.Context()); err != nil || s.PID != cmd.Process.Pid {
		t.Fatalf("status %+v, error %v", s, err)
	}
	send(t, cmd.Process.Pid, unix.SIGSTOP)
	_, ready := keep(t, dir, nil)
	if s := next(t, ready); s.PID == cmd.Process.Pid {
		t.Error("the hung daemon answered")
	}
}

func TestKeeperUsesADaemonThatIsThere(t *testing.T) {
	dir := t.TempDir()
	serve(t, dir)
	_, ready := keep(t, dir, nil)
	if s := next(t, ready); s.PID != os.Getpid() {
		t.Errorf("daemon is %d, want %d", s.PID, os.Getpid())
	}
}

func TestKeeperDoesNotEndADaemonOfSomebodyElse(t *testing.T) {
	dir := t.TempDir()
	connections := mute(t, dir) // in this process, which would not survive
	k, _ := keep(t, dir, func(c *KeeperConfig) { c.Command = nil })
	eventually(t, "the daemon is not asked", func() bool { return connections() > 0 })
	if err := k.endHung(t.Context()); !errors.Is(err, errForeign) {
		t.Errorf("error is %v, want errForeign", err)
	}
}

func TestDaemonThatIsSlowOnceIsNotStartedAnew(t *testing.T) {
	dir := t.TempDir()
	k, ready := keep(t, dir, nil)
	first := next(t, ready)
	p, err := open(int32(first.PID))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := errors.Join(p.Signal(unix.SIGSTOP), p.Signal(unix.SIGCONT)); err != nil {
		t.Fatal(err)
	}
	k.Settle()
	if s := next(t, ready); s.PID != first.PID {
		t.Errorf("daemon %d was replaced by %d", first.PID, s.PID)
	}
}

func TestFailedSettlementIsTriedAgain(t *testing.T) {
	dir := t.TempDir()
	serve(t, dir)
	var calls atomic.Int32
	_, ready := keep(t, dir, func(c *KeeperConfig) {
		onReady := c.OnReady
		c.OnReady = func(ctx context.Context, s Status) error {
			if calls.Add(1) == 1 {
				return syscall.ENOSPC
			}
			return onReady(ctx, s)
		}
	})
	next(t, ready)
	if n := calls.Load(); n != 2 {
		t.Errorf("OnReady was called %d times, want 2", n)
	}
}

func TestKeeperLeavesTheDaemonWhenItEnds(t *testing.T) {
	dir := t.TempDir()
	var first Status
	t.Run("one keeper", func(t *testing.T) {
		t.Setenv(roleVariable, "daemon")
		ctx, cancel := context.WithCancel(t.Context())
		ready := make(chan Status, 1)
		c := client(t, dir)
		k := NewKeeper(KeeperConfig{
			Client: c, Command: []string{os.Args[0], dir}, Log: hclog.NewNullLogger(),
			OnReady: func(_ context.Context, s Status) error { ready <- s; cancel(); return nil },
		})
		if err := k.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("keeper ended: %v", err)
		}
		first = next(t, ready)
	})
	if _, err := process.Find(int32(first.PID)); err != nil {
		t.Fatalf("the daemon is gone: %v", err)
	}
	_, ready := keep(t, dir, nil)
	if s := next(t, ready); s.PID != first.PID {
		t.Errorf("daemon is %d, want %d again", s.PID, first.PID)
	}
}

func TestCommandThatFailsIsTriedAgain(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	text := "#!/bin/sh\necho >>" + filepath.Join(dir, "tries") + "\nexit 1\n"
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	keep(t, dir, func(c *KeeperConfig) { c.Command = []string{script} })
	eventually(t, "the command is not tried again", func() bool {
		tries, _ := os.ReadFile(filepath.Join(dir, "tries"))
		return len(tries) >= 3
	})
}
