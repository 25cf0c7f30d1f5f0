package door

import (
	"context"
	"fmt"
	"slices"
	"testing"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/event"
	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/host/internal/xdr"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

const here = "test:///default"

// register registers a modern callback and returns its id.
func (c *raw) register(eventID int32, dom libvirt.OptDomain) int32 {
	c.t.Helper()
	var ret libvirt.ConnectDomainEventCallbackRegisterAnyRet
	args := &libvirt.ConnectDomainEventCallbackRegisterAnyArgs{EventID: eventID, Dom: dom}
	c.must(procConnectDomainEventCallbackRegisterAny, args, &ret)
	return ret.CallbackID
}

func TestEventsOfADomainsLife(t *testing.T) {
	b := newBench(t, Limits{})
	d := b.define("guest")
	c := b.open(b.ro)
	id := c.register(eventLifecycle, nil)
	if err := d.Start(context.Background(), 0); err != nil {
		t.Fatal(err)
	}
	if err := d.Destroy(context.Background(), 0); err != nil {
		t.Fatal(err)
	}
	var got []string
	for range 4 {
		f := c.recv()
		if f.Procedure != procDomainEventCallbackLifecycle || f.Type != rpc.Message || f.Serial != 1 || f.Status != rpc.OK {
			t.Fatalf("message %+v", f.Header)
		}
		var msg libvirt.DomainEventCallbackLifecycleMsg
		if _, err := xdr.Unmarshal(f.Payload, &msg); err != nil || msg.CallbackID != id || msg.Msg.Dom.Name != "guest" {
			t.Fatalf("message %+v, error %v", msg, err)
		}
		got = append(got, fmt.Sprintf("%d/%d active=%v", msg.Msg.Event, msg.Msg.Detail, msg.Msg.Dom.ID >= 0))
	}
	want := []string{"4/0 active=true", "2/0 active=true", "6/2 active=true", "5/1 active=false"}
	if !slices.Equal(got, want) {
		t.Fatalf("events %v, want %v", got, want)
	}
	c.must(procConnectDomainEventCallbackDeregisterAny, &libvirt.ConnectDomainEventCallbackDeregisterAnyArgs{CallbackID: id}, nil)
	b.bus.Publish(event.Event{URI: here, Domain: lifecycle(2, 0)})
	c.must(procConnectGetType, &void{}, nil)
}

func TestEventsReachThoseWhoAsked(t *testing.T) {
	b := newBench(t, Limits{})
	mine, other := uuid.New(), uuid.New()
	c := b.open(b.path)
	id := c.register(eventReboot, libvirt.OptDomain{{UUID: libvirt.UUID(mine)}})
	reboot := &pb.Event{Event: &pb.Event_Reboot{Reboot: &pb.RebootEvent{}}}
	for _, ev := range []event.Event{
		{URI: here, UUID: other, Domain: reboot, Name: "of another domain"},
		{URI: "qemu:///system", UUID: mine, Domain: reboot, Name: "of another connection"},
		{URI: here, UUID: mine, Domain: lifecycle(2, 0), Name: "of another kind"},
		{URI: here, UUID: mine, Domain: &pb.Event{}, Name: "of no kind"},
		{URI: here, UUID: mine, Domain: reboot, Name: "mine"},
	} {
		b.bus.Publish(ev)
	}
	f := c.recv()
	var msg libvirt.DomainEventCallbackRebootMsg
	if _, err := xdr.Unmarshal(f.Payload, &msg); err != nil || msg.CallbackID != id || msg.Msg.Dom.Name != "mine" {
		t.Fatalf("message %+v, error %v", msg, err)
	}
}

func TestEveryKindOfEvent(t *testing.T) {
	b := newBench(t, Limits{})
	c := b.open(b.path)
	for id := range int32(domainEventIDs) {
		c.register(id, nil)
	}
	for id := range int32(legacyEventIDs) {
		c.must(procConnectDomainEventRegisterAny, &libvirt.ConnectDomainEventRegisterAnyArgs{EventID: id}, nil)
	}
	for _, tc := range []struct {
		name   string
		event  *pb.Event
		procs  []int32
		modern any
	}{
		{"lifecycle", lifecycle(0, 1), []int32{107, 318}, &libvirt.DomainEventCallbackLifecycleMsg{}},
		{"reboot", &pb.Event{Event: &pb.Event_Reboot{}}, []int32{169, 319}, &libvirt.DomainEventCallbackRebootMsg{}},
		{"clock", &pb.Event{Event: &pb.Event_RtcChange{RtcChange: &pb.RtcChangeEvent{OffsetSeconds: 1}}}, []int32{170, 320}, &libvirt.DomainEventCallbackRtcChangeMsg{}},
		{"watchdog", &pb.Event{Event: &pb.Event_Watchdog{Watchdog: &pb.WatchdogEvent{Action: 1}}}, []int32{171, 321}, &libvirt.DomainEventCallbackWatchdogMsg{}},
		{"i/o error", &pb.Event{Event: &pb.Event_IoError{IoError: &pb.IOErrorEvent{Path: "/x", Reason: "enospc"}}}, []int32{172, 322, 195, 324}, nil},
		{"graphics", &pb.Event{Event: &pb.Event_Graphics{Graphics: &pb.GraphicsEvent{}}}, []int32{173, 323}, &libvirt.DomainEventCallbackGraphicsMsg{}},
		{"tray", &pb.Event{Event: &pb.Event_TrayChange{TrayChange: &pb.TrayChangeEvent{Alias: "ide0"}}}, []int32{268, 328}, &libvirt.DomainEventCallbackTrayChangeMsg{}},
		{"another disk", &pb.Event{Event: &pb.Event_DiskChange{DiskChange: &pb.DiskChangeEvent{Alias: "ide0", OldPath: "/a"}}}, []int32{248, 327}, &libvirt.DomainEventCallbackDiskChangeMsg{}},
		{"device added", &pb.Event{Event: &pb.Event_DeviceAdded{DeviceAdded: &pb.DeviceAddedEvent{Alias: "net1"}}}, []int32{354}, &libvirt.DomainEventCallbackDeviceAddedMsg{}},
		{"device removed", &pb.Event{Event: &pb.Event_DeviceRemoved{DeviceRemoved: &pb.DeviceRemovedEvent{Alias: "net1"}}}, []int32{311, 333}, &libvirt.DomainEventCallbackDeviceRemovedMsg{}},
		{"device not removed", &pb.Event{Event: &pb.Event_DeviceRemovalFailed{DeviceRemovalFailed: &pb.DeviceRemovalFailedEvent{Alias: "net1"}}}, []int32{367}, &libvirt.DomainEventCallbackDeviceRemovalFailedMsg{}},
		{"balloon", &pb.Event{Event: &pb.Event_BalloonChange{BalloonChange: &pb.BalloonChangeEvent{ActualKib: 5}}}, []int32{276, 331}, &libvirt.DomainEventCallbackBalloonChangeMsg{}},
		{"wake-up", &pb.Event{Event: &pb.Event_PmWakeup{}}, []int32{269, 329}, &libvirt.DomainEventCallbackPmwakeupMsg{}},
		{"sleep", &pb.Event{Event: &pb.Event_PmSuspend{PmSuspend: &pb.PMSuspendEvent{}}}, []int32{270, 330}, &libvirt.DomainEventCallbackPmsuspendMsg{}},
		{"hibernation", &pb.Event{Event: &pb.Event_PmSuspend{PmSuspend: &pb.PMSuspendEvent{Disk: true}}}, []int32{292, 332}, &libvirt.DomainEventCallbackPmsuspendDiskMsg{}},
		{
			"end of a job", &pb.Event{Event: &pb.Event_JobCompleted{JobCompleted: &pb.JobCompletedEvent{Operation: 2, TotalBytes: 5}}},
			[]int32{363},
			&libvirt.DomainEventCallbackJobCompletedMsg{},
		},
		{"agent", &pb.Event{Event: &pb.Event_AgentLifecycle{AgentLifecycle: &pb.AgentLifecycleEvent{State: 1}}}, []int32{348}, &libvirt.DomainEventCallbackAgentLifecycleMsg{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b.bus.Publish(event.Event{URI: here, Name: "guest", ID: 3, Domain: tc.event})
			var last rpc.Frame
			for _, want := range tc.procs {
				if last = c.recv(); last.Procedure != want {
					t.Fatalf("procedure %d, want %d", last.Procedure, want)
				}
			}
			if tc.modern == nil {
				return
			}
			if rest, err := xdr.Unmarshal(last.Payload, tc.modern); err != nil || len(rest) != 0 {
				t.Fatalf("%d bytes too many, error %v", len(rest), err)
			}
		})
	}
}

func TestLegacyRegistration(t *testing.T) {
	b := newBench(t, Limits{})
	c := b.open(b.path)
	var on libvirt.ConnectDomainEventRegisterRet
	if c.must(procConnectDomainEventRegister, &void{}, &on); on.CbRegistered != 1 {
		t.Fatal("not registered")
	}
	if e := c.call(procConnectDomainEventRegister, &void{}, nil); e == nil || e.Code != 1 || e.Domain != 7 {
		t.Fatalf("second registration: %+v", e)
	}
	b.bus.Publish(event.Event{URI: here, Name: "guest", Domain: lifecycle(2, 0)})
	f := c.recv()
	var msg libvirt.DomainEventLifecycleMsg
	if _, err := xdr.Unmarshal(f.Payload, &msg); err != nil || f.Procedure != procDomainEventLifecycle || msg.Event != 2 {
		t.Fatalf("message %+v %+v, error %v", f.Header, msg, err)
	}
	c.must(procConnectDomainEventDeregister, &void{}, nil)
	for _, tc := range []struct {
		name string
		proc int32
		args any
	}{
		{"a second end", procConnectDomainEventDeregister, &void{}},
		{"a kind that is not there", procConnectDomainEventRegisterAny, &libvirt.ConnectDomainEventRegisterAnyArgs{EventID: 16}},
		{"a negative kind", procConnectDomainEventCallbackRegisterAny, &libvirt.ConnectDomainEventCallbackRegisterAnyArgs{EventID: -1}},
		{"a kind of the future", procConnectDomainEventCallbackRegisterAny, &libvirt.ConnectDomainEventCallbackRegisterAnyArgs{EventID: 27}},
		{"another client's callback", procConnectDomainEventCallbackDeregisterAny, &libvirt.ConnectDomainEventCallbackDeregisterAnyArgs{CallbackID: 999}},
	} {
		if e := c.call(tc.proc, tc.args, nil); e == nil || e.Code != 1 {
			t.Errorf("%s: %+v", tc.name, e)
		}
	}
}

func TestCallbacksAreLimited(t *testing.T) {
	b := newBench(t, Limits{Callbacks: 1})
	c := b.open(b.path)
	c.register(eventLifecycle, nil)
	args := &libvirt.ConnectDomainEventCallbackRegisterAnyArgs{}
	if e := c.call(procConnectDomainEventCallbackRegisterAny, args, nil); e == nil || e.Code != 1 {
		t.Fatalf("error %+v", e)
	}
}

func TestAClientThatReadsNoEventsIsCutOff(t *testing.T) {
	b := newBench(t, Limits{})
	c, quick := b.open(b.path), b.open(b.path)
	c.register(eventLifecycle, nil)
	for range 20_000 {
		b.bus.Publish(event.Event{URI: here, Name: "guest", Domain: lifecycle(2, 0)})
	}
	c.gone()
	quick.must(procConnectGetType, &void{}, nil)
}
