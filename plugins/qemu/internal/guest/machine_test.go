package guest

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

func digits(n int32) string { return strconv.Itoa(int(n)) }

// eventName is the name of an event's message: "reboot" for pb.Event_Reboot.
func eventName(e *pb.Event) string {
	name := fmt.Sprintf("%T", e.GetEvent())
	return strings.ToLower(name[strings.LastIndexByte(name, '_')+1:])
}

// Each event is written as "NAME {data}"; what clients hear of it as in text, with "; " between changes, and what the owner has to
// do in front of it.
func TestEventsOfQEMUBecomeThoseOfLibvirt(t *testing.T) {
	const off = `SHUTDOWN {"guest":true,"reason":"guest-shutdown"}`
	running, paused := condition{pb.State_STATE_RUNNING, runningBooted}, condition{pb.State_STATE_PAUSED, pausedUser}
	for name, c := range map[string]struct {
		facts  Facts
		from   condition
		before func(*machine)
		events []string
		want   string
	}{
		"a guest powers off": {from: running, events: []string{off, "STOP"}, want: "end: shutdown/0 shutdown/1; shutoff/1 stopped/0"},
		"a guest powers off and shall not": {
			from: running, facts: Facts{OnPoweroff: Restart}, events: []string{off, "STOP", `RESET {"guest":false}`, "RESUME"},
			want: "restart: shutdown/0 shutdown/1; - reboot; running/5 resumed/0; shutoff/3 stopped/5",
		},
		"a guest powers off and is kept": {from: running, facts: Facts{OnPoweroff: Preserve}, events: []string{off}, want: "shutdown/0 shutdown/1; shutoff/1 stopped/0"},
		"the host ends qemu":             {from: running, events: []string{`SHUTDOWN {"guest":false,"reason":"host-signal"}`}, want: "end: shutdown/0 shutdown/2; shutoff/1 stopped/0"},
		"a call ends qemu": {
			from: running, before: func(m *machine) { m.stopping = true }, events: []string{`SHUTDOWN {"guest":false}`},
			want: "shutdown/0 shutdown/2; shutoff/2 stopped/1",
		},
		"a reboot by power-down": {
			from: running, before: func(m *machine) { m.rebooting = true }, events: []string{off, "STOP", "RESET {}", "RESUME"},
			want: "restart: shutdown/0 shutdown/1; - reboot; running/5 resumed/0; shutoff/3 stopped/5",
		},
		"a guest reboots":               {from: running, events: []string{`RESET {"guest":true}`}, want: "- reboot; shutoff/3 stopped/5"},
		"a guest reboots and shall not": {from: running, facts: Facts{OnReboot: Destroy}, events: []string{`RESET {"guest":true}`}, want: "end: - reboot; shutoff/1 stopped/0"},
		"a guest panics":                {from: running, events: []string{`GUEST_PANICKED {"action":"pause"}`, "STOP"}, want: "end: crashed/1 crashed/0; shutoff/3 stopped/2"},
		"a guest panics and is kept":    {from: running, facts: Facts{OnCrash: Preserve}, events: []string{`GUEST_PANICKED {"action":"pause"}`}, want: "crashed/1 crashed/0; shutoff/3 stopped/2"},
		"a guest panics and goes on":    {from: running, events: []string{`GUEST_PANICKED {"action":"run"}`}, want: "shutoff/3 stopped/5"},
		"a guest panics and is restarted": {
			from: running, facts: Facts{OnCrash: Restart}, events: []string{`GUEST_PANICKED {"action":"pause"}`, "RESET {}", "RESUME"},
			want: "restart: crashed/1 crashed/0; - reboot; running/5 resumed/0; shutoff/3 stopped/5",
		},
		"somebody else pauses": {from: running, events: []string{"STOP", "STOP", "RESUME"}, want: "paused/0 suspended/0; running/5 resumed/0; shutoff/3 stopped/5"},
		"a disk is full": {
			from: running, facts: Facts{Disks: map[string]Disk{"libvirt-1-format": {Alias: "virtio-disk0", Path: "/a.img"}}},
			events: []string{`BLOCK_IO_ERROR {"device":"","node-name":"libvirt-1-format","action":"stop","nospace":true}`, "STOP"},
			want:   "paused/5 ioerror suspended/2; shutoff/3 stopped/5",
		},
		"a disk has an error that is reported": {from: running, events: []string{`BLOCK_IO_ERROR {"device":"x","action":"report"}`}, want: "- ioerror; shutoff/3 stopped/5"},
		"a watchdog pauses":                    {from: running, events: []string{`WATCHDOG {"action":"pause"}`, "STOP"}, want: "paused/6 watchdog suspended/3; shutoff/3 stopped/5"},
		"a watchdog resets":                    {from: running, events: []string{`WATCHDOG {"action":"reset"}`, "RESET {}"}, want: "- watchdog; - reboot; shutoff/3 stopped/5"},
		"a guest sleeps and wakes":             {from: running, events: []string{"SUSPEND", "WAKEUP"}, want: "pmsuspended/0 pmsuspend pmsuspended/0; running/8 pmwakeup started/4; shutoff/3 stopped/5"},
		"a guest sleeps on disk":               {from: running, events: []string{"SUSPEND_DISK"}, want: "pmsuspended/0 pmsuspend pmsuspended/1; shutoff/3 stopped/5"},
		"the agent comes and goes": {
			from: running, facts: Facts{AgentAlias: "channel0"},
			events: []string{`VSERPORT_CHANGE {"id":"channel0","open":true}`, `VSERPORT_CHANGE {"id":"channel1","open":true}`, `VSERPORT_CHANGE {"id":"channel0","open":false}`},
			want:   "- agentlifecycle; - agentlifecycle; shutoff/3 stopped/5",
		},
		"the rest":          {from: paused, events: []string{`RTC_CHANGE {"offset":7}`, `BALLOON_CHANGE {"actual":1048576}`, `DEVICE_TRAY_MOVED {"id":"ide0-0-0","tray-open":true}`, "VNC_CONNECTED {}", "SPICE_DISCONNECTED {}"}, want: "- rtcchange; - balloonchange; - traychange; - graphics; - graphics; shutoff/3 stopped/5"},
		"what nobody wants": {from: paused, events: []string{`NIC_RX_FILTER_CHANGED {"name":"net0"}`, "JOB_STATUS_CHANGE {}"}, want: "shutoff/3 stopped/5"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(c.facts, c.from)
			if c.before != nil {
				c.before(m)
			}
			var got []string
			for _, e := range c.events {
				got = append(got, play(t, m, e)...)
			}
			got = append(got, text(m.exited()))
			if diff := cmp.Diff(c.want, strings.Join(got, "; ")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func play(t *testing.T, m *machine, event string) []string {
	t.Helper()
	name, data, _ := strings.Cut(event, " ")
	change, next, err := m.handle(qmp.Event{Name: name, Data: json.RawMessage(data)})
	if err != nil {
		t.Fatal(err)
	}
	prefix := map[step]string{stepEnd: "end: ", stepRestart: "restart: "}[next]
	if change == nil {
		if prefix != "" {
			return []string{prefix}
		}
		return nil
	}
	return []string{prefix + text(change)}
}

func TestEventsCarryWhatClientsShow(t *testing.T) {
	m := newMachine(Facts{}, condition{pb.State_STATE_RUNNING, runningBooted})
	change, _, err := m.handle(qmp.Event{Name: "VNC_INITIALIZED", Data: json.RawMessage(
		`{"server":{"auth":"vnc","family":"ipv4","service":"5900","host":"127.0.0.1"},"client":{"family":"ipv6","service":"40","host":"::1"}}`)})
	if err != nil {
		t.Fatal(err)
	}
	g := change.GetEvents()[0].GetGraphics()
	got := fmt.Sprintln(g.GetPhase(), g.GetAuthScheme(), g.GetLocal().GetNode(), g.GetLocal().GetService(), g.GetRemote().GetFamily())
	if want := "1 vnc 127.0.0.1 5900 1\n"; got != want {
		t.Errorf("graphics event is %q, want %q", got, want)
	}
	change, _, err = m.handle(qmp.Event{Name: "BALLOON_CHANGE", Data: json.RawMessage(`{"actual":536870912}`)})
	if err != nil || change.GetEvents()[0].GetBalloonChange().GetActualKib() != 524288 {
		t.Errorf("balloon event is %v, %v", change, err)
	}
}

func FuzzMachine(f *testing.F) {
	for name := range handlers {
		f.Add(name, `{"guest":true,"action":"pause"}`)
	}
	f.Fuzz(func(t *testing.T, name, data string) {
		m := newMachine(Facts{}, condition{pb.State_STATE_RUNNING, runningBooted})
		if !json.Valid([]byte(data)) {
			return
		}
		change, _, err := m.handle(qmp.Event{Name: name, Data: json.RawMessage(data)})
		if err != nil && change != nil {
			t.Errorf("change %v beside %v", change, err)
		}
	})
}
