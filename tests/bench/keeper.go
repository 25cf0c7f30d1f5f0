package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/tests/lockd"
	"github.com/lodgevirt/lodge/tests/peer"
)

// reexecWait bounds the wait for a lock daemon to execute itself anew.
const reexecWait = 10 * time.Second

// keeper is a lock daemon to be measured, in a jail. Its folders are in memory if there is a file system for that, as run directories are:
// making a file on a disk costs more than a daemon.
type keeper struct {
	title  string
	dir    string
	jail   *peer.Jail
	socket string
	args   []string
	// remembers says that it knows its leases again after SIGKILL, and lists them.
	remembers bool
	pid       int
}

// memory makes a folder in memory, or else in scratch.
func memory(scratch string) (string, error) {
	for _, base := range []string{"/dev/shm", scratch} {
		if dir, err := os.MkdirTemp(base, "lb"); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("no place for a folder")
}

// newOurs prepares our lock daemon.
func newOurs(ctx context.Context, bin, dir string) (*keeper, error) {
	jail, err := peer.Enter(ctx, dir)
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "sock")
	return &keeper{
		title: "lodge-lockd", dir: dir, jail: jail, socket: socket, remembers: true,
		args: []string{filepath.Join(bin, "lodge-lockd"), "--socket", socket, "--log-level", "warn"},
	}, nil
}

// newTheirs prepares libvirt's.
func newTheirs(ctx context.Context, dir string) (*keeper, error) {
	l, err := peer.Build(ctx, dir)
	if err != nil {
		return nil, err
	}
	return &keeper{
		title: "virtlockd", dir: dir, jail: l.Jail, socket: l.LockSocket(),
		args: []string{"virtlockd", "-p", filepath.Join(dir, "virtlockd.pid")},
	}, nil
}

// start starts the daemon and returns once it takes connections.
func (k *keeper) start(ctx context.Context) (err error) {
	if k.pid, err = k.jail.Start("lockd", k.args...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, reexecWait)
	defer cancel()
	return peer.Await(ctx, k.socket)
}

func (k *keeper) kill() error { return k.jail.End(k.pid, unix.SIGKILL) }

// reexecute returns once the daemon executes itself anew.
func (k *keeper) reexecute() error {
	done, err := lockd.Reexecute(k.pid, reexecWait)
	if err == nil && !done {
		err = errors.New("the lock daemon does not re-execute itself")
	}
	return err
}

func (k *keeper) pids() []int { return []int{k.pid} }

func (k *keeper) space() string { return filepath.Join(k.dir, "space") }

func (k *keeper) close() error { return errors.Join(k.jail.Close(), os.RemoveAll(k.dir)) }

// owner connects for a process of its own.
func (k *keeper) owner(id int, process int) (*lockd.Client, error) {
	c, err := lockd.Dial(k.socket)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(
		c.Register(lockd.Owner{UUID: [16]byte{byte(id + 1)}, Name: fmt.Sprint("owner-", id), ID: uint32(id + 1), PID: process}),
		c.CreateSpace(k.space()),
	); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}
