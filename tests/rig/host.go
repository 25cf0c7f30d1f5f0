package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Host is a private host: the core that was started last, with everything of it under Dir.
type Host struct {
	// Dir is the host's folder. It must be short: socket paths are at most 107 bytes.
	Dir string
	// Bin is the folder of the built binaries.
	Bin string
	// Args are further arguments of the core.
	Args []string
	// Env is added to the core's environment.
	Env []string

	mu   sync.Mutex
	core *exec.Cmd
	done chan struct{}
}

// Socket is the path of the read-write libvirt socket.
func (h *Host) Socket() string { return filepath.Join(h.Dir, "run", "libvirt-sock") }

// ReadOnlySocket is the path of the read-only libvirt socket.
func (h *Host) ReadOnlySocket() string { return filepath.Join(h.Dir, "run", "libvirt-sock-ro") }

// AdminSocket is the path of the host's own gRPC API.
func (h *Host) AdminSocket() string { return filepath.Join(h.Dir, "run", "lodge.sock") }

// Start starts the core and returns once its socket takes connections.
func (h *Host) Start(ctx context.Context) error {
	if err := h.Launch(); err != nil {
		return err
	}
	return h.Await(ctx)
}

// Launch starts the core and does not wait. Its output goes to core.log in the host's folder.
func (h *Host) Launch() error {
	if err := os.MkdirAll(h.Dir, 0o700); err != nil {
		return fmt.Errorf("make folder of the host: %w", err)
	}
	log, err := os.OpenFile(h.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open log of the host: %w", err)
	}
	defer log.Close()
	// The core is ended by Stop or Kill, not by a context: it must outlive the call that started it.
	cmd := exec.CommandContext(context.Background(), filepath.Join(h.Bin, "lodged"), append([]string{"--dir", h.Dir}, h.Args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), h.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the core: %w", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // How it ended is in its log; what it left is what tests look at.
	}()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.core, h.done = cmd, done
	return nil
}

// LogFile is where the core's output goes.
func (h *Host) LogFile() string { return filepath.Join(h.Dir, "core.log") }

// Await returns once the libvirt socket takes connections. It fails if the core ends before that.
func (h *Host) Await(ctx context.Context) error {
	h.mu.Lock()
	done := h.done
	h.mu.Unlock()
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "unix", h.Socket())
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the core: %w", errors.Join(err, ctx.Err()))
		case <-done:
			return fmt.Errorf("wait for the core: it has ended: %s", Tail(h.LogFile()))
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// PID is the process of the core that was started last.
func (h *Host) PID() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.core == nil {
		return 0
	}
	return h.core.Process.Pid
}

// Find returns the host's living processes of a kind.
func (h *Host) Find(kind Kind) ([]Process, error) {
	all, err := Processes(h.Dir)
	if err != nil {
		return nil, err
	}
	var found []Process
	for _, p := range all {
		if p.Kind == kind {
			found = append(found, p)
		}
	}
	return found, nil
}

// Kill sends SIGKILL to every process of the kinds at once, and returns which ones it were. It does not start the core again.
func (h *Host) Kill(kinds ...Kind) ([]Process, error) {
	all, err := Processes(h.Dir)
	if err != nil {
		return nil, err
	}
	var killed []Process
	for _, kind := range kinds {
		for _, p := range all {
			if p.Kind != kind {
				continue
			}
			if err := p.Signal(unix.SIGKILL); err != nil {
				return killed, err
			}
			killed = append(killed, p)
		}
	}
	return killed, nil
}

// WaitCore returns once the core that was started last has ended.
func (h *Host) WaitCore(ctx context.Context) error {
	h.mu.Lock()
	done := h.done
	h.mu.Unlock()
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the core's end: %w", ctx.Err())
	}
}

// Stop asks the core to end and waits for it. Guests and the lock daemon go on.
func (h *Host) Stop(ctx context.Context) error {
	h.mu.Lock()
	cmd := h.core
	h.mu.Unlock()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the core: %w", err)
	}
	return h.WaitCore(ctx)
}

// closeOrder is the order in which End ends what is left: the core first, since it restarts the others.
var closeOrder = []Kind{Core, Plugin, Lockd, Guest}

// Close ends every process of the host, guests included, and removes its folder.
func (h *Host) Close() error {
	return errors.Join(h.End(), os.RemoveAll(h.Dir))
}

// End ends every process of the host, guests included, and keeps its folder.
func (h *Host) End() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var errs []error
	for _, kind := range closeOrder {
		if _, err := h.Kill(kind); err != nil {
			errs = append(errs, err)
		}
		if kind == Core {
			errs = append(errs, h.WaitCore(ctx))
		}
	}
	return errors.Join(append(errs, h.AwaitGone(ctx, closeOrder...))...)
}

// AwaitGone returns once no process of the kinds is left.
func (h *Host) AwaitGone(ctx context.Context, kinds ...Kind) error {
	for {
		all, err := Processes(h.Dir)
		if err != nil {
			return err
		}
		var left []Process
		for _, p := range all {
			for _, kind := range kinds {
				if p.Kind == kind {
					left = append(left, p)
				}
			}
		}
		if len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for processes to end: %s (%d) is left: %w", left[0].Name, left[0].PID, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Tail returns the end of a log for an error message, or why it cannot be read.
func Tail(path string) string {
	const most = 2000
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(text) > most {
		text = text[len(text)-most:]
	}
	return string(text)
}
