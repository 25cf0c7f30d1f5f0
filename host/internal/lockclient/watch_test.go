package lockclient

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// watching collects what a client is told.
type watching struct {
	t       *testing.T
	changes chan Change
	err     chan error
	stop    func()
}

func watch(t *testing.T, c *Client) *watching {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &watching{t: t, changes: make(chan Change, 5000), err: make(chan error, 1)}
	var done sync.WaitGroup
	done.Go(func() { w.err <- c.Watch(ctx, func(change Change) { w.changes <- change }) })
	w.stop = func() { cancel(); done.Wait() }
	t.Cleanup(w.stop)
	return w
}

// expect waits for a change. Further changes that say nothing may come before.
func (w *watching) expect(want Change) {
	w.t.Helper()
	select {
	case got := <-w.changes:
		if got != want {
			w.t.Fatalf("told of %+v, want %+v", got, want)
		}
	case err := <-w.err:
		w.t.Fatal(err)
	case <-time.After(patience):
		w.t.Fatalf("not told of %+v", want)
	}
}

func TestWatchTellsOfForcedReleases(t *testing.T) {
	dir := t.TempDir()
	serve(t, dir)
	c, operator := client(t, dir), client(t, dir)
	w := watch(t, c)
	w.expect(Change{Resync: true})
	got, err := c.Acquire(t.Context(), guest(1, 1), disks(dir, 2))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range got {
		defer l.File.Close()
	}
	was, err := operator.ForceRelease(t.Context(), got[0].Number)
	if err != nil || was.Number != got[0].Number || was.Owner != got[0].Owner || was.Path != got[0].Path || was.POSIX || was.Unknown {
		t.Fatalf("released by force: %+v, %v", was, err)
	}
	// What the owner does itself is not told.
	if _, err := c.Release(t.Context(), guest(1, 1).UUID, 1); err != nil {
		t.Fatal(err)
	}
	w.expect(Change{Number: got[0].Number, State: Held, Ended: true})
	if _, err := operator.ForceRelease(t.Context(), got[0].Number); !verr.Is(err, verr.OperationInvalid) {
		t.Errorf("released again: %v", err)
	}
	again, err := c.Acquire(t.Context(), guest(2, 1), disks(dir, 1))
	if err != nil {
		t.Fatalf("the lock is not free: %v", err)
	}
	again[0].File.Close()
	select {
	case change := <-w.changes:
		t.Errorf("told of %+v", change)
	case <-time.After(20 * time.Millisecond):
	}
}

func TestWatchTellsOfALockThatIsLostAndHadAgain(t *testing.T) {
	dir := t.TempDir()
	serve(t, dir)
	c := client(t, dir)
	got, err := c.Acquire(t.Context(), guest(1, 1), disks(dir, 1))
	if err != nil {
		t.Fatal(err)
	}
	got[0].File.Close()
	w := watch(t, c)
	w.expect(Change{Resync: true})
	// Somebody puts another file, which is locked, in the place of the lock file.
	rival, err := lockspace.Take(lockspace.Resource{Lockspace: dir, Name: "rival", Temporary: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "rival"), got[0].Path); err != nil {
		t.Fatal(err)
	}
	w.expect(Change{Number: got[0].Number, State: Lost})
	rival.Close()
	w.expect(Change{Number: got[0].Number, State: Held})
}

func TestWatchGoesOnWithTheNextDaemon(t *testing.T) {
	dir := t.TempDir()
	stop := serve(t, dir)
	c := client(t, dir)
	w := watch(t, c)
	w.expect(Change{Resync: true})
	stop()
	serve(t, dir)
	w.expect(Change{Resync: true})
	got, err := c.Acquire(t.Context(), guest(1, 1), disks(dir, 1))
	if err != nil {
		t.Fatal(err)
	}
	got[0].File.Close()
	if _, err := c.ForceRelease(t.Context(), got[0].Number); err != nil {
		t.Fatal(err)
	}
	w.expect(Change{Number: got[0].Number, State: Held, Ended: true})
}

func TestSlowWatcherIsToldToListAnew(t *testing.T) {
	const changes = 20_000
	dir := t.TempDir()
	serve(t, dir)
	c := client(t, dir)
	begun, leave := make(chan struct{}), make(chan struct{})
	var got []Change
	var done sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	told := make(chan Change, changes)
	done.Go(func() {
		first := true
		_ = c.Watch(ctx, func(change Change) {
			if first {
				first = false
				close(begun)
				<-leave
			}
			told <- change
		})
	})
	defer func() { cancel(); done.Wait() }()
	<-begun
	disk := disks(dir, 1)
	for range changes / 10 {
		lease, err := c.Acquire(t.Context(), guest(1, 1), disk)
		if err != nil {
			t.Fatal(err)
		}
		lease[0].File.Close()
		if _, err := c.ForceRelease(t.Context(), lease[0].Number); err != nil {
			t.Fatal(err)
		}
	}
	close(leave)
	last, err := c.Acquire(t.Context(), guest(1, 2), disk)
	if err != nil {
		t.Fatal(err)
	}
	last[0].File.Close()
	// The last change is told, or those of it were missed.
	if _, err := c.ForceRelease(t.Context(), last[0].Number); err != nil {
		t.Fatal(err)
	}
	resyncs := 0
	for give := time.After(patience); ; {
		select {
		case change := <-told:
			got = append(got, change)
			if change.Resync {
				resyncs++
			}
			if change.Number == last[0].Number {
				if len(got) < changes/10 && resyncs < 2 {
					t.Errorf("told of %d of %d changes and to list anew %d times", len(got), changes/10+1, resyncs)
				}
				return
			}
		case <-give:
			t.Fatalf("told of %d changes, %d times to list anew, and never of the last", len(got), resyncs)
		}
	}
}

func TestWatchEndsWithItsClientAndItsContext(t *testing.T) {
	dir := t.TempDir()
	serve(t, dir)
	c := client(t, dir)
	w := watch(t, c)
	w.expect(Change{Resync: true})
	c.Close()
	if err := <-w.err; !errors.Is(err, ErrClosed) {
		t.Errorf("watch of a closed client: %v", err)
	}
	// Nobody answers here, which is waited for until the context ends.
	lonely := New(filepath.Join(dir, "nobody"))
	defer lonely.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := lonely.Watch(ctx, func(Change) {}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("watch of nobody: %v", err)
	}
}

func TestWatchOfADaemonThatDoesNotKnowHowFails(t *testing.T) {
	dir := t.TempDir()
	refuse(t, dir)
	err := client(t, dir).Watch(t.Context(), func(Change) {})
	if !verr.Is(err, verr.RPC) {
		t.Errorf("watch: %v", err)
	}
}
