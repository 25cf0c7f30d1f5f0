package driver

import (
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// libvirt's numbers of lifecycle events, their details, and reasons of states, as in its public header libvirt-domain.h.
const (
	eventStarted, startedBooted     = 2, 0
	eventSuspended, suspendedPaused = 3, 0
	eventResumed, resumedUnpaused   = 4, 0
	resumedFromSnapshot             = 2
	eventStopped                    = 5

	runningBooted        = 1
	runningUnpaused      = 5
	runningSaveCancelled = 7
	pausedByUser         = 1
	pausedBySave         = 3
	pausedStartingUp     = 11
)

// ending is a way in which a life can end: the reason of the state and the detail of the event.
type ending struct{ reason, detail int32 }

var (
	poweredOff = ending{reason: 1, detail: 0}
	destroyed  = ending{reason: 2, detail: 1}
	crashed    = ending{reason: 3, detail: 2}
	vanished   = ending{reason: 0, detail: 5}
)

func (e ending) change() *pb.Change {
	return &pb.Change{
		State: pb.State_STATE_SHUTOFF, Reason: e.reason, Events: []*pb.Event{lifecycle(eventStopped, e.detail)},
	}
}

func lifecycle(event, detail int32) *pb.Event {
	return &pb.Event{Event: &pb.Event_Lifecycle{Lifecycle: &pb.LifecycleEvent{Event: event, Detail: detail}}}
}

// birth is the change by which a guest came to life.
func birth(state pb.State, reason int32) *pb.Change {
	events := []*pb.Event{lifecycle(eventStarted, startedBooted)}
	if state == pb.State_STATE_PAUSED {
		events = append(events, lifecycle(eventSuspended, suspendedPaused))
	}
	return &pb.Change{State: state, Reason: reason, Events: events}
}
