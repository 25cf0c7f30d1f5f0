package guest

import (
	"slices"
	"testing"
	"time"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

func TestNewsOfDevices(t *testing.T) {
	f := newFake(t)
	news := make(chan DeviceNews, 16)
	f.cfg.Devices = func(_ *Guest, n DeviceNews) { news <- n }
	g := f.begin(false)
	f.server.Event("DEVICE_DELETED", map[string]any{"path": "/machine/peripheral/virtio-disk1/virtio-backend"})
	f.server.Event("DEVICE_DELETED", "nonsense")
	f.server.Event("DEVICE_DELETED", map[string]any{"device": "virtio-disk1", "path": "/machine/peripheral/virtio-disk1"})
	f.server.Event("DEVICE_UNPLUG_GUEST_ERROR", map[string]any{"device": "net0", "path": "/machine/peripheral/net0"})
	f.server.HangUp() // whatever happens until it is connected again is missed
	var got []DeviceNews
	for len(got) < 3 {
		select {
		case n := <-news:
			got = append(got, n)
		case <-time.After(10 * time.Second):
			t.Fatalf("heard only %v", got)
		}
	}
	if want := []DeviceNews{{Alias: "virtio-disk1"}, {Alias: "net0", Refused: true}, {}}; !slices.Equal(got, want) {
		t.Errorf("heard %v, want %v", got, want)
	}
	g.Close()
}

func TestFactsOfAnotherDevice(t *testing.T) {
	f := newFake(t)
	g := f.begin(false)
	if err := g.SetFacts(t.Context(), Facts{Disks: map[string]Disk{"libvirt-9-format": {Alias: "usb-disk1", Path: "/nine"}}}); err != nil {
		t.Fatal(err)
	}
	f.server.Event("BLOCK_IO_ERROR", map[string]any{"node-name": "libvirt-9-format", "action": "report"})
	want := pb.IOErrorEvent{Alias: "usb-disk1", Path: "/nine"}
	if e := (<-f.heard).GetEvents()[0].GetIoError(); e.GetAlias() != want.Alias || e.GetPath() != want.Path {
		t.Errorf("told of %v", e)
	}
	g.Close()
	if err := g.SetFacts(t.Context(), Facts{}); err == nil {
		t.Error("a guest that was let go of took facts")
	}
}
