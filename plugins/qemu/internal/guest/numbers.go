package guest

import (
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// Numbers of libvirt's public header <libvirt/libvirt-domain.h>: reasons by state, and details by lifecycle event.
const (
	runningBooted       = 1
	runningUnpaused     = 5
	runningSaveCanceled = 7
	runningWakeup       = 8

	pausedUnknown    = 0
	pausedUser       = 1
	pausedMigration  = 2
	pausedSave       = 3
	pausedIOError    = 5
	pausedWatchdog   = 6
	pausedCrashed    = 10
	pausedStartingUp = 11

	shutoffShutdown  = 1
	shutoffDestroyed = 2
	shutoffCrashed   = 3

	crashedPanicked = 1

	eventStarted     = 2
	eventSuspended   = 3
	eventResumed     = 4
	eventStopped     = 5
	eventShutdown    = 6
	eventPMSuspended = 7
	eventCrashed     = 8

	startedBooted = 0
	startedWakeup = 4

	resumedUnpaused     = 0
	resumedFromSnapshot = 2

	suspendedPaused   = 0
	suspendedIOError  = 2
	suspendedWatchdog = 3

	stoppedShutdown  = 0
	stoppedDestroyed = 1
	stoppedCrashed   = 2
	stoppedFailed    = 5

	shutdownFinished = 0
	shutdownGuest    = 1
	shutdownHost     = 2
)

func lifecycle(event, detail int32) *pb.Event {
	return &pb.Event{Event: &pb.Event_Lifecycle{Lifecycle: &pb.LifecycleEvent{Event: event, Detail: detail}}}
}

// condition is a state with its reason.
type condition struct {
	State  pb.State `json:"state"`
	Reason int32    `json:"reason"`
}

// statuses are QEMU's run states (query-status, qapi/run-state.json) as libvirt's. States that are not here, such as those of a
// migration under way, are shown as paused for an unknown reason.
var statuses = map[string]condition{
	"running":        {pb.State_STATE_RUNNING, runningBooted},
	"debug":          {pb.State_STATE_PAUSED, pausedUnknown},
	"paused":         {pb.State_STATE_PAUSED, pausedUser},
	"prelaunch":      {pb.State_STATE_PAUSED, pausedStartingUp},
	"inmigrate":      {pb.State_STATE_PAUSED, pausedMigration},
	"postmigrate":    {pb.State_STATE_PAUSED, pausedMigration},
	"finish-migrate": {pb.State_STATE_PAUSED, pausedMigration},
	"io-error":       {pb.State_STATE_PAUSED, pausedIOError},
	"watchdog":       {pb.State_STATE_PAUSED, pausedWatchdog},
	"internal-error": {pb.State_STATE_PAUSED, pausedCrashed},
	"guest-panicked": {pb.State_STATE_CRASHED, crashedPanicked},
	"shutdown":       {pb.State_STATE_SHUTDOWN, 0},
	"suspended":      {pb.State_STATE_PMSUSPENDED, 0},
}

func conditionOf(status string) condition {
	if c, ok := statuses[status]; ok {
		return c
	}
	return condition{pb.State_STATE_PAUSED, pausedUnknown}
}

// Actions of libvirt's watchdog event by QEMU's names.
var watchdogActions = map[string]int32{
	"none": 0, "pause": 1, "reset": 2, "poweroff": 3, "shutdown": 4, "debug": 5, "inject-nmi": 6,
}

// Actions of libvirt's I/O error event by QEMU's names.
var ioErrorActions = map[string]int32{"ignore": 0, "stop": 1, "report": 2}

// Families of libvirt's graphics addresses by QEMU's names.
var families = map[string]int32{"ipv4": 0, "ipv6": 1, "unix": 2}
