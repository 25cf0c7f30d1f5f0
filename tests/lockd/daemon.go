package lockd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// endWait bounds the wait for the end of a daemon.
const endWait = 20 * time.Second

// Daemon is our lock daemon, which may be ended and started again.
type Daemon struct {
	// Command is its command line.
	Command []string
	// Socket is where it serves.
	Socket string
	// Log is the file that its output is appended to.
	Log string

	cmd  *exec.Cmd
	done chan struct{}
}

// Start starts the daemon and returns once it takes connections.
func (d *Daemon) Start(ctx context.Context) error {
	if err := d.Launch(); err != nil {
		return err
	}
	return d.Await(ctx)
}

// Launch starts the daemon and does not wait.
func (d *Daemon) Launch() error {
	log, err := os.OpenFile(d.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open log of the lock daemon: %w", err)
	}
	defer log.Close()
	// It is ended by End, not by a context: it must outlive the call that started it.
	cmd := exec.CommandContext(context.Background(), d.Command[0], d.Command[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the lock daemon: %w", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // How it ended is in its log.
	}()
	d.cmd, d.done = cmd, done
	return nil
}

// Await returns once the daemon takes connections. It fails if the daemon ends before that.
func (d *Daemon) Await(ctx context.Context) error {
	for {
		c, err := Dial(d.Socket)
		if err == nil {
			c.Close()
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the lock daemon: %w", errors.Join(err, ctx.Err()))
		case <-d.done:
			return errors.New("wait for the lock daemon: it has ended")
		case <-time.After(500 * time.Microsecond):
		}
	}
}

// PID is the daemon's process.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Signal sends a signal and does not wait.
func (d *Daemon) Signal(signal syscall.Signal) error {
	if err := d.cmd.Process.Signal(signal); err != nil {
		return fmt.Errorf("signal the lock daemon: %w", err)
	}
	return nil
}

// End sends a signal and returns once the daemon has ended. One that has ended, or was never started, is no error.
func (d *Daemon) End(signal syscall.Signal) error {
	if d.cmd == nil {
		return nil
	}
	if err := d.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end the lock daemon: %w", err)
	}
	select {
	case <-d.done:
		return nil
	case <-time.After(endWait):
		return errors.Join(errors.New("the lock daemon does not end"), d.cmd.Process.Kill())
	}
}

// Incarnation tells the programs apart that a process executes one after another: it is where the kernel has put the stack, which it
// chooses anew, at random, for each (startstack in proc(5)).
func Incarnation(pid int) (string, error) {
	fields, err := stat(pid)
	if err != nil {
		return "", err
	}
	return fields[25], nil
}

// Reexecute sends SIGUSR1 to a lock daemon and returns once it executes another program, or false if it did not do so in time.
func Reexecute(pid int, patience time.Duration) (bool, error) {
	before, err := Incarnation(pid)
	if err != nil {
		return false, err
	}
	if err := unix.Kill(pid, unix.SIGUSR1); err != nil {
		return false, fmt.Errorf("tell the lock daemon to re-execute itself: %w", err)
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(200 * time.Microsecond) {
		now, err := Incarnation(pid)
		if err != nil || now != before {
			return err == nil, err
		}
	}
	return false, nil
}

// Descriptors counts the open descriptors of a process.
func Descriptors(pid int) (int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0, fmt.Errorf("count descriptors: %w", err)
	}
	return len(entries), nil
}

// StartTime reads when a process has started, as Owner.Start wants it.
func StartTime(pid int) (uint64, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read start time: %w", err)
	}
	return n, nil
}

// stat reads the fields of /proc/PID/stat from the third on.
func stat(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, fmt.Errorf("look at process: %w", err)
	}
	// The name in parentheses may hold anything; the fields after it are plain.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 26 {
		return nil, fmt.Errorf("look at process %d: short line", pid)
	}
	return fields, nil
}
