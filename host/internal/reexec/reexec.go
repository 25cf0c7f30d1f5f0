// Package reexec replaces the program of a lock daemon in place: the process stays, and with it the locks, the sockets and every
// connection, in the middle of whatever it is. Our daemon can be followed by itself, by another version, and by libvirt's virtlockd;
// and it can follow each of them.
//
// The one side is Program.Replace: it stops the hub and the table between two calls, saves their state (package lockstate) where
// virtlockd saves its own, lets the descriptors survive, and executes what is now found under the daemon's name. When anything
// fails before that, everything goes on and an error says what it was. The other side is Find, which tells what a predecessor
// has left. It believes the kernel, not the document: a descriptor is what it is found to be. Without a document that can be
// used, the locks of this process's descriptors are found all the same, and go back to the leases of the journal; so a
// document that is damaged, missing, or of a version to come costs no lock, but only connections.
//
// Program is used by one goroutine at a time, and so is a Predecessor.
package reexec

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockserver"
	"github.com/lodgevirt/lodge/host/internal/lockserver/hub"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
	"github.com/lodgevirt/lodge/host/internal/lockstate"
)

// quiesce bounds how long Replace waits for calls under way.
const quiesce = 3 * time.Second

// variable tells a program of ours that it was executed by Replace, in the process with that number.
const variable = "LODGE_REPLACED"

// self is the program that runs now, even if its file was removed.
const self = "/proc/self/exe"

// PIDFile is a file that says that the daemon runs, and is locked by a descriptor.
type PIDFile interface {
	// Descriptor returns the number of the descriptor that must stay open.
	Descriptor() int
}

// Program is a lock daemon whose program can be replaced.
type Program struct {
	Hub   *hub.Hub
	Locks *lockserver.Server
	Table *leases.Table
	// PIDFile stays locked.
	PIDFile PIDFile
	// State is where the state is saved.
	State string
	// Args are the daemon's name, by which its program is found, and its arguments.
	Args []string
	// Log is where to log.
	Log hclog.Logger
	// Ready is called last: an error gives the replacement up. It is to take care of signals.
	Ready func() error
}

// Replace executes the program that is now found under the daemon's name, and returns only if it cannot: then everything is as before.
func (p *Program) Replace(ctx context.Context) error {
	program := p.find()
	// What becomes garbage now goes with the program.
	percent := debug.SetGCPercent(-1)
	defer debug.SetGCPercent(percent)
	ctx, cancel := context.WithTimeout(ctx, quiesce)
	defer cancel()
	if err := p.Locks.Fenced(ctx); err != nil {
		return fmt.Errorf("replace program: %w", err)
	}
	begun := time.Now()
	frozen, err := p.Hub.Freeze(ctx)
	if err != nil {
		return fmt.Errorf("replace program: %w", err)
	}
	defer p.Hub.Thaw()
	locks, err := p.Table.Handover(ctx)
	if err != nil {
		return fmt.Errorf("replace program: %w", err)
	}
	defer p.Table.Resume()
	if err := p.posix(); err != nil {
		return fmt.Errorf("replace program: %w", err)
	}
	kept := keeper{}
	defer kept.restore(p.Log)
	state, err := p.save(frozen, locks, &kept)
	if err != nil {
		return fmt.Errorf("replace program: %w", err)
	}
	defer os.Remove(p.State)
	if err := lockstate.Save(p.State, state); err != nil {
		return fmt.Errorf("replace program: %w", err)
	}
	p.Log.Info("program is replaced", "program", program, "locks", len(locks), "took", time.Since(begun))
	if p.Ready != nil {
		if err := p.Ready(); err != nil {
			return fmt.Errorf("replace program: %w", err)
		}
	}
	env := append(os.Environ(), variable+"="+strconv.Itoa(os.Getpid()))
	return fmt.Errorf("replace program by %q: %w", program, unix.Exec(program, p.Args, env))
}

// replaced reports whether Replace has executed this program.
func replaced() bool { return os.Getenv(variable) == strconv.Itoa(os.Getpid()) }

// posixMajor and posixMinor are the version of Linux from which on a process with several threads keeps its POSIX locks across execve.
const posixMajor, posixMinor = 5, 11

// posix returns an error if there are locks that this kernel would drop.
func (p *Program) posix() error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("find the kernel's version: %w", err)
	}
	release := unix.ByteSliceToString(name.Release[:])
	if keepsPOSIX(release) {
		return nil
	}
	for _, l := range p.Table.List() {
		if l.State == leases.Held && l.Kind == lockspace.POSIX {
			return fmt.Errorf("lock of %q was virtlockd's: Linux %s would drop it, %d.%d would not",
				l.Resource.Path(), release, posixMajor, posixMinor)
		}
	}
	return nil
}

// keepsPOSIX reports whether a release of Linux keeps POSIX locks across execve. One that cannot be understood is taken for a new one.
func keepsPOSIX(release string) bool {
	var major, minor int
	if n, err := fmt.Sscanf(release, "%d.%d", &major, &minor); n < 2 || err != nil {
		return true
	}
	return major > posixMajor || (major == posixMajor && minor >= posixMinor)
}

// find returns the program that has the daemon's name now, or else the one that runs.
func (p *Program) find() string {
	name := p.Args[0]
	path, err := exec.LookPath(name)
	if err != nil && !errors.Is(err, exec.ErrDot) {
		p.Log.Warn("daemon's program is not found any more: the same one is executed", "name", name, "error", err)
		return self
	}
	if strings.ContainsRune(name, '/') {
		return name
	}
	return path
}

// keeper lets descriptors survive execve.
type keeper struct{ fds []int }

func (k *keeper) keep(fd int) error {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
		return fmt.Errorf("keep descriptor %d: %w", fd, err)
	}
	k.fds = append(k.fds, fd)
	return nil
}

// restore takes that back.
func (k *keeper) restore(log hclog.Logger) {
	for _, fd := range k.fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			log.Warn("descriptor would be inherited", "fd", fd, "error", err)
		}
	}
}
