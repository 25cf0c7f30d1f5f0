package supervise

import "fmt"

// State is where a plugin stands.
type State int

// The states. A call is sent in Ready only.
const (
	// Absent: the binary has not been looked at, or is not there.
	Absent State = iota
	// Verified: it could be started.
	Verified
	// Starting: its process comes to life.
	Starting
	// Configuring: it is described and configured.
	Configuring
	// Recovering: its owner finds out what became of what it had.
	Recovering
	// Ready: it takes calls.
	Ready
	// Draining: it finishes its calls and ends.
	Draining
	// Backoff: it crashed and is started again after a pause.
	Backoff
	// Failed: it crashed too often and stays down until Reset.
	Failed
)

var stateNames = [...]string{
	Absent: "absent", Verified: "verified", Starting: "starting", Configuring: "configuring", Recovering: "recovering",
	Ready: "ready", Draining: "draining", Backoff: "backoff", Failed: "failed",
}

// String is the name that people see.
func (s State) String() string {
	if s < 0 || int(s) >= len(stateNames) {
		return fmt.Sprintf("state(%d)", int(s))
	}
	return stateNames[s]
}

// event is what moves a plugin from one state to another.
type event int

const (
	evVerified   event = iota // the binary is there
	evMissing                 // the binary cannot be used
	evWanted                  // somebody needs the plugin
	evAttached                // a process runs: just started, or found again
	evConfigured              // it took its settings
	evRecovered               // its owner is done recovering
	evDrain                   // it shall end
	evEnded                   // it ended because it was asked to
	evCrashed                 // it ended, hung, or could not be started or configured
	evExhausted               // that, for the last time
	evRetry                   // the pause is over
	evReset                   // a person wants it started again
)

// transitions is the whole machine: what is not in it does not happen.
var transitions = map[State]map[event]State{
	Absent:      {evVerified: Verified, evMissing: Absent, evAttached: Configuring, evReset: Absent},
	Verified:    {evWanted: Starting, evMissing: Absent, evReset: Verified},
	Starting:    {evAttached: Configuring, evCrashed: Backoff, evExhausted: Failed, evDrain: Draining},
	Configuring: {evConfigured: Recovering, evCrashed: Backoff, evExhausted: Failed, evDrain: Draining},
	Recovering:  {evRecovered: Ready, evCrashed: Backoff, evExhausted: Failed, evDrain: Draining},
	Ready:       {evCrashed: Backoff, evExhausted: Failed, evDrain: Draining},
	Draining:    {evEnded: Absent, evCrashed: Absent},
	Backoff:     {evRetry: Absent, evReset: Absent},
	Failed:      {evReset: Absent},
}

// next is the state after an event, or false if the event cannot happen in that state.
func next(s State, e event) (State, bool) {
	to, ok := transitions[s][e]
	return to, ok
}
