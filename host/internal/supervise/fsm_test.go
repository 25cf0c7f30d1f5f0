package supervise

import (
	"testing"
	"time"

	"github.com/lodgevirt/lodge/sdk/contract"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	// Linked in for the table of all calls.
	_ "github.com/lodgevirt/lodge/sdk/proto/lodge/admin/v1"
	_ "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

func TestLivesOfAPlugin(t *testing.T) {
	for _, c := range []struct {
		name   string
		events []event
		want   []State
	}{
		{
			"it starts and takes calls",
			[]event{evVerified, evWanted, evAttached, evConfigured, evRecovered},
			[]State{Verified, Starting, Configuring, Recovering, Ready},
		},
		{
			"it is found again after a restart of the core",
			[]event{evAttached, evConfigured, evRecovered},
			[]State{Configuring, Recovering, Ready},
		},
		{
			"its binary comes and goes",
			[]event{evMissing, evVerified, evMissing},
			[]State{Absent, Verified, Absent},
		},
		{
			"it crashes while starting, and starts again",
			[]event{evVerified, evWanted, evCrashed, evRetry, evVerified, evWanted},
			[]State{Verified, Starting, Backoff, Absent, Verified, Starting},
		},
		{
			"it crashes while recovering for the last time, until it is reset",
			[]event{evAttached, evConfigured, evExhausted, evReset, evVerified},
			[]State{Configuring, Recovering, Failed, Absent, Verified},
		},
		{
			"it ends when it is asked to",
			[]event{evAttached, evConfigured, evRecovered, evDrain, evEnded},
			[]State{Configuring, Recovering, Ready, Draining, Absent},
		},
		{
			"it is ended before it was ready",
			[]event{evAttached, evDrain, evEnded},
			[]State{Configuring, Draining, Absent},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := Absent
			for i, e := range c.events {
				to, ok := next(s, e)
				if !ok || to != c.want[i] {
					t.Fatalf("event %d in %v led to %v, %v; expected %v", i, s, to, ok, c.want[i])
				}
				s = to
			}
		})
	}
}

func TestWhatCannotHappenDoesNot(t *testing.T) {
	for _, c := range []struct {
		state State
		event event
	}{
		{Absent, evWanted},
		{Verified, evRecovered},
		{Starting, evRecovered},
		{Ready, evAttached},
		{Failed, evWanted},
		{Failed, evRetry},
		{Backoff, evWanted},
		{Draining, evRecovered},
	} {
		if to, ok := next(c.state, c.event); ok {
			t.Errorf("event %d in %v led to %v", c.event, c.state, to)
		}
	}
}

func TestEveryStateCanBeLeftAndHasAName(t *testing.T) {
	for s := Absent; s <= Failed; s++ {
		if len(transitions[s]) == 0 {
			t.Errorf("state %v has no way out", s)
		}
		if s.String() == "" {
			t.Errorf("state %d has no name", int(s))
		}
	}
}

func TestPausesBetweenRestarts(t *testing.T) {
	rules := Restart{Min: 100 * time.Millisecond, Max: time.Second, Healthy: time.Second, Crashes: 100, Window: time.Minute}
	b := newBudget(rules)
	now := time.Unix(1000, 0)
	for i, c := range []struct {
		ready time.Duration
		want  time.Duration
	}{
		{2 * time.Second, 0}, // after a healthy run at once
		{0, 100 * time.Millisecond},
		{time.Millisecond, 200 * time.Millisecond},
		{0, 400 * time.Millisecond},
		{0, 800 * time.Millisecond},
		{0, time.Second},
		{0, time.Second},
		{time.Minute, 0},
		{0, 100 * time.Millisecond},
	} {
		pause, again := b.crashed(now, c.ready)
		if !again || pause != c.want {
			t.Errorf("crash %d: pause %v, %v; expected %v", i, pause, again, c.want)
		}
	}
}

func TestBudgetOfCrashes(t *testing.T) {
	b := newBudget(Restart{})
	now := time.Unix(1000, 0)
	for i := range DefaultRestart.Crashes - 1 {
		if _, again := b.crashed(now.Add(time.Duration(i)*time.Second), time.Hour); !again {
			t.Fatalf("crash %d used the budget up", i+1)
		}
	}
	if _, again := b.crashed(now.Add(10*time.Second), time.Hour); again {
		t.Error("five crashes in a minute did not use the budget up")
	}
	b.reset()
	if _, again := b.crashed(now.Add(11*time.Second), 0); !again {
		t.Error("the reset did not restore the budget")
	}
	for i := range 20 {
		if _, again := b.crashed(now.Add(time.Duration(i)*20*time.Second), time.Hour); !again {
			t.Error("three crashes a minute used the budget up")
		}
	}
}

func TestJitterStaysWithinAFifth(t *testing.T) {
	for range 1000 {
		if p := spread(time.Second); p < 800*time.Millisecond || p > 1200*time.Millisecond {
			t.Fatalf("pause of a second became %v", p)
		}
	}
}

func TestEveryCallOfTheContractHasAClassAndADeadline(t *testing.T) {
	methods := contract.Methods()
	if len(methods) < 30 {
		t.Fatalf("only %d methods are known", len(methods))
	}
	for name, call := range methods {
		if call.Class == basev1.CallClass_CALL_CLASS_UNSPECIFIED {
			t.Errorf("%s has no class", name)
		}
		if call.Deadline == 0 && !call.Stream {
			t.Errorf("%s has no deadline", name)
		}
		if _, ok := again[call.Class]; !ok {
			t.Errorf("%s has class %v, for which nobody says how often it is repeated", name, call.Class)
		}
	}
}

func TestMeterLeavesOutWhatIsTooMuch(t *testing.T) {
	var m meter
	now := time.Unix(1000, 0)
	passed := 0
	for range 2 * logBurst {
		if ok, _ := m.take(now); ok {
			passed++
		}
	}
	if passed != logBurst {
		t.Errorf("%d lines passed at once, expected %d", passed, logBurst)
	}
	if ok, omitted := m.take(now.Add(time.Second)); !ok || omitted != logBurst {
		t.Errorf("a second later: %v, %d left out", ok, omitted)
	}
}
