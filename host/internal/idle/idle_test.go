package idle_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lodgevirt/lodge/host/internal/idle"
)

// daemon pretends to be used.
type daemon struct {
	busy atomic.Bool
	mark atomic.Uint64
}

func (d *daemon) use() idle.Use { return idle.Use{Busy: d.busy.Load(), Mark: d.mark.Load()} }

// run runs a watch in a bubble whose time stands still while anybody works, and returns when it ended, or that it did not.
func run(t *testing.T, timeout time.Duration, do func(*daemon, *idle.Watch)) (ended time.Duration, did bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := &daemon{}
		w := idle.New(d.use)
		w.SetTimeout(timeout)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		go do(d, w)
		did = w.Run(ctx)
		ended = time.Since(began)
	})
	return ended, did
}

func TestIdleDaemonEndsAfterTheTimeout(t *testing.T) {
	if ended, did := run(t, 30*time.Second, func(*daemon, *idle.Watch) {}); !did || ended != 30*time.Second {
		t.Errorf("ended %v after %v", did, ended)
	}
}

func TestWithoutTimeoutNothingEnds(t *testing.T) {
	if _, did := run(t, 0, func(*daemon, *idle.Watch) {}); did {
		t.Error("a daemon without a timeout has ended")
	}
}

func TestBusyDaemonStays(t *testing.T) {
	ended, did := run(t, 30*time.Second, func(d *daemon, _ *idle.Watch) {
		d.busy.Store(true)
		time.Sleep(10 * time.Minute)
		d.busy.Store(false)
	})
	if !did || ended < 10*time.Minute+28*time.Second || ended > 10*time.Minute+31*time.Second {
		t.Errorf("ended %v after %v", did, ended)
	}
}

func TestShortUseBetweenTwoQuestionsCounts(t *testing.T) {
	ended, did := run(t, 30*time.Second, func(d *daemon, _ *idle.Watch) {
		time.Sleep(20 * time.Second)
		d.mark.Add(1)
	})
	if !did || ended < 49*time.Second || ended > 52*time.Second {
		t.Errorf("ended %v after %v", did, ended)
	}
}

func TestTimeoutCanBeChanged(t *testing.T) {
	ended, did := run(t, 0, func(_ *daemon, w *idle.Watch) {
		time.Sleep(time.Minute)
		w.SetTimeout(10 * time.Second)
		time.Sleep(5 * time.Second)
		w.SetTimeout(20 * time.Second)
	})
	if !did || ended != 85*time.Second {
		t.Errorf("ended %v after %v", did, ended)
	}
	if _, did := run(t, 10*time.Second, func(_ *daemon, w *idle.Watch) { w.SetTimeout(0) }); did {
		t.Error("a daemon whose timeout was taken away has ended")
	}
}
