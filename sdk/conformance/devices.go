package conformance

import (
	"context"
	"crypto/rand"
	"slices"
	"time"

	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// needDevice skips the check for drivers that cannot change devices, and returns one to attach.
func (b *bench) needDevice() string {
	b.Helper()
	b.need("DeviceService")
	if b.factory.Device == nil {
		b.Skip("the factory has no device")
	}
	return b.factory.Device(b.T)
}

func (b *bench) devices() pb.DeviceServiceClient { return pb.NewDeviceServiceClient(b.host.Conn) }

func (b *bench) tryAttach(g *guest, device string, leases ...*pb.Lease) (*pb.AttachDeviceResponse, error) {
	return b.devices().AttachDevice(b.ctx(), &pb.AttachDeviceRequest{
		Guest: g.Guest, Handle: g.handle, DeviceXml: device, LiveXml: g.live, Leases: leases,
	})
}

// attach attaches a device, which must succeed, and returns it as it stands in the live definition.
func (b *bench) attach(g *guest, device string, leases ...*pb.Lease) string {
	b.Helper()
	rsp, err := b.tryAttach(g, device, leases...)
	if err != nil {
		b.Fatalf("attach device: %v", err)
	}
	g.live = rsp.GetLiveXml()
	dev, err := domxml.ParseDevice(rsp.GetDeviceXml())
	if err != nil {
		b.Fatalf("device of the answer: %v", err)
	}
	if dev.Alias() == "" {
		b.Errorf("device of the answer has no alias: %s", rsp.GetDeviceXml())
	}
	if !slices.ContainsFunc(rsp.GetChange().GetEvents(), func(e *pb.Event) bool { return e.GetDeviceAdded().GetAlias() == dev.Alias() }) {
		b.Errorf("change %v does not tell that %q was added", rsp.GetChange(), dev.Alias())
	}
	b.wantDevice(g, dev, true)
	return rsp.GetDeviceXml()
}

func (b *bench) tryDetach(g *guest, device string) (*pb.DetachDeviceResponse, error) {
	return b.devices().DetachDevice(b.ctx(), &pb.DetachDeviceRequest{
		Guest: g.Guest, Handle: g.handle, DeviceXml: device, LiveXml: g.live,
	})
}

// detach detaches a device, which must succeed at once.
func (b *bench) detach(g *guest, device string) {
	b.Helper()
	dev, err := domxml.ParseDevice(device)
	if err != nil {
		b.Fatal(err)
	}
	rsp, err := b.tryDetach(g, device)
	if err != nil || !rsp.GetGone() {
		b.Fatalf("detach device: %v, %v", rsp, err)
	}
	g.live = rsp.GetLiveXml()
	if !slices.ContainsFunc(rsp.GetChange().GetEvents(), func(e *pb.Event) bool { return e.GetDeviceRemoved().GetAlias() == dev.Alias() }) {
		b.Errorf("change %v does not tell that %q was removed", rsp.GetChange(), dev.Alias())
	}
	b.wantDevice(g, dev, false)
}

// wantDevice fails unless the live definitions that the core knows and that Recover returns have a device, or have not.
func (b *bench) wantDevice(g *guest, dev domxml.Device, want bool) {
	b.Helper()
	req := &pb.RecoverRequest{Guest: g.Guest, Handle: g.handle, Xml: g.live, Id: g.id}
	rsp, err := b.driver.Recover(b.ctx(), req)
	if err != nil {
		b.Fatalf("recover: %v", err)
	}
	for what, text := range map[string]string{"the answer": g.live, "Recover": rsp.GetLiveXml()} {
		live, err := domxml.Parse(text)
		if err != nil {
			b.Errorf("live definition of %s: %v", what, err)
			continue
		}
		if has := len(domxml.MatchDevices(live.Devices, dev)) > 0; has != want {
			b.Errorf("live definition of %s has the device: %v, want %v\n%s", what, has, want, text)
		}
	}
}

func deviceComesAndGoes(b *bench) {
	device := b.needDevice()
	g := b.started("conformance")
	for range 2 { // it leaves nothing that the second one stumbles over
		attached := b.attach(g, device)
		if _, err := b.tryAttach(g, device); err == nil {
			b.Error("a device was attached twice")
		}
		b.detach(g, attached)
		_, err := b.tryDetach(g, attached)
		b.wantCode("detach what is not there", err, verr.DeviceMissing)
	}
	b.stop(g)
	_, err := b.tryAttach(g, device)
	b.wantCode("attach to a guest that is off", err, verr.OperationInvalid)
}

func deviceOutlivesTheDriver(b *bench) {
	device := b.needDevice()
	var g *guest
	var attached string
	b.restarted(
		func() { g = b.started("conformance"); attached = b.attach(g, device) },
		func() {
			dev, err := domxml.ParseDevice(attached)
			if err != nil {
				b.Fatal(err)
			}
			b.wantDevice(g, dev, true)
			b.detach(g, attached)
		})
}

func deviceLockIsHeld(b *bench) {
	device := b.needDevice()
	path, file := b.lockFile()
	g := b.started("conformance")
	attached := b.attach(g, device, &pb.Lease{Token: b.host.SendFile(b.T, file), Resource: path}, &pb.Lease{Resource: "one without a descriptor"})
	if err := file.Close(); err != nil {
		b.Fatal(err)
	}
	if !b.locked(path) {
		b.Error("the lock was dropped while the guest has the device")
	}
	b.detach(g, attached)
	if b.locked(path) {
		b.Error("the lock is held although the device was detached")
	}
}

func refusedDeviceLeavesNothing(b *bench) {
	device := b.needDevice()
	g := b.started("conformance")
	dev, err := domxml.ParseDevice(device)
	if err != nil {
		b.Fatal(err)
	}
	path, file := b.lockFile()
	arrives := &pb.Lease{Token: b.host.SendFile(b.T, file), Resource: path}
	if err := file.Close(); err != nil {
		b.Fatal(err)
	}
	never := make([]byte, 16)
	_, _ = rand.Read(never) // never fails
	// Long enough for the driver to take the first descriptor on a busy machine; the second one is waited for until the end.
	ctx, cancel := context.WithTimeout(b.ctx(), 2*time.Second)
	defer cancel()
	_, err = b.devices().AttachDevice(ctx, &pb.AttachDeviceRequest{
		Guest: g.Guest, Handle: g.handle, DeviceXml: device, LiveXml: g.live, Leases: []*pb.Lease{arrives, {Token: never, Resource: "nothing"}},
	})
	if err == nil {
		b.Fatal("the device was attached without its lock")
	}
	b.wantDevice(g, dev, false)
	if b.locked(path) {
		b.Error("the lock of a device that was not attached is held")
	}
	_, err = b.tryAttach(g, "<fish/>")
	b.wantCode("attach what is no device", err, verr.ConfigUnsupported)
	b.attach(g, device)
}
