package lockclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

const (
	// checkEvery and checkTimeout are the defaults of KeeperConfig.
	checkEvery   = 2 * time.Second
	checkTimeout = 5 * time.Second
	// killTimeout bounds how long a killed daemon may take to be gone; only one that the kernel cannot end takes any.
	killTimeout = 5 * time.Second
)

// errForeign says that a daemon is not the keeper's to end.
var errForeign = errors.New("lock daemon was not started by this keeper's command")

// watch waits until the daemon's process has ended, and asks it meanwhile whether it is well.
func (k *Keeper) watch(ctx context.Context, status Status) error {
	p, err := open(int32(status.PID))
	if err != nil {
		return fmt.Errorf("watch lock daemon: %w", err)
	}
	defer p.Close()
	var checks sync.WaitGroup
	defer checks.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	checks.Go(func() { k.check(ctx) })
	if err := p.Wait(ctx); err != nil {
		return err
	}
	return fmt.Errorf("lock daemon with pid %d: %w", status.PID, process.ErrGone)
}

func open(pid int32) (*process.Process, error) {
	id, err := process.Find(pid)
	if err != nil {
		return nil, err
	}
	return process.Open(id)
}

// check asks the daemon every now and then how it is, and ends one that does not answer in time. A connection that fails says nothing:
// the daemon's end is seen by its process.
func (k *Keeper) check(ctx context.Context) {
	tick := time.NewTicker(k.cfg.CheckEvery)
	defer tick.Stop()
	for hung := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := k.alive(ctx)
		was := hung
		hung = errors.Is(err, context.DeadlineExceeded)
		switch {
		case hung == was:
		case hung:
			k.cfg.Log.Error("lock daemon hangs", "error", errors.Join(err, k.endHung(ctx)))
		default:
			k.cfg.Log.Info("lock daemon answers again")
		}
	}
}

// alive returns nil if the daemon answers, and context.DeadlineExceeded if it is there and does not.
func (k *Keeper) alive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, k.cfg.CheckTimeout)
	defer cancel()
	_, err := k.asker.ask(ctx)
	return err
}

// endHung kills the daemon at the other end of the asker's connection, which does not answer, and waits until it is gone. One that is
// not ours is errForeign.
func (k *Keeper) endHung(ctx context.Context) error {
	pid, err := k.asker.peer()
	if err != nil {
		return fmt.Errorf("find hung lock daemon: %w", err)
	}
	p, err := open(pid)
	if err != nil {
		return fmt.Errorf("end hung lock daemon: %w", err)
	}
	defer p.Close()
	if !k.ours(pid) {
		return fmt.Errorf("end hung lock daemon with pid %d: %w", pid, errForeign)
	}
	k.cfg.Log.Warn("hung lock daemon is killed", "pid", pid)
	if err := p.Signal(unix.SIGKILL); err != nil {
		return fmt.Errorf("end hung lock daemon: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	if err := p.Wait(ctx); err != nil {
		return fmt.Errorf("end hung lock daemon with pid %d: %w", pid, err)
	}
	return nil
}

// ours reports whether a process runs the keeper's command. The command names the journal and the socket, so no other layout's daemon
// is taken for it, and one that an earlier core started is known too.
func (k *Keeper) ours(pid int32) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/cmdline")
	args := strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
	return err == nil && len(k.cfg.Command) > 0 && slices.Equal(args, k.cfg.Command)
}

// peer returns the process that listens at the other end of the present connection (SO_PEERCRED).
func (c *Client) peer() (int32, error) {
	c.mu.Lock()
	current := c.conn
	c.mu.Unlock()
	if current == nil {
		return 0, errors.New("there is no connection")
	}
	raw, err := current.raw.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var inner error
	err = raw.Control(func(fd uintptr) { cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, inner); err != nil {
		return 0, err
	}
	return cred.Pid, nil
}
