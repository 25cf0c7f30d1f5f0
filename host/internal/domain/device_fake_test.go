package domain

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lodgevirt/lodge/host/internal/event"
	"github.com/lodgevirt/lodge/sdk/domxml"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// fakeDevices are the devices of a fakeDriver's guests. They outlive the driver, as the guests do.
type fakeDevices struct {
	pb.UnimplementedDeviceServiceServer

	mu sync.Mutex
	// texts are the live definitions of guests whose devices have changed, by UUID.
	texts map[string]string
	// at runs at points of the driver's calls: "attach", "attach.done", "save", "save.write" and so on. An error ends the call there.
	at func(point string) error
	// shy guests do not answer when they are asked to give a device up.
	shy bool
	// leases are those of the last call.
	leases []*pb.Lease
	// disks are those of the last call that opens some, volumes those of the last Recover.
	disks, volumes []*pb.Disk
}

func (f *fakeDevices) liveXML(g *pb.Guest, otherwise string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if live, ok := f.texts[g.Uuid]; ok {
		return live
	}
	return otherwise
}

func (f *fakeDevices) setText(id, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.texts == nil {
		f.texts = map[string]string{}
	}
	f.texts[id] = text
}

func (f *fakeDevices) hit(point string) error {
	f.mu.Lock()
	at := f.at
	f.mu.Unlock()
	if at == nil {
		return nil
	}
	return at(point)
}

// pass has a function run at each point.
func (f *fakeDevices) pass(at func(point string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at = at
}

// when has something done when a call comes to a point, once; its error ends the call.
func (f *fakeDevices) when(point string, do func() error) {
	f.pass(func(p string) error {
		if p != point {
			return nil
		}
		f.pass(nil)
		return do()
	})
}

// edit changes a guest's live definition between two points.
func (f *fakeDevices) edit(point string, g *pb.Guest, live, device string) (string, error) {
	if err := f.hit(point); err != nil {
		return "", err
	}
	def, err := parseWithDevices(f.liveXML(g, live))
	if err != nil {
		return "", verr.Status(err)
	}
	dev, err := domxml.ParseDevice(device)
	if err != nil {
		return "", verr.Status(err)
	}
	found, err := domxml.FindDevice(def.Devices, dev)
	switch {
	case point == "attach":
		if d := dev.Alias(); d == "" && dev.Kind != "lease" {
			text := strings.Replace(device, "</"+dev.Kind+">", fmt.Sprintf("<alias name='new-%s'/></%s>", dev.Kind, dev.Kind), 1)
			if dev, err = domxml.ParseDevice(text); err != nil {
				return "", verr.Status(err)
			}
		}
		if _, err := domxml.AddDevice(def.Devices, dev); err != nil {
			return "", verr.Status(err)
		}
	case err != nil:
		return "", verr.Status(err)
	case point == "detach":
		domxml.RemoveDevice(def.Devices, found)
	case point == "update":
		if err := replaceIn(def.Devices, dev); err != nil {
			return "", verr.Status(err)
		}
	}
	text, err := domxml.Format(def)
	if err != nil {
		return "", verr.Status(err)
	}
	f.setText(g.Uuid, text)
	return text, f.hit(point + ".done")
}

func (f *fakeDevices) note(leases []*pb.Lease) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leases = leases
}

func (f *fakeDevices) open(disks []*pb.Disk) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.disks = disks
}

func (f *fakeDevices) AttachDevice(_ context.Context, req *pb.AttachDeviceRequest) (*pb.AttachDeviceResponse, error) {
	f.note(req.Leases)
	f.open(req.Disks)
	live, err := f.edit("attach", req.Guest, req.LiveXml, req.DeviceXml)
	return &pb.AttachDeviceResponse{LiveXml: live, Change: tellDevices(&pb.Change{}, req.LiveXml, live)}, err
}

func (f *fakeDevices) DetachDevice(_ context.Context, req *pb.DetachDeviceRequest) (*pb.DetachDeviceResponse, error) {
	f.mu.Lock()
	shy := f.shy
	f.mu.Unlock()
	if shy {
		return &pb.DetachDeviceResponse{}, f.hit("detach")
	}
	live, err := f.edit("detach", req.Guest, req.LiveXml, req.DeviceXml)
	return &pb.DetachDeviceResponse{Gone: true, LiveXml: live, Change: tellDevices(&pb.Change{}, req.LiveXml, live)}, err
}

func (f *fakeDevices) UpdateDevice(_ context.Context, req *pb.UpdateDeviceRequest) (*pb.UpdateDeviceResponse, error) {
	f.note(req.Leases)
	f.open(req.Disks)
	live, err := f.edit("update", req.Guest, req.LiveXml, req.DeviceXml)
	return &pb.UpdateDeviceResponse{LiveXml: live, Change: &pb.Change{Events: []*pb.Event{
		{Event: &pb.Event_DiskChange{DiskChange: &pb.DiskChangeEvent{Alias: "drive"}}},
	}}}, err
}

// died is what the supervisor says of a call whose driver has died under it.
func died(t *testing.T) error {
	t.Helper()
	st, err := status.New(codes.Unavailable, "driver ended").WithDetails(
		&basev1.VirError{Code: int32(verr.OperationFailed), Message: "driver ended"}, &basev1.CallInfo{Outcome: basev1.Outcome_OUTCOME_UNKNOWN})
	if err != nil {
		t.Fatal(err)
	}
	return st.Err()
}

// heard reads n events about devices as "+alias", "-alias", "!alias" or "~alias".
func heard(t *testing.T, s *event.Subscription, n int) []string {
	t.Helper()
	got := []string{}
	timeout := time.After(10 * time.Second)
	for len(got) < n {
		select {
		case e := <-s.C():
			switch d := e.Domain.GetEvent().(type) {
			case *pb.Event_DeviceAdded:
				got = append(got, "+"+d.DeviceAdded.Alias)
			case *pb.Event_DeviceRemoved:
				got = append(got, "-"+d.DeviceRemoved.Alias)
			case *pb.Event_DeviceRemovalFailed:
				got = append(got, "!"+d.DeviceRemovalFailed.Alias)
			case *pb.Event_DiskChange:
				got = append(got, "~"+d.DiskChange.Alias)
			}
		case <-timeout:
			t.Fatalf("only %v of %d events", got, n)
		}
	}
	return got
}

// locked lists the images that are locked.
func (l *fakeLocks) locked() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	paths := []string{}
	for path := range l.held {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths
}

func (l *fakeLocks) stay(away error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away = away
}
