package door

import (
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/host/internal/event"
	"github.com/lodgevirt/lodge/host/internal/xdr"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	lockv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

// Kinds of domain events, virDomainEventID.
const (
	eventLifecycle      = 0
	eventReboot         = 1
	eventRTCChange      = 2
	eventWatchdog       = 3
	eventIOError        = 4
	eventGraphics       = 5
	eventIOErrorReason  = 6
	eventDiskChange     = 9
	eventTrayChange     = 10
	eventPMWakeup       = 11
	eventPMSuspend      = 12
	eventBalloonChange  = 13
	eventPMSuspendDisk  = 14
	eventDeviceRemoved  = 15
	eventAgentLifecycle = 18
	eventDeviceAdded    = 19
	eventJobCompleted   = 21
	eventRemovalFailed  = 22
	eventMetadata       = 23
)

// eventMessages are the procedures that carry each kind: modern ones begin with the callback's id, and some then have a reason, which
// is always 0; kinds from 16 on have no legacy one.
var eventMessages = map[int32]struct {
	modern, legacy int32
	reason         bool
}{
	eventLifecycle:      {modern: procDomainEventCallbackLifecycle, legacy: procDomainEventLifecycle},
	eventReboot:         {modern: procDomainEventCallbackReboot, legacy: procDomainEventReboot},
	eventRTCChange:      {modern: procDomainEventCallbackRtcChange, legacy: procDomainEventRtcChange},
	eventWatchdog:       {modern: procDomainEventCallbackWatchdog, legacy: procDomainEventWatchdog},
	eventIOError:        {modern: procDomainEventCallbackIoError, legacy: procDomainEventIoError},
	eventGraphics:       {modern: procDomainEventCallbackGraphics, legacy: procDomainEventGraphics},
	eventIOErrorReason:  {modern: procDomainEventCallbackIoErrorReason, legacy: procDomainEventIoErrorReason},
	eventDiskChange:     {modern: procDomainEventCallbackDiskChange, legacy: procDomainEventDiskChange},
	eventTrayChange:     {modern: procDomainEventCallbackTrayChange, legacy: procDomainEventTrayChange},
	eventPMWakeup:       {modern: procDomainEventCallbackPmwakeup, legacy: procDomainEventPmwakeup, reason: true},
	eventPMSuspend:      {modern: procDomainEventCallbackPmsuspend, legacy: procDomainEventPmsuspend, reason: true},
	eventBalloonChange:  {modern: procDomainEventCallbackBalloonChange, legacy: procDomainEventBalloonChange},
	eventPMSuspendDisk:  {modern: procDomainEventCallbackPmsuspendDisk, legacy: procDomainEventPmsuspendDisk, reason: true},
	eventDeviceRemoved:  {modern: procDomainEventCallbackDeviceRemoved, legacy: procDomainEventDeviceRemoved},
	eventAgentLifecycle: {modern: procDomainEventCallbackAgentLifecycle},
	eventDeviceAdded:    {modern: procDomainEventCallbackDeviceAdded},
	eventJobCompleted:   {modern: procDomainEventCallbackJobCompleted},
	eventRemovalFailed:  {modern: procDomainEventCallbackDeviceRemovalFailed},
	eventMetadata:       {modern: procDomainEventCallbackMetadataChange},
}

// agentLifecycleMsg is the message of that kind without the callback's id.
type agentLifecycleMsg struct {
	Dom    libvirt.Domain
	State  int32
	Reason int32
}

// deviceMsg is the message about a device that was added, or could not be removed, without the callback's id.
type deviceMsg struct {
	Dom      libvirt.Domain
	DevAlias string
}

// metadataChangeMsg is the message of that kind without the callback's id; the namespace is optional.
type metadataChangeMsg struct {
	Dom          libvirt.Domain
	Type         int32
	NamespaceURI libvirt.OptString
}

// jobCompletedMsg is the message of that kind without the callback's id.
type jobCompletedMsg struct {
	Dom    libvirt.Domain
	Params []libvirt.TypedParam
}

// translated is an event as libvirt's messages carry it.
type translated struct {
	eventID        int32
	modern, legacy int32
	reason         bool
	// body is the encoded legacy message, which is the rest of the modern one.
	body []byte
}

// forCallback returns the payload of the modern message.
func (t translated) forCallback(id int32) []byte {
	b := make([]byte, 0, 8+len(t.body))
	b = xdr.AppendUint32(b, uint32(id))
	if t.reason {
		b = xdr.AppendUint32(b, 0)
	}
	return append(b, t.body...)
}

// translate returns what an event is about, and the kinds of libvirt's events that it is; an I/O error is two.
func translate(ev event.Event) (objectKind, []translated) {
	switch {
	case ev.Pool != nil:
		return aboutPool, poolEvent(ev)
	case ev.Secret != nil:
		return aboutSecret, secretEvent(ev)
	case ev.Network != nil:
		return aboutNetwork, networkEvent(ev)
	}
	return aboutDomain, domainEvent(ev)
}

func domainEvent(ev event.Event) []translated {
	dom := libvirt.Domain{Name: ev.Name, UUID: libvirt.UUID(ev.UUID), ID: ev.ID}
	switch e := ev.Domain.GetEvent().(type) {
	case *pb.Event_Lifecycle:
		return one(eventLifecycle, &libvirt.DomainEventLifecycleMsg{Dom: dom, Event: e.Lifecycle.Event, Detail: e.Lifecycle.Detail})
	case *pb.Event_Reboot:
		return one(eventReboot, &libvirt.DomainEventRebootMsg{Dom: dom})
	case *pb.Event_RtcChange:
		return one(eventRTCChange, &libvirt.DomainEventRtcChangeMsg{Dom: dom, Offset: e.RtcChange.OffsetSeconds})
	case *pb.Event_Watchdog:
		return one(eventWatchdog, &libvirt.DomainEventWatchdogMsg{Dom: dom, Action: e.Watchdog.Action})
	case *pb.Event_IoError:
		return ioError(dom, e.IoError)
	case *pb.Event_LeaseLost:
		return leaseLost(dom, e.LeaseLost)
	case *pb.Event_Graphics:
		return one(eventGraphics, graphics(dom, e.Graphics))
	case *pb.Event_TrayChange:
		return one(eventTrayChange, &libvirt.DomainEventTrayChangeMsg{Dom: dom, DevAlias: e.TrayChange.Alias, Reason: e.TrayChange.Reason})
	case *pb.Event_BalloonChange:
		return one(eventBalloonChange, &libvirt.DomainEventBalloonChangeMsg{Dom: dom, Actual: e.BalloonChange.ActualKib})
	case *pb.Event_AgentLifecycle:
		return one(eventAgentLifecycle, &agentLifecycleMsg{dom, e.AgentLifecycle.State, e.AgentLifecycle.Reason})
	case *pb.Event_MetadataChange:
		return one(eventMetadata, &metadataChangeMsg{dom, e.MetadataChange.Type, filled(e.MetadataChange.NamespaceUri)})
	case *pb.Event_JobCompleted:
		return one(eventJobCompleted, &jobCompletedMsg{dom, jobParams(&domain.JobInfo{
			Operation: e.JobCompleted.Operation, Elapsed: time.Duration(e.JobCompleted.ElapsedMs) * time.Millisecond,
			Total: e.JobCompleted.TotalBytes, Processed: e.JobCompleted.ProcessedBytes,
		})})
	case *pb.Event_DeviceAdded:
		return one(eventDeviceAdded, &deviceMsg{dom, e.DeviceAdded.Alias})
	case *pb.Event_DeviceRemoved:
		return one(eventDeviceRemoved, &libvirt.DomainEventDeviceRemovedMsg{Dom: dom, DevAlias: e.DeviceRemoved.Alias})
	case *pb.Event_DeviceRemovalFailed:
		return one(eventRemovalFailed, &deviceMsg{dom, e.DeviceRemovalFailed.Alias})
	case *pb.Event_DiskChange:
		return one(eventDiskChange, &libvirt.DomainEventDiskChangeMsg{
			Dom: dom, OldSrcPath: filled(e.DiskChange.OldPath), NewSrcPath: filled(e.DiskChange.NewPath),
			DevAlias: e.DiskChange.Alias, Reason: e.DiskChange.Reason,
		})
	case *pb.Event_PmWakeup:
		return one(eventPMWakeup, &libvirt.DomainEventPmwakeupMsg{Dom: dom})
	case *pb.Event_PmSuspend:
		if e.PmSuspend.Disk {
			return one(eventPMSuspendDisk, &libvirt.DomainEventPmsuspendDiskMsg{Dom: dom})
		}
		return one(eventPMSuspend, &libvirt.DomainEventPmsuspendMsg{Dom: dom})
	}
	return nil
}

// filled is an optional string that is there unless it is empty.
func filled(s string) libvirt.OptString {
	if s == "" {
		return nil
	}
	return libvirt.OptString{s}
}

// one encodes a message; one that does not fit the wire, which only a broken driver's strings could make, is dropped.
func one(eventID int32, msg any) []translated {
	body, err := xdr.Append(nil, msg)
	if err != nil {
		return nil
	}
	m := eventMessages[eventID]
	return []translated{{eventID: eventID, modern: m.modern, legacy: m.legacy, reason: m.reason, body: body}}
}

func ioError(dom libvirt.Domain, e *pb.IOErrorEvent) []translated {
	plain := one(eventIOError, &libvirt.DomainEventIOErrorMsg{Dom: dom, SrcPath: e.Path, DevAlias: e.Alias, Action: e.Action})
	return append(plain, one(eventIOErrorReason, &libvirt.DomainEventIOErrorReasonMsg{
		Dom: dom, SrcPath: e.Path, DevAlias: e.Alias, Action: e.Action, Reason: e.Reason,
	})...)
}

// leaseLostReason is the reason of the I/O error that stands for a lost lock: libvirt has no event of its own for it.
const leaseLostReason = "lease-lost"

// Actions of libvirt's I/O error events, virDomainEventIOErrorAction.
const (
	ioErrorNone   = 0
	ioErrorPause  = 1
	ioErrorReport = 2
)

// leaseLost tells of a lost lock as of an error of the disk.
func leaseLost(dom libvirt.Domain, e *pb.LeaseLostEvent) []translated {
	action := int32(ioErrorReport)
	switch e.Action {
	case lockv1.Action_ACTION_PAUSE:
		action = ioErrorPause
	case lockv1.Action_ACTION_IGNORE:
		action = ioErrorNone
	case lockv1.Action_ACTION_UNSPECIFIED, lockv1.Action_ACTION_POWEROFF, lockv1.Action_ACTION_RESTART:
	}
	return ioError(dom, &pb.IOErrorEvent{Path: e.Path, Alias: e.Target, Action: action, Reason: leaseLostReason})
}

func graphics(dom libvirt.Domain, e *pb.GraphicsEvent) *libvirt.DomainEventGraphicsMsg {
	address := func(a *pb.GraphicsAddress) libvirt.DomainEventGraphicsAddress {
		return libvirt.DomainEventGraphicsAddress{Family: a.GetFamily(), Node: a.GetNode(), Service: a.GetService()}
	}
	return &libvirt.DomainEventGraphicsMsg{
		Dom: dom, Phase: e.Phase, Local: address(e.Local), Remote: address(e.Remote), AuthScheme: e.AuthScheme,
	}
}
