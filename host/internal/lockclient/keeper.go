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
	// settlePause is the least time between two calls of OnReady.
	settlePause = time.Second
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
	// OnReady is called whenever a daemon answers that did not answer before, so that its leases can be compared and adopted, and
	// again after Settle, or a while after it failed. The context ends when that daemon does. An error is logged.
	OnReady func(ctx context.Context, status Status) error
	// CheckEvery is the pause between two questions whether the daemon is well, and CheckTimeout how long it may take to answer; 0
	// is 2 s and 5 s.
	CheckEvery, CheckTimeout time.Duration
}

// Keeper keeps a lock daemon running beside the core. A daemon that serves the socket already, such as a service of the system's, is
// only watched. The daemon is nobody's child in spirit: it has its own session, no pipe to the core, and lives on when the
// core ends in any way. Two daemons at a time are prevented by the daemon itself, which locks its pid file.
//
// A daemon that hangs is killed if it runs this keeper's command, whichever core started it: the next one takes the locks back,
// and no guest notices. One that runs anything else is reported only. Settle is safe concurrently; Run is called once.
type Keeper struct {
	cfg KeeperConfig
	// asker has a connection of its own, so that slow calls on the client's do not make a daemon look as if it hung.
	asker *Client
	again chan struct{} // asks for another OnReady
}

// NewKeeper returns a keeper, which does nothing before Run.
func NewKeeper(cfg KeeperConfig) *Keeper {
	if cfg.CheckEvery <= 0 {
		cfg.CheckEvery = checkEvery
	}
	if cfg.CheckTimeout <= 0 {
		cfg.CheckTimeout = checkTimeout
	}
	return &Keeper{cfg: cfg, asker: New(cfg.Client.path), again: make(chan struct{}, 1)}
}

// Settle asks for another call of OnReady soon, such as after a release that failed. It does not wait.
func (k *Keeper) Settle() {
	select {
	case k.again <- struct{}{}:
	default: // asked for already
	}
}

// Run keeps the daemon running until the context ends, and leaves it running then. It returns the context's error.
func (k *Keeper) Run(ctx context.Context) error {
	defer k.asker.Close()
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
	k.settle(ctx, status)
	return true, <-gone
}

// settle calls OnReady until it succeeds, and whenever Settle is called, until the daemon is gone.
func (k *Keeper) settle(ctx context.Context, status Status) {
	if k.cfg.OnReady == nil {
		return
	}
	for {
		if err := k.cfg.OnReady(ctx, status); err == nil {
			select {
			case <-k.again:
			case <-ctx.Done():
			}
		} else if ctx.Err() == nil {
			k.cfg.Log.Error("cannot settle locks with the lock daemon", "error", err)
		}
		if pause(ctx, settlePause); ctx.Err() != nil {
			return
		}
	}
}

// probe asks a daemon that may be there, and does not wait for one to come. One that hangs is ended.
func (k *Keeper) probe(ctx context.Context) (Status, error) {
	probe, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	status, err := k.asker.ask(probe)
	if err != nil && probe.Err() == nil {
		// The connection may have been left over from a daemon that has died; the next one is new.
		status, err = k.asker.ask(probe)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = errors.Join(err, k.endHung(ctx))
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
	// It outlives the core, so no context may end it.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), k.cfg.Command[0], k.cfg.Command[1:]...)
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
	status, err := k.asker.Status(ctx)
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
