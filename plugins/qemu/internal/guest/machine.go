package guest

import (
	"encoding/json"
	"fmt"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// Action is what a definition wants to be done at the end of a guest: libvirt's on_poweroff, on_reboot and on_crash.
type Action string

// The actions that QEMU guests can have.
const (
	Destroy  Action = "destroy"
	Restart  Action = "restart"
	Preserve Action = "preserve"
)

// Disk is what events about a disk are told with.
type Disk struct {
	// Alias is that of the device: "virtio-disk0".
	Alias string
	// Path is that of the image, or empty.
	Path string
}

// Facts are what of a definition matters to a living guest.
type Facts struct {
	// OnPoweroff, OnReboot and OnCrash are the actions; empty ones are Destroy, Restart and Destroy.
	OnPoweroff, OnReboot, OnCrash Action
	// AgentAlias is the alias of the guest agent's channel, or empty.
	AgentAlias string
	// AgentPath is the socket of that channel.
	AgentPath string
	// Disks are found by alias or QEMU's device path, and by node name.
	Disks map[string]Disk
}

// step is what the guest's owner has to do after an event.
type step int

const (
	stepNone step = iota
	// stepEnd ends QEMU: the guest has ended.
	stepEnd
	// stepRestart resets the guest and lets it run again.
	stepRestart
)

// machine follows a guest through QEMU's events. It is pure: no input, no output, no clock; its owner does what it says.
type machine struct {
	now   condition
	facts Facts

	// pauseReason and resumeReason are for the next STOP and RESUME, set by a call that asks for them; resumeDetail is for the event of
	// RESUME.
	pauseReason, resumeReason, resumeDetail int32
	// stopping is set by a call that ends the guest, rebooting by one that asks for a reboot by power-down.
	stopping, rebooting bool
	// sawShutdown and panicked tell a guest that ended from a QEMU that did.
	sawShutdown, panicked bool
	agent                 bool
}

func newMachine(facts Facts, now condition) *machine {
	m := &machine{now: now, resumeReason: runningUnpaused, pauseReason: pausedUnknown}
	m.setFacts(facts)
	return m
}

func (m *machine) setFacts(facts Facts) {
	facts.OnPoweroff = orElse(facts.OnPoweroff, Destroy)
	facts.OnReboot = orElse(facts.OnReboot, Restart)
	facts.OnCrash = orElse(facts.OnCrash, Destroy)
	m.facts = facts
}

func orElse(a, b Action) Action {
	if a == "" {
		return b
	}
	return a
}

// become changes the state and returns a change that tells it with events.
func (m *machine) become(state pb.State, reason int32, events ...*pb.Event) *pb.Change {
	m.now = condition{state, reason}
	return &pb.Change{State: state, Reason: reason, Events: events}
}

// tell returns a change that leaves the state as it is.
func tell(events ...*pb.Event) *pb.Change { return &pb.Change{Events: events} }

// handlers take QEMU's events (qapi/*.json) with their data; an event that is not here means nothing to libvirt's clients.
var handlers = map[string]func(m *machine, data eventData) (*pb.Change, step){
	"STOP":               (*machine).onStop,
	"RESUME":             (*machine).onResume,
	"SHUTDOWN":           (*machine).onShutdown,
	"RESET":              (*machine).onReset,
	"SUSPEND":            (*machine).onSuspend,
	"SUSPEND_DISK":       (*machine).onSuspendDisk,
	"WAKEUP":             (*machine).onWakeup,
	"WATCHDOG":           (*machine).onWatchdog,
	"GUEST_PANICKED":     (*machine).onPanic,
	"BLOCK_IO_ERROR":     (*machine).onIOError,
	"RTC_CHANGE":         (*machine).onRTC,
	"BALLOON_CHANGE":     (*machine).onBalloon,
	"DEVICE_TRAY_MOVED":  (*machine).onTray,
	"VSERPORT_CHANGE":    (*machine).onPort,
	"VNC_CONNECTED":      onGraphics(0),
	"VNC_INITIALIZED":    onGraphics(1),
	"VNC_DISCONNECTED":   onGraphics(2),
	"SPICE_CONNECTED":    onGraphics(0),
	"SPICE_INITIALIZED":  onGraphics(1),
	"SPICE_DISCONNECTED": onGraphics(2),
}

// handle follows one event. The change is nil if clients shall hear nothing of it.
func (m *machine) handle(ev qmp.Event) (*pb.Change, step, error) {
	h, ok := handlers[ev.Name]
	if !ok {
		return nil, stepNone, nil
	}
	var data eventData
	if len(ev.Data) > 0 {
		if err := json.Unmarshal(ev.Data, &data); err != nil {
			return nil, stepNone, fmt.Errorf("read event %s: %w", ev.Name, err)
		}
	}
	change, next := h(m, data)
	return change, next, nil
}

// observe takes in what query-status says, for the times when nobody listened to events.
func (m *machine) observe(status string) (*pb.Change, step) {
	next := conditionOf(status)
	if next.State == m.now.State {
		return nil, stepNone
	}
	switch next.State {
	case pb.State_STATE_RUNNING:
		if m.now.State == pb.State_STATE_PMSUSPENDED {
			return m.onWakeup(eventData{})
		}
		return m.onResume(eventData{})
	case pb.State_STATE_SHUTDOWN:
		return m.onShutdown(eventData{})
	case pb.State_STATE_CRASHED:
		return m.onPanic(eventData{Action: "pause"})
	case pb.State_STATE_PMSUSPENDED:
		return m.onSuspend(eventData{})
	case pb.State_STATE_PAUSED:
		return m.become(next.State, next.Reason, lifecycle(eventSuspended, suspendedDetail(next.Reason))), stepNone
	default:
		return nil, stepNone
	}
}

func suspendedDetail(reason int32) int32 {
	switch reason {
	case pausedIOError:
		return suspendedIOError
	case pausedWatchdog:
		return suspendedWatchdog
	default:
		return suspendedPaused
	}
}

// exited is the last change: QEMU is gone.
func (m *machine) exited() *pb.Change {
	switch {
	case m.stopping:
		return m.become(pb.State_STATE_SHUTOFF, shutoffDestroyed, lifecycle(eventStopped, stoppedDestroyed))
	case m.panicked:
		return m.become(pb.State_STATE_SHUTOFF, shutoffCrashed, lifecycle(eventStopped, stoppedCrashed))
	case m.sawShutdown:
		return m.become(pb.State_STATE_SHUTOFF, shutoffShutdown, lifecycle(eventStopped, stoppedShutdown))
	default:
		return m.become(pb.State_STATE_SHUTOFF, shutoffCrashed, lifecycle(eventStopped, stoppedFailed))
	}
}
