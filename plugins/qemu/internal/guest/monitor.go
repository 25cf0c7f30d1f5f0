package guest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
)

// resync asks for the state after events were missed.
func (g *Guest) resync() {
	g.missDevices()
	g.background(func(ctx context.Context) {
		status, err := g.queryStatus(ctx)
		if err != nil {
			g.cfg.Log.Warn("state of guest not known", "error", err)
			return
		}
		_ = g.with(ctx, func() error {
			change, next := g.machine.observe(status)
			g.tell(change)
			g.do(next)
			return nil
		})
	})
}

// background runs a function for the owner with a deadline; Close and the guest's end wait for it.
func (g *Guest) background(f func(context.Context)) {
	g.wg.Add(1)
	go func() {
		defer g.wg.Done()
		ctx, cancel := context.WithTimeout(context.Background(), restartTime)
		defer cancel()
		stop := make(chan struct{})
		defer close(stop)
		go func() {
			select {
			case <-g.finished:
				cancel()
			case <-stop:
			}
		}()
		f(ctx)
	}()
}

// reconnect dials the monitor until it answers, or the guest or the driver is gone.
func (g *Guest) reconnect() {
	g.wg.Add(1)
	go func() {
		defer g.wg.Done()
		for {
			select {
			case <-g.finished:
				return
			case <-time.After(redialPause):
			}
			ctx, cancel := context.WithTimeout(context.Background(), redialPause)
			mon, err := g.cfg.Dial(ctx)
			cancel()
			if err != nil {
				g.cfg.Log.Debug("monitor of guest not reachable", "error", err)
				continue
			}
			select {
			case g.redial <- mon:
			case <-g.finished:
				_ = mon.Close()
			}
			return
		}
	}()
}

func (g *Guest) replace(mon *qmp.Client) {
	g.monMu.Lock()
	old := g.mon
	g.mon = mon
	g.monMu.Unlock()
	if old != nil {
		_ = old.Close()
	}
}

func (g *Guest) monitor() *qmp.Client {
	g.monMu.Lock()
	defer g.monMu.Unlock()
	return g.mon
}

// errNoMonitor is what QEMU is for a call while its monitor is not connected.
var errNoMonitor = errors.New("monitor is not connected")

// Query sends commands to QEMU in one go and waits for the answers, or for the end of the context. Errors are those of
// qmp.Client.Batch; Explain makes libvirt's of them.
func (g *Guest) Query(ctx context.Context, cmds ...*qmp.Command) error {
	mon := g.monitor()
	if mon == nil {
		return errNoMonitor
	}
	return mon.Batch(ctx, cmds...)
}

func (g *Guest) queryStatus(ctx context.Context) (string, error) {
	var reply runState
	if err := g.Query(ctx, &qmp.Command{Name: "query-status", Reply: &reply}); err != nil {
		return "", fmt.Errorf("ask for state: %w", err)
	}
	return reply.Status, nil
}

// runState is the answer to query-status.
type runState struct {
	Status string `json:"status"`
}
