package guest

import (
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// eventData has the members of all the events that are followed. Guest is nil where QEMU does not say who asked.
type eventData struct {
	Guest    *bool       `json:"guest"`
	Reason   string      `json:"reason"`
	Action   string      `json:"action"`
	Device   string      `json:"device"`
	NodeName string      `json:"node-name"`
	NoSpace  bool        `json:"nospace"`
	Offset   int64       `json:"offset"`
	Actual   uint64      `json:"actual"`
	ID       string      `json:"id"`
	TrayOpen bool        `json:"tray-open"`
	Open     bool        `json:"open"`
	Server   displayPeer `json:"server"`
	Client   displayPeer `json:"client"`
}

type displayPeer struct {
	Host    string `json:"host"`
	Service string `json:"service"`
	Port    string `json:"port"`
	Family  string `json:"family"`
	Auth    string `json:"auth"`
}

// onStop follows vCPUs that stop. A guest that is no longer running has told why already.
func (m *machine) onStop(eventData) (*pb.Change, step) {
	reason := m.pauseReason
	m.pauseReason = pausedUnknown
	if m.now.State != pb.State_STATE_RUNNING {
		return nil, stepNone
	}
	return m.become(pb.State_STATE_PAUSED, reason, lifecycle(eventSuspended, suspendedPaused)), stepNone
}

func (m *machine) onResume(eventData) (*pb.Change, step) {
	reason, detail := m.resumeReason, m.resumeDetail
	m.resumeReason, m.resumeDetail = runningUnpaused, resumedUnpaused
	if m.now.State == pb.State_STATE_RUNNING {
		return nil, stepNone
	}
	m.panicked, m.sawShutdown = false, false
	return m.become(pb.State_STATE_RUNNING, reason, lifecycle(eventResumed, detail)), stepNone
}

// onShutdown follows a guest that has powered off, was told to by somebody, or whose QEMU was. Because of -no-shutdown QEMU waits
// to be ended, so that how the guest ended can be asked even if nobody listened.
func (m *machine) onShutdown(data eventData) (*pb.Change, step) {
	if m.sawShutdown {
		return nil, stepNone
	}
	m.sawShutdown = true
	detail := int32(shutdownFinished)
	if data.Guest != nil {
		detail = shutdownHost
		if *data.Guest {
			detail = shutdownGuest
		}
	}
	next := stepEnd
	switch {
	case m.stopping:
		next = stepNone
	case data.Reason == "guest-reset" && m.facts.OnReboot == Destroy:
	case m.rebooting, m.facts.OnPoweroff == Restart:
		next = stepRestart
	case m.facts.OnPoweroff == Preserve:
		next = stepNone
	}
	m.rebooting = false
	if m.panicked {
		// A panicking guest was told of as crashed, and that is how it ends.
		return nil, next
	}
	return m.become(pb.State_STATE_SHUTDOWN, 0, lifecycle(eventShutdown, detail)), next
}

func (m *machine) onReset(eventData) (*pb.Change, step) {
	next := stepNone
	if m.facts.OnReboot == Destroy && !m.stopping {
		next, m.sawShutdown = stepEnd, true
	}
	return tell(&pb.Event{Event: &pb.Event_Reboot{Reboot: &pb.RebootEvent{}}}), next
}

func (m *machine) onSuspend(eventData) (*pb.Change, step) {
	return m.sleep(false), stepNone
}

func (m *machine) onSuspendDisk(eventData) (*pb.Change, step) {
	return m.sleep(true), stepNone
}

func (m *machine) sleep(disk bool) *pb.Change {
	event := &pb.Event{Event: &pb.Event_PmSuspend{PmSuspend: &pb.PMSuspendEvent{Disk: disk}}}
	if m.now.State != pb.State_STATE_RUNNING {
		return tell(event)
	}
	detail := int32(0)
	if disk {
		detail = 1
	}
	return m.become(pb.State_STATE_PMSUSPENDED, 0, event, lifecycle(eventPMSuspended, detail))
}

func (m *machine) onWakeup(eventData) (*pb.Change, step) {
	event := &pb.Event{Event: &pb.Event_PmWakeup{PmWakeup: &pb.PMWakeupEvent{}}}
	if m.now.State != pb.State_STATE_PMSUSPENDED {
		return tell(event), stepNone
	}
	return m.become(pb.State_STATE_RUNNING, runningWakeup, event, lifecycle(eventStarted, startedWakeup)), stepNone
}

func (m *machine) onWatchdog(data eventData) (*pb.Change, step) {
	action, ok := watchdogActions[data.Action]
	if !ok {
		return nil, stepNone
	}
	event := &pb.Event{Event: &pb.Event_Watchdog{Watchdog: &pb.WatchdogEvent{Action: action}}}
	if data.Action == "pause" && m.now.State == pb.State_STATE_RUNNING {
		return m.become(pb.State_STATE_PAUSED, pausedWatchdog, event, lifecycle(eventSuspended, suspendedWatchdog)), stepNone
	}
	return tell(event), stepNone
}

// onPanic follows a guest that says that it has crashed. QEMU pauses it, so that on_crash can be done by us.
func (m *machine) onPanic(data eventData) (*pb.Change, step) {
	if data.Action == "run" || m.panicked {
		return nil, stepNone
	}
	m.panicked = true
	next := stepEnd
	switch m.facts.OnCrash {
	case Preserve:
		next = stepNone
	case Restart:
		next = stepRestart
	case Destroy:
	}
	return m.become(pb.State_STATE_CRASHED, crashedPanicked, lifecycle(eventCrashed, 0)), next
}

func (m *machine) onIOError(data eventData) (*pb.Change, step) {
	action, ok := ioErrorActions[data.Action]
	if !ok {
		return nil, stepNone
	}
	disk, ok := m.facts.Disks[data.NodeName]
	if !ok {
		disk = m.facts.Disks[data.Device]
	}
	reason := ""
	if data.NoSpace {
		reason = "enospc"
	}
	event := &pb.Event{Event: &pb.Event_IoError{IoError: &pb.IOErrorEvent{
		Path: disk.Path, Alias: disk.Alias, Action: action, Reason: reason,
	}}}
	if data.Action == "stop" && m.now.State == pb.State_STATE_RUNNING {
		return m.become(pb.State_STATE_PAUSED, pausedIOError, event, lifecycle(eventSuspended, suspendedIOError)), stepNone
	}
	return tell(event), stepNone
}

func (m *machine) onRTC(data eventData) (*pb.Change, step) {
	return tell(&pb.Event{Event: &pb.Event_RtcChange{RtcChange: &pb.RtcChangeEvent{OffsetSeconds: data.Offset}}}), stepNone
}

func (m *machine) onBalloon(data eventData) (*pb.Change, step) {
	return tell(&pb.Event{Event: &pb.Event_BalloonChange{BalloonChange: &pb.BalloonChangeEvent{ActualKib: data.Actual >> 10}}}), stepNone
}

func (m *machine) onTray(data eventData) (*pb.Change, step) {
	alias := data.ID
	if disk, ok := m.facts.Disks[data.ID]; ok {
		alias = disk.Alias
	}
	reason := int32(1)
	if data.TrayOpen {
		reason = 0
	}
	return tell(&pb.Event{Event: &pb.Event_TrayChange{TrayChange: &pb.TrayChangeEvent{Alias: alias, Reason: reason}}}), stepNone
}

// onPort follows the guest's side of virtio ports: the agent's channel is open while an agent runs.
func (m *machine) onPort(data eventData) (*pb.Change, step) {
	if m.facts.AgentAlias == "" || data.ID != m.facts.AgentAlias || data.Open == m.agent {
		return nil, stepNone
	}
	m.agent = data.Open
	const connected, disconnected, byChannel = 1, 2, 2
	event := &pb.AgentLifecycleEvent{State: disconnected, Reason: byChannel}
	if data.Open {
		event.State = connected
	}
	return tell(&pb.Event{Event: &pb.Event_AgentLifecycle{AgentLifecycle: event}}), stepNone
}

func onGraphics(phase int32) func(*machine, eventData) (*pb.Change, step) {
	return func(_ *machine, data eventData) (*pb.Change, step) {
		auth := data.Server.Auth
		if auth == "" {
			auth = data.Client.Auth
		}
		return tell(&pb.Event{Event: &pb.Event_Graphics{Graphics: &pb.GraphicsEvent{
			Phase: phase, Local: data.Server.address(), Remote: data.Client.address(), AuthScheme: auth,
		}}}), stepNone
	}
}

func (p displayPeer) address() *pb.GraphicsAddress {
	service := p.Service
	if service == "" {
		service = p.Port
	}
	return &pb.GraphicsAddress{Family: families[p.Family], Node: p.Host, Service: service}
}
