package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
)

const (
	// maxStderr bounds what is kept of a QEMU's own words.
	maxStderr = 2 << 10
	// quitGrace is how long a QEMU may take to end after it was told to.
	quitGrace = 2 * time.Second
)

// refused reports whether QEMU has answered a command with an error.
func refused(err error) bool {
	var e *qmp.Error
	return errors.As(err, &e)
}

// question starts a QEMU without a guest for each accelerator, together, and asks them.
func question(ctx context.Context, path string, kvm kvmState) (*Binary, error) {
	var b *Binary
	var emulated, native CPUs
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return interrogate(ctx, path, "tcg", func(c *qmp.Client) (err error) {
			emulated, err = describeCPUs(ctx, c, "qemu")
			return err
		})
	})
	group.Go(func() error {
		return interrogate(ctx, path, kvm.accelerators(), func(c *qmp.Client) (err error) {
			if b, err = describe(ctx, c); err != nil || !b.KVM {
				return err
			}
			native, err = describeCPUs(ctx, c, "kvm")
			return err
		})
	})
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("probe emulator %q: %w", path, err)
	}
	b.Path, b.CPUs["qemu"] = path, emulated
	if b.KVM {
		b.CPUs["kvm"], b.KVMMaxVCPUs = native, kvm.MaxVCPUs
	}
	return b, nil
}

// interrogate starts a QEMU, talks to it and ends it. Its monitor is one end of a pair of sockets, so that there is no path to
// clean up and nothing to wait for.
func interrogate(ctx context.Context, path, accel string, talk func(*qmp.Client) error) error {
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer ours.Close()
	var words excerpt
	cmd := exec.CommandContext(ctx, path, "-S", "-no-user-config", "-nodefaults", "-nographic", "-machine", "none,accel="+accel,
		"-chardev", "socket,id=monitor,fd=3", "-mon", "chardev=monitor,mode=control")
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/"}
	cmd.Dir, cmd.Stderr, cmd.ExtraFiles = "/", &words, []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	// An emulator may be a script around the real one: its whole session ends.
	kill := func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.Cancel, cmd.WaitDelay = kill, quitGrace
	err = cmd.Start()
	if cerr := theirs.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	talkErr := converse(ctx, ours, talk)
	if talkErr != nil {
		// Whatever it is doing, its answer is of no use any more. It may have ended by itself.
		_ = kill()
	}
	late := time.AfterFunc(quitGrace, func() { _ = kill() })
	defer late.Stop()
	if err := cmd.Wait(); talkErr == nil {
		return err
	}
	if said := words.String(); said != "" {
		return fmt.Errorf("%w: it said: %s", talkErr, said)
	}
	return talkErr
}

func converse(ctx context.Context, conn net.Conn, talk func(*qmp.Client) error) error {
	c, err := qmp.New(ctx, conn)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := talk(c); err != nil {
		return err
	}
	// QEMU may close the monitor before its answer is read.
	if err := c.Execute(ctx, "quit", nil, nil); err != nil && !errors.Is(err, qmp.ErrGone) {
		return err
	}
	return nil
}

func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "monitor"), os.NewFile(uintptr(fds[1]), "monitor")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn, theirs, nil
}

// excerpt keeps the beginning of what is written to it, on one line.
type excerpt struct{ buf bytes.Buffer }

func (e *excerpt) Write(p []byte) (int, error) {
	if room := maxStderr - e.buf.Len(); room > 0 {
		e.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (e *excerpt) String() string { return strings.Join(strings.Fields(e.buf.String()), " ") }
