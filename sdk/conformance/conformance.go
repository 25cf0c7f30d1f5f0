// Package conformance is a suite that every hypervisor driver passes: what the contract promises of a driver, checked through the
// SDK's real server, with package faketest in the place of the core. An author calls it from a test of the driver:
//
//	func TestConformance(t *testing.T) {
//		conformance.Run(t, conformance.Factory{
//			Plugin:     func() plugin.Plugin { return driver.Plugin("1.0.0") },
//			Connection: "default",
//			Definition: func(name, uuid string) string { return fmt.Sprintf(definition, name, uuid) },
//		})
//	}
//
// The suite starts real guests and stops all of them again, also when a check fails. A restart of the driver is a second plugin in the
// same folders after the first one was closed; what only a SIGKILL shows is left to tests of whole processes. Each check is a
// subtest with a plugin of its own, and says which sentence of the contract is broken. Nothing is timed: the deadlines of the
// contract are the only limits.
package conformance

import (
	"testing"

	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// Factory makes what the suite needs of a driver.
type Factory struct {
	// Plugin makes the plugin anew, as a new process would.
	Plugin func() plugin.Plugin
	// Connection is the one to use, for example "default".
	Connection string
	// Definition is a guest that starts quickly, needs nothing from the host, and has a serial port if the driver has consoles.
	Definition func(name, uuid string) string
	// Device is a disk that can be attached to the guest, and that the guest gives up at once. Without it nothing is checked of devices.
	Device func(t *testing.T) string
	// Kill ends a guest behind the driver's back, as a crash of its process does. Without it nothing is checked of guests
	// that end by themselves.
	Kill func(t *testing.T, guest *pb.Guest, handle *pb.Handle, settings plugin.Settings)
	// NoticesDeath says that the driver reports by itself when a guest was killed, and not only when it is asked.
	NoticesDeath bool
	// Crowd is how many guests are started at once, 100 if it is 0.
	Crowd int
	// Config is the plugin's own configuration as JSON, or nil.
	Config []byte
}

// check is one part of the suite.
type check struct {
	name string
	run  func(*bench)
}

var checks = []check{
	{"probe tells the type", probeTellsType},
	{"validate returns what it returned", validateIsIdempotent},
	{"validate refuses hostile text", validateRefusesHostileText},
	{"a started guest runs", startedGuestRuns},
	{"a guest starts paused", guestStartsPaused},
	{"a second start is refused", secondStartIsRefused},
	{"a refused start leaves nothing", refusedStartLeavesNothing},
	{"an interrupted start leaves nothing after a stop", interruptedStartLeavesNothing},
	{"stop ends a guest, and may be repeated", stopEnds},
	{"stop of another life touches nothing", stopOfAnotherLife},
	{"a guest starts again", guestStartsAgain},
	{"recover tells what became of a guest", recoverTells},
	{"recover tells the same after a restart", recoverTellsAfterRestart},
	{"a recovered guest obeys", recoveredGuestObeys},
	{"a guest that was killed is gone", killedGuestIsGone},
	{"locks are held as long as the guest lives", locksAreHeld},
	{"a lock that never comes fails the start", missingLockFailsStart},
	{"suspend and resume", suspendAndResume},
	{"nothing can be done to a guest that is off", nothingToDoWhenOff},
	{"a device comes and goes", deviceComesAndGoes},
	{"a device is there after a restart", deviceOutlivesTheDriver},
	{"the lock of a device is held while the guest has it", deviceLockIsHeld},
	{"a refused device leaves nothing", refusedDeviceLeavesNothing},
	{"services that are declared answer", declaredServicesAnswer},
	{"services that are not declared are refused", undeclaredServicesRefuse},
	{"a console connects once", consoleConnectsOnce},
	{"statistics are of the guests that were asked for", statisticsOfGuests},
	{"a saved guest is restored", savedGuestIsRestored},
	{"a save that is given up lets the guest go on", givenUpSaveLetsTheGuestGoOn},
	{"a save whose caller is lost is given up", saveOfALostCallerIsGivenUp},
	{"a save that fails lets the guest go on", saveThatFailsLetsTheGuestGoOn},
	{"a saved guest stands until it is told", standingGuestSurvivesARestart},
	{"a state that is not good is refused", badStateIsRefused},
	{"watch begins with a hello and goes on where it stopped", watchGoesOn},
	{"a crowd lives and dies at once", crowd},
}

// Run runs the whole suite.
func Run(t *testing.T, f Factory) {
	if f.Crowd == 0 {
		f.Crowd = 100
	}
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) { c.run(newBench(t, f)) })
	}
}
