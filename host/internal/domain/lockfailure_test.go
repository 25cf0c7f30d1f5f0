package domain

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lodgevirt/lodge/host/internal/event"
	lockv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestSuspendedGuestGivesItsLocksUp(t *testing.T) {
	b := newBench(t)
	d := b.define("guest")
	if err := d.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := d.Suspend(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b.locks.count() != 0 {
		t.Fatalf("%d locks of a suspended guest", b.locks.count())
	}
	b.restart() // what the lock manager wants to see again is on disk
	d, err := b.ByName("guest")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b.locks.count() != 1 || string(b.locks.state) != "state of guest" {
		t.Errorf("%d locks, taken with %q", b.locks.count(), b.locks.state)
	}
	if diff := cmp.Diff([]int{1}, b.driver.resumed); diff != "" {
		t.Errorf("locks handed to the driver: %s", diff)
	}
	if s := d.state.Load(); s.lockState != nil {
		t.Errorf("state %q is kept for a guest that runs", s.lockState)
	}
}

func TestResumeNeedsTheLocks(t *testing.T) {
	b := newBench(t)
	d := b.define("guest")
	if err := d.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := d.Suspend(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.locks.held["/images/guest"] = Owner{Name: "stranger"}
	if err := d.Resume(t.Context()); !verr.Is(err, verr.ResourceBusy) || !strings.Contains(err.Error(), "stranger") {
		t.Fatalf("resume without its lock: %v", err)
	}
	if v := d.View(); v.State != Paused {
		t.Errorf("guest is %+v", v)
	}
	delete(b.locks.held, "/images/guest")
	b.driver.stubborn = verr.New(verr.OperationFailed, "no")
	if err := d.Resume(t.Context()); err == nil || verr.From(err).Code != verr.OperationFailed {
		t.Fatalf("resume that the driver refuses: %v", err)
	}
	if b.locks.count() != 0 {
		t.Errorf("%d locks of a guest that was not resumed", b.locks.count())
	}
}

func TestLostLock(t *testing.T) {
	for _, c := range []struct {
		action string
		done   lockv1.Action
		// want is what the guest is then, and the events.
		want   string
		events []string
	}{
		{"", lockv1.Action_ACTION_PAUSE, "3/5@1 locks 0", []string{"lost vda", "3/2@1"}},
		{"pause", lockv1.Action_ACTION_PAUSE, "3/5@1 locks 0", []string{"lost vda", "3/2@1"}},
		{"poweroff", lockv1.Action_ACTION_POWEROFF, "5/6@-1 locks 0", []string{"lost vda", "5/5@-1"}},
		{"restart", lockv1.Action_ACTION_RESTART, "1/1@2 locks 1", []string{"lost vda", "5/5@-1", "4/0@2", "2/0@2"}},
		{"ignore", lockv1.Action_ACTION_IGNORE, "1/1@1 locks 1", []string{"lost vda"}},
	} {
		t.Run("on_lockfailure "+c.action, func(t *testing.T) {
			b := newBench(t)
			d, err := b.Define(t.Context(), guestThat("guest", c.action), 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Start(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			sub := b.bus.Subscribe()
			defer sub.Close()
			generation := d.View().Generation
			d.LocksLost(t.Context(), generation+1, []LostLock{{Path: "/images/guest"}}) // of another life: nothing
			d.LocksLost(t.Context(), generation, []LostLock{{Path: "/images/guest", Detail: "gone"}})
			v := d.View()
			if got := fmt.Sprintf("%d/%d@%d locks %d", v.State, v.Reason, v.ID, b.locks.count()); got != c.want {
				t.Errorf("guest is %s, want %s", got, c.want)
			}
			if diff := cmp.Diff(c.events, told(t, sub, len(c.events), c.done)); diff != "" {
				t.Error(diff)
			}
			xml, err := d.XML(0)
			if want := "<on_lockfailure>" + c.action + "</on_lockfailure>"; err != nil || c.action != "" && !strings.Contains(xml, want) {
				t.Errorf("definition is %s, error %v", xml, err)
			}
		})
	}
}

// told reads n events.
func told(t *testing.T, s *event.Subscription, n int, action lockv1.Action) []string {
	t.Helper()
	var got []string
	for len(got) < n {
		select {
		case e := <-s.C():
			if l := e.Domain.GetLeaseLost(); l != nil {
				if l.Action != action || l.Detail != "gone" || l.Path != "/images/guest" {
					t.Errorf("lost lock is told as %v", l)
				}
				got = append(got, "lost "+l.Target)
				continue
			}
			l := e.Domain.GetLifecycle()
			got = append(got, fmt.Sprintf("%d/%d@%d", l.GetEvent(), l.GetDetail(), e.ID))
		case <-time.After(10 * time.Second):
			t.Fatalf("only %v of %d events", got, n)
		}
	}
	return got
}
