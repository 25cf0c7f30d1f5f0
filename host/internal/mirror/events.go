package mirror

import (
	hypervisorv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
)

// Lifecycle events with their details, in libvirt's numbering: virDomainEventType and its details.
const (
	eventDefined   = 0
	eventUndefined = 1
	eventStarted   = 2
	eventSuspended = 3
	eventResumed   = 4
	eventStopped   = 5
	eventCrashed   = 8

	definedAdded     = 0
	definedUpdated   = 1
	definedRenamed   = 2
	undefinedRemoved = 0
	undefinedRenamed = 1
)

// told makes a lifecycle event of a guest as it is; the details that are not named are 0, for nobody saw how it came.
func told(name string, id int32, uuid string, kind, detail int32) *pb.GuestEvent {
	return &pb.GuestEvent{Uuid: uuid, Name: name, Id: id, Event: &hypervisorv1.Event{Event: &hypervisorv1.Event_Lifecycle{
		Lifecycle: &hypervisorv1.LifecycleEvent{Event: kind, Detail: detail},
	}}}
}

// differences are the events by which a guest has become another while nobody looked; before is nil for a new one.
func differences(before *guest, now *pb.GuestObject) []*pb.GuestEvent {
	var events []*pb.GuestEvent
	tell := func(name string, kind, detail int32) {
		events = append(events, told(name, now.GetId(), now.GetUuid(), kind, detail))
	}
	was, is := false, now.GetId() >= 0
	var state hypervisorv1.State
	switch {
	case before == nil:
		tell(now.GetName(), eventDefined, definedAdded)
	case before.view.Name != now.GetName():
		tell(before.view.Name, eventUndefined, undefinedRenamed)
		tell(now.GetName(), eventDefined, definedRenamed)
	case now.GetXml() != "" && before.object.GetXml() != "" && now.GetXml() != before.object.GetXml():
		tell(now.GetName(), eventDefined, definedUpdated)
	}
	if before != nil {
		was, state = before.view.Active(), before.object.GetState()
	}
	paused := now.GetState() == hypervisorv1.State_STATE_PAUSED
	switch {
	case is && !was:
		tell(now.GetName(), eventStarted, 0)
	case !is && was && now.GetState() == hypervisorv1.State_STATE_CRASHED:
		tell(now.GetName(), eventCrashed, 0)
	case !is && was:
		tell(now.GetName(), eventStopped, 0)
	case is && paused && state != hypervisorv1.State_STATE_PAUSED:
		tell(now.GetName(), eventSuspended, 0)
	case is && !paused && state == hypervisorv1.State_STATE_PAUSED:
		tell(now.GetName(), eventResumed, 0)
	}
	return events
}

// endEvents are the events by which a guest has gone.
func endEvents(s *guest) []*pb.GuestEvent {
	var events []*pb.GuestEvent
	id := s.view.UUID.String()
	if s.view.Active() {
		events = append(events, told(s.view.Name, inactiveID, id, eventStopped, 0))
	}
	return append(events, told(s.view.Name, inactiveID, id, eventUndefined, undefinedRemoved))
}
