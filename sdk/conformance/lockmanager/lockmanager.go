// Package lockmanager is a suite that every lock manager passes: what the contract promises of one, checked through the SDK's real
// server, with package faketest in the place of the core. An author calls it from a test of the manager:
//
//	func TestConformance(t *testing.T) {
//		lockmanager.Run(t, lockmanager.Factory{
//			Plugin: func() plugin.Plugin { return manager.Plugin("1.0.0") },
//			Hosts:  func(t *testing.T) [][]byte { return [][]byte{configOf("a"), configOf("b")} },
//			Disk:   func(t *testing.T, name string) string { return filepath.Join(shared, name) },
//		})
//	}
//
// The suite works with two hosts, each a plugin of its own with a core of its own, and with guests that are processes which sleep. A
// manager of which there can be only one on a machine is tried with two guests of one host instead. Each check is a subtest with
// hosts and resources of its own, and says which sentence of the contract is broken; at its end everything is released. Nothing is
// timed: the deadlines of the contract are the only limits.
//
// What it does not show is that a lock is in truth exclusive against somebody who asks another way, that a lease which is about to end
// is told of early enough, and that a guest is ended in time: that depends on what the manager stands on, and is left to its own tests.
package lockmanager

import (
	"os/exec"
	"testing"

	"github.com/lodgevirt/lodge/sdk/plugin"
	lockv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

// Factory makes what the suite needs of a lock manager.
type Factory struct {
	// Plugin makes the plugin anew, as a new process would.
	Plugin func() plugin.Plugin
	// Hosts returns the plugin's own configuration, as JSON, for each of two hosts that share storage; or for one, if there can be only
	// one on a machine. It is called for each check, which must not see the locks of another one.
	Hosts func(t *testing.T) [][]byte
	// Disk makes a disk that all hosts see, and returns its path. The name is the check's, at most 100 bytes without a slash; a path
	// in which it occurs as it is lets the suite try odd names.
	Disk func(t *testing.T, name string) string
	// Lease makes a lease that a definition may name; nil where the manager has none.
	Lease func(t *testing.T, lockspace, key string) *lockv1.Resource
	// Process starts the process of a guest, which has made the registrations that Prepare has asked for and keeps them. It is needed
	// for a manager that says needs_process; for others the suite starts processes by itself.
	Process func(t *testing.T, registrations []*lockv1.Registration) *Process
	// Lose takes a lock away behind the manager's back, in a way that the manager has to notice and cannot mend at once. Without it,
	// nothing is checked of locks that are lost by themselves.
	Lose func(t *testing.T, lease *lockv1.Lease)
	// Command makes the plugin's process. Without it, nothing is checked of a manager that is killed.
	Command func() *exec.Cmd
	// HostName is what the other host calls a host of Hosts, by its index, for a manager that does not know guests of other hosts by
	// name: then it is the host that a refusal has to name.
	HostName func(host int) string
	// Exclusive says that the manager has no shared locks.
	Exclusive bool
	// Crowd is how many guests lock a disk of their own at once, 50 if it is 0.
	Crowd int
	// Resources is how many disks one guest may have, at least 3; as many as the suite wants, if it is 0.
	Resources int
}

// Process is that of a guest.
type Process struct {
	// PID and StartTime as in lockv1.Owner.
	PID       int32
	StartTime uint64
	// End ends it; it is called once.
	End func()
}

// check is one part of the suite.
type check struct {
	name string
	run  func(*bench)
}

var checks = []check{
	{"prepare takes nothing", prepareTakesNothing},
	{"prepare refuses what cannot be locked", prepareRefuses},
	{"acquire grants in the order of the request", acquireGrants},
	{"acquire may be repeated, and with a process", acquireRepeats},
	{"a lock is busy for another guest of the host", busyOnTheHost},
	{"a lock is busy on another host", busyElsewhere},
	{"a lock is busy for another life of the guest", busyForAnotherLife},
	{"all locks are had or none", allOrNone},
	{"shared locks share", sharedShare},
	{"leases are locked like disks", leasesAreLocked},
	{"release ends locks, and may be repeated", releaseEnds},
	{"release of some leaves the others", releaseOfSome},
	{"release of another life touches nothing", releaseOfAnotherLife},
	{"a guest is suspended and resumed", suspendAndResume},
	{"a guest is not resumed after somebody else", notResumedAfterOthers},
	{"recover tells what is held", recoverTellsHeld},
	{"recover takes again what is free", recoverTakesAgain},
	{"recover tells what somebody else has", recoverTellsLost},
	{"a restart loses nothing", restartLosesNothing},
	{"what is released after a restart is free", releaseAfterRestart},
	{"list tells the locks of the host", listTells},
	{"watch begins with a hello", watchBegins},
	{"a lock that is lost is told", lossIsTold},
	{"fencing tokens ascend", tokensAscend},
	{"odd names are names", oddNames},
	{"one of many gets the lock", oneOfMany},
	{"a crowd locks and releases at once", crowd},
	{"a manager that is killed loses nothing", killedLosesNothing},
}

// Run runs the whole suite.
func Run(t *testing.T, f Factory) {
	if f.Crowd == 0 {
		f.Crowd = 50
	}
	if f.Resources == 0 {
		f.Resources = 1000
	}
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) { c.run(newBench(t, f)) })
	}
}
