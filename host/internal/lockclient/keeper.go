package lockclient

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

const (
	// probeTimeout bounds the question whether a daemon is there.
	probeTimeout = 2 * time.Second
	// startTimeout bounds how long a new daemon may take to answer.
	startTimeout = 10 * time.Second
	// firstBackoff and lastBackoff bound the waits between daemons that never answer, crashBackoff after one that did.
	firstBackoff = 20 * time.Millisecond
	crashBackoff = 80 * time.Millisecond
	lastBackoff  = 2 * time.Second
	// healthy is how long a daemon has to live for the backoff to start anew.
	healthy = 2 * time.Second
)

// KeeperConfig says how a Keeper works.
type KeeperConfig struct {
	// Client is used to ask, and its socket is where the daemon serves.
	Client *Client
	// Command is the daemon's binary and arguments, such as lodge-lockd --socket ... --journal ...; empty never starts one.
	Command []string
	// LogFile gets what the daemon prints, appended; empty throws it away.
	LogFile string
	// Log is where to log.
	Log hclog.Logger
	// OnReady is called whenever a daemon answers that did not answer before, so that its leases can be compared and adopted. The
	// context ends when that daemon does. An error is logged.
	OnReady func(ctx context.Context, status Status) error
}

// Keeper keeps a lock daemon running beside the core. A daemon that serves the socket already, such as a service of the system's, is
// only watched. The daemon is nobody's child in spirit: it has its own session, no pipe to the core, and lives on when the
// core ends in any way. Two daemons at a time are prevented by the daemon itself, which locks its pid file.
type Keeper struct {
	cfg KeeperConfig
}

// NewKeeper returns a keeper, which does nothing before Run.
func NewKeeper(cfg KeeperConfig) *Keeper { return &Keeper{cfg: cfg} }

// Run keeps the daemon running until the context ends, and leaves it running then. It returns the context's error.
func (k *Keeper) Run(ctx context.Context) error {
	backoff := firstBackoff
	for ctx.Err() == nil {
		begun := time.Now()
		answered, err := k.once(ctx)
		if ctx.Err() != nil {
			break
		}
		k.cfg.Log.Warn("lock daemon is away", "error", err)
		if time.Since(begun) > healthy {
			backoff = firstBackoff
		}
		limit := lastBackoff
		if answered {
			limit = crashBackoff
		}
		backoff = min(backoff, limit)
		pause(ctx, backoff)
		backoff = min(2*backoff, limit)
	}
	return ctx.Err()
}

// once finds or starts a daemon and stays until it ends. It tells whether the daemon ever answered.
func (k *Keeper) once(ctx context.Context) (answered bool, err error) {
	status, err := k.probe(ctx)
	if err != nil && len(k.cfg.Command) > 0 {
		status, err = k.start(ctx)
	}
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	gone := make(chan error, 1)
	go func() {
		gone <- k.watch(ctx, status)
		cancel()
	}()
	k.cfg.Log.Debug("lock daemon answers", "pid", status.PID, "held", status.Held, "unproven", status.Unproven, "lost", status.Lost)
	if k.cfg.OnReady != nil {
		if err := k.cfg.OnReady(ctx, status); err != nil && ctx.Err() == nil {
			k.cfg.Log.Error("cannot settle locks with the lock daemon", "error", err)
		}
	}
	return true, <-gone
}

// probe asks a daemon that may be there, and does not wait for one to come.
func (k *Keeper) probe(ctx context.Context) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	status, err := k.cfg.Client.ask(ctx)
	if err != nil && ctx.Err() == nil {
		// The connection may have been left over from a daemon that has died; the next one is new.
		status, err = k.cfg.Client.ask(ctx)
	}
	return status, err
}

// start runs the command and waits until the daemon answers, or the command ends.
func (k *Keeper) start(ctx context.Context) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	out, err := os.OpenFile(k.output(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return Status{}, fmt.Errorf("start lock daemon: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(k.cfg.Command[0], k.cfg.Command[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return Status{}, fmt.Errorf("start lock daemon: %w", err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- fmt.Errorf("lock daemon ended at once: %w", errors.Join(cmd.Wait(), errEnded))
		cancel()
	}()
	k.cfg.Log.Info("lock daemon started", "pid", cmd.Process.Pid)
	status, err := k.cfg.Client.Status(ctx)
	select {
	case cause := <-ended:
		if err != nil {
			return Status{}, cause
		}
	default:
	}
	return status, err
}

// errEnded says that a process ended, whatever its exit status was.
var errEnded = errors.New("process ended")

func (k *Keeper) output() string {
	if k.cfg.LogFile == "" {
		return os.DevNull
	}
	return k.cfg.LogFile
}

// watch waits until the daemon's process has ended.
func (k *Keeper) watch(ctx context.Context, status Status) error {
	id, err := process.Find(int32(status.PID))
	if err != nil {
		return fmt.Errorf("watch lock daemon: %w", err)
	}
	p, err := process.Open(id)
	if err != nil {
		return fmt.Errorf("watch lock daemon: %w", err)
	}
	defer p.Close()
	if err := p.Wait(ctx); err != nil {
		return err
	}
	return fmt.Errorf("lock daemon with pid %d: %w", status.PID, process.ErrGone)
}
