package driver

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/test/internal/define"
	"github.com/lodgevirt/lodge/plugins/test/internal/fault"
	"github.com/lodgevirt/lodge/plugins/test/internal/record"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// unplugTime is how long a guest takes that takes its time to give a device up.
const unplugTime = 100 * time.Millisecond

// AttachDevice writes the device into the guest's record, where Recover finds it. Whatever fails afterwards takes it out again.
func (d *Driver) AttachDevice(ctx context.Context, req *pb.AttachDeviceRequest) (*pb.AttachDeviceResponse, error) {
	dev, err := domxml.ParseDevice(req.GetDeviceXml())
	if err != nil {
		return nil, err
	}
	leases, err := d.takeLeases(ctx, req.GetLeases())
	if err != nil {
		return nil, err
	}
	defer func() { closeAll(leases) }()
	var before record.Record
	g, err := d.redevise(ctx, req.GetGuest(), "attach", req.GetLiveXml(), &before, func(list *libvirtxml.DomainDeviceList) error {
		dev = named(list, dev)
		_, err := domxml.AddDevice(list, dev)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := d.hit(ctx, g.identity.GetUuid(), "attach.done"); err != nil {
		d.restore(g, before)
		return nil, err
	}
	g.keep(user(dev), leases)
	leases = nil
	rsp := &pb.AttachDeviceResponse{LiveXml: g.snapshot().Live, Change: &pb.Change{}}
	if alias := dev.Alias(); alias != "" {
		e := &pb.Event{Event: &pb.Event_DeviceAdded{DeviceAdded: &pb.DeviceAddedEvent{Alias: alias}}}
		rsp.Change.Events = append(rsp.Change.Events, e)
	}
	rsp.DeviceXml, err = shown(rsp.LiveXml, dev)
	return rsp, err
}

// shown is a device as it stands in a live definition.
func shown(live string, dev domxml.Device) (string, error) {
	def, err := domxml.Parse(live)
	if err != nil {
		return "", err
	}
	found, err := domxml.FindDevice(def.Devices, dev)
	if err != nil {
		return "", err
	}
	return found.XML()
}

// user is what descriptors of locks are kept for: a device that was attached, or a lease.
func user(dev domxml.Device) string {
	if l, ok := dev.Value.(*libvirtxml.DomainLease); ok {
		return l.Lockspace + "/" + l.Key
	}
	if k, ok := dev.Value.(*libvirtxml.DomainDisk); ok && k.Target != nil {
		return k.Target.Dev
	}
	return dev.Alias()
}

// named gives a device an alias that no other has. A lease has none.
func named(list *libvirtxml.DomainDeviceList, dev domxml.Device) domxml.Device {
	if dev.Kind == "lease" || dev.Alias() != "" {
		return dev
	}
	for n := 0; ; n++ {
		alias := fmt.Sprintf("%s%d", dev.Kind, n)
		if _, err := domxml.FindAlias(list, alias); err == nil {
			continue
		}
		text, err := dev.XML()
		if err != nil {
			return dev
		}
		end := strings.LastIndex(text, "</")
		if end < 0 { // an empty element
			text = strings.TrimSuffix(strings.TrimSpace(text), "/>") + "></" + dev.Kind + ">"
			end = strings.LastIndex(text, "</")
		}
		again, err := domxml.ParseDevice(text[:end] + "<alias name='" + alias + "'/>" + text[end:])
		if err != nil {
			return dev
		}
		return again
	}
}

// DetachDevice takes the device out of the guest's record, or has the guest take its time or refuse, if its definition says so.
func (d *Driver) DetachDevice(ctx context.Context, req *pb.DetachDeviceRequest) (*pb.DetachDeviceResponse, error) {
	g, err := d.find(req.GetGuest())
	if err != nil {
		return nil, err
	}
	like, err := d.attached(g, req.GetLiveXml(), req.GetDeviceXml())
	if err != nil {
		return nil, err
	}
	if err := d.hit(ctx, g.identity.GetUuid(), fault.UnplugRefused); err != nil {
		e := &pb.Event_DeviceRemovalFailed{DeviceRemovalFailed: &pb.DeviceRemovalFailedEvent{Alias: like.Alias()}}
		d.core.Publish(&pb.WatchEvent{Guest: g.identity, Change: &pb.Change{Events: []*pb.Event{{Event: e}}}})
		return nil, verr.New(verr.OperationFailed, "unplug of device was rejected by the guest: %w", err)
	}
	if err := d.hit(ctx, g.identity.GetUuid(), fault.UnplugSlow); err != nil {
		d.later(g, req, like.Alias())
		return &pb.DetachDeviceResponse{}, nil
	}
	live, err := d.unplug(ctx, req)
	if err != nil {
		return nil, err
	}
	if err := d.hit(ctx, g.identity.GetUuid(), "detach.done"); err != nil {
		return nil, err
	}
	return &pb.DetachDeviceResponse{Gone: true, LiveXml: live, Change: removed(like.Alias())}, nil
}

// attached finds a device of a guest.
func (d *Driver) attached(g *guest, live, device string) (domxml.Device, error) {
	like, err := domxml.ParseDevice(device)
	if err != nil {
		return like, err
	}
	if own := g.snapshot().Live; own != "" {
		live = own
	}
	def, err := domxml.Parse(live)
	if err != nil {
		return like, err
	}
	return domxml.FindDevice(def.Devices, like)
}

// unplug removes a device and returns the live definition without it.
func (d *Driver) unplug(ctx context.Context, req *pb.DetachDeviceRequest) (live string, err error) {
	like, err := domxml.ParseDevice(req.GetDeviceXml())
	if err != nil {
		return "", err
	}
	var gone string
	var before record.Record
	g, err := d.redevise(ctx, req.GetGuest(), "detach", req.GetLiveXml(), &before, func(list *libvirtxml.DomainDeviceList) error {
		found, err := domxml.FindDevice(list, like)
		if err != nil {
			return err
		}
		gone = user(found)
		domxml.RemoveDevice(list, found)
		return nil
	})
	if err != nil {
		return "", err
	}
	g.keep(gone, nil)
	return g.snapshot().Live, nil
}

// later is a guest that gives a device up after a while, which the core learns from the watch stream.
func (d *Driver) later(g *guest, req *pb.DetachDeviceRequest, alias string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return
	}
	g.timers = append(g.timers, time.AfterFunc(unplugTime, func() {
		live, err := d.unplug(context.Background(), req)
		if err != nil {
			d.log.Warn("guest could not give a device up", "guest", g.identity.GetName(), "error", err)
			return
		}
		d.core.Publish(&pb.WatchEvent{Guest: g.identity, Change: removed(alias), LiveXml: live})
	}))
}

func removed(alias string) *pb.Change {
	if alias == "" {
		return &pb.Change{}
	}
	e := &pb.Event_DeviceRemoved{DeviceRemoved: &pb.DeviceRemovedEvent{Alias: alias}}
	return &pb.Change{Events: []*pb.Event{{Event: e}}}
}

// UpdateDevice changes the medium of a drive or the link of a card.
func (d *Driver) UpdateDevice(ctx context.Context, req *pb.UpdateDeviceRequest) (*pb.UpdateDeviceResponse, error) {
	want, err := domxml.ParseDevice(req.GetDeviceXml())
	if err != nil {
		return nil, err
	}
	leases, err := d.takeLeases(ctx, req.GetLeases())
	if err != nil {
		return nil, err
	}
	defer func() { closeAll(leases) }()
	rsp := &pb.UpdateDeviceResponse{Change: &pb.Change{}}
	var changed string
	var before record.Record
	g, err := d.redevise(ctx, req.GetGuest(), "update", req.GetLiveXml(), &before, func(list *libvirtxml.DomainDeviceList) error {
		found, err := domxml.FindDevice(list, want)
		if err == nil {
			changed = user(found)
			rsp.Change, err = update(found, want)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := d.hit(ctx, g.identity.GetUuid(), "update.done"); err != nil {
		d.restore(g, before)
		return nil, err
	}
	g.keep(changed, leases)
	leases = nil
	rsp.LiveXml = g.snapshot().Live
	rsp.DeviceXml, err = shown(rsp.LiveXml, want)
	return rsp, err
}

// update makes a device what is wanted, as far as that can change, and returns the events.
func update(have, want domxml.Device) (*pb.Change, error) {
	changing := map[string][]string{"disk": {"source", "driver", "backingStore"}, "interface": {"link"}}[have.Kind]
	if changing == nil {
		return nil, verr.New(verr.OperationUnsupported, "live update of device '%s' is not supported", have.Kind)
	}
	if field := domxml.Difference(want, have, changing...); field != "" {
		return nil, verr.New(verr.OperationUnsupported, "cannot modify field '%s' of the device", field)
	}
	switch v := have.Value.(type) {
	case *libvirtxml.DomainInterface:
		v.Link = want.Value.(*libvirtxml.DomainInterface).Link
	case *libvirtxml.DomainDisk:
		source := want.Value.(*libvirtxml.DomainDisk).Source
		if domxml.SameSource(v.Source, source) {
			break
		}
		before, after := domxml.SourcePath(v.Source), domxml.SourcePath(source)
		if v.Device != "cdrom" && v.Device != "floppy" {
			return nil, verr.New(verr.OperationUnsupported, "cannot modify field 'source' of the disk")
		}
		v.Source = source
		e := &pb.Event_DiskChange{DiskChange: &pb.DiskChangeEvent{Alias: have.Alias(), OldPath: before, NewPath: after}}
		return &pb.Change{Events: []*pb.Event{{Event: e}}}, nil
	}
	return &pb.Change{}, nil
}

// redevise changes the devices of a living guest and writes them down, after passing a point. before becomes the guest's record as it was.
func (d *Driver) redevise(
	ctx context.Context, identity *pb.Guest, point, live string, before *record.Record, edit func(*libvirtxml.DomainDeviceList) error,
) (*guest, error) {
	g, err := d.find(identity)
	if err != nil {
		return nil, err
	}
	if err := d.pass(ctx, g, point); err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return nil, notRunning()
	}
	*before = g.record
	if g.record.Live != "" {
		live = g.record.Live
	}
	def, err := domxml.Parse(live)
	if err != nil {
		return nil, err
	}
	if def.Devices == nil {
		def.Devices = &libvirtxml.DomainDeviceList{}
	}
	if err := edit(def.Devices); err != nil {
		return nil, err
	}
	if err := define.Complete(def); err != nil {
		return nil, err
	}
	r := g.record
	if r.Live, err = domxml.Format(def); err != nil {
		return nil, err
	}
	r.Shape = define.ShapeOf(def)
	if err := d.records.Save(&r); err != nil {
		return nil, err
	}
	g.record = r
	return g, nil
}

// restore takes back a change that failed after it was written down.
func (d *Driver) restore(g *guest, before record.Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return
	}
	before.State, before.Reason, before.Ran, before.RunningSince = g.record.State, g.record.Reason, g.record.Ran, g.record.RunningSince
	if err := d.records.Save(&before); err != nil {
		d.log.Error("device of a call that failed is left", "guest", g.identity.GetName(), "error", err)
		return
	}
	g.record = before
}

// keep holds descriptors of locks for a device, in place of those that it had.
func (g *guest) keep(device string, files []*os.File) {
	g.mu.Lock()
	defer g.mu.Unlock()
	closeAll(g.plugged[device])
	delete(g.plugged, device)
	switch {
	case g.over:
		closeAll(files)
	case len(files) > 0:
		if g.plugged == nil {
			g.plugged = map[string][]*os.File{}
		}
		g.plugged[device] = files
	}
}

// relock replaces all descriptors of locks by those of a resume, which are of all devices, and returns what is to be closed.
func (g *guest) relock(files []*os.File) (old []*os.File) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return files
	}
	old = g.leases
	for _, more := range g.plugged {
		old = append(old, more...)
	}
	g.leases, g.plugged = files, nil
	return old
}
