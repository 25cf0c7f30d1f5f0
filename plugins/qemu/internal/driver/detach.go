package driver

import (
	"context"
	"slices"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/cmdline"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/define"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/guest"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// DetachDevice implements hypervisor.Devices. Buses without a say of the guest's (USB, SCSI) give a device up at once; on PCI the guest's
// system has to, and one that has none never does.
func (d *Driver) DetachDevice(ctx context.Context, req *pb.DetachDeviceRequest) (*pb.DetachDeviceResponse, error) {
	like, c, err := d.beginDevice(ctx, req)
	if err != nil {
		return nil, err
	}
	defer c.end(ctx)
	dev, err := findDevice(c.life.live(), like)
	if err != nil {
		return nil, err
	}
	if err := canUnplug(c.life.live(), dev); err != nil {
		return nil, err
	}
	gone := dev.Kind == "lease"
	if !gone {
		if gone, err = c.unplug(ctx, dev.Alias()); err != nil || !gone {
			return &pb.DetachDeviceResponse{}, err
		}
	}
	if err := c.life.drop(ctx, c.talk, dev); err != nil {
		c.life.devices.overdue.Store(true)
		return nil, verr.New(verr.OperationFailed, "device '%s' has left the guest, and not QEMU yet: %w", dev.Alias(), err)
	}
	if err := c.guest.SetFacts(ctx, facts(c.life.live())); err != nil {
		return nil, err
	}
	return &pb.DetachDeviceResponse{Gone: true, LiveXml: c.life.xml(), Change: removed(dev.Alias())}, nil
}

// findDevice finds a device by its alias, or else as clients name it.
func findDevice(live *libvirtxml.Domain, like domxml.Device) (domxml.Device, error) {
	if live.Devices == nil {
		live = &libvirtxml.Domain{Devices: &libvirtxml.DomainDeviceList{}}
	}
	if alias := like.Alias(); alias != "" {
		return domxml.FindAlias(live.Devices, alias)
	}
	return domxml.FindDevice(live.Devices, like)
}

// canUnplug refuses what a guest cannot lose while it lives.
func canUnplug(live *libvirtxml.Domain, dev domxml.Device) error {
	if !define.CanPlug(dev.Kind) {
		return verr.New(verr.OperationUnsupported, "live detach of device '%s' is not supported", dev.Kind)
	}
	switch v := dev.Value.(type) {
	case *libvirtxml.DomainDisk:
		if !define.HotBus(v.Target.Bus) {
			return verr.New(verr.OperationUnsupported, "This type of disk cannot be hot unplugged")
		}
	case *libvirtxml.DomainInput:
		if v.Bus != "usb" && v.Bus != "virtio" {
			return verr.New(verr.OperationUnsupported, "input device on bus '%s' cannot be detached", v.Bus)
		}
	case *libvirtxml.DomainController:
		if v.Type != "scsi" && v.Type != "usb" && v.Type != "virtio-serial" {
			return verr.New(verr.OperationUnsupported, "'%s' controller cannot be hot unplugged.", v.Type)
		}
		if inUse(live, v) {
			return verr.New(verr.OperationFailed, "device cannot be detached: device is busy")
		}
	}
	if dev.Kind != "lease" && dev.Alias() == "" {
		return verr.New(verr.OperationFailed, "device cannot be detached without a device alias")
	}
	return nil
}

// inUse reports whether something is plugged into a controller.
func inUse(live *libvirtxml.Domain, c *libvirtxml.DomainController) bool {
	index := *c.Index
	is := func(n *uint) bool { return n == nil && index == 0 || n != nil && *n == index }
	return slices.ContainsFunc(domxml.Devices(live.Devices), func(d domxml.Device) bool {
		a := d.Address()
		switch {
		case a == nil:
			return false
		case c.Type == "usb":
			return a.USB != nil && is(a.USB.Bus)
		case c.Type == "virtio-serial":
			return a.VirtioSerial != nil && is(a.VirtioSerial.Controller)
		}
		k, ok := d.Value.(*libvirtxml.DomainDisk)
		return ok && k.Target.Bus == c.Type && a.Drive != nil && is(a.Drive.Controller)
	})
}

// unplug asks the guest to give a device up and waits for it for a while.
func (c *change) unplug(ctx context.Context, alias string) (gone bool, err error) {
	news, forget := c.life.devices.await(alias)
	defer forget()
	if err := c.life.pass(ctx); err != nil {
		return false, err
	}
	switch err := c.talk.tell(ctx, cmdline.DeviceDel(alias)); {
	case qmp.IsClass(err, "DeviceNotFound"):
		return true, nil // it has gone before, and nobody has seen it go
	case err != nil:
		return false, guest.Explain(ctx, "device_del", err)
	}
	patience := time.NewTimer(c.driver.unplugTime)
	defer patience.Stop()
	for {
		select {
		case n := <-news:
			switch {
			case n.Refused:
				c.driver.publish(c.life, refused(alias))
				return false, verr.New(verr.OperationFailed, "unplug of device was rejected by the guest")
			case n.Alias == alias:
				return true, nil
			}
			present, err := peripherals(ctx, c.talk) // events were missed
			if err == nil && !slices.Contains(present, alias) {
				return true, nil
			}
		case <-patience.C:
			return false, nil
		case <-c.guest.Finished():
			return false, errNotRunning
		case <-ctx.Done():
			return false, nil
		}
	}
}

// drop ends what is left of a device that has gone from QEMU: what was behind it, its place in the live definition, its locks' descriptors,
// and the ownership of its files, in this order. It may be repeated, and leaveStrangers makes up for descriptors that it did not get to.
func (l *life) drop(ctx context.Context, t talk, dev domxml.Device) error {
	if err := l.pass(ctx); err != nil {
		return err
	}
	if err := l.remove(ctx, t, cmdline.Behind(dev)...); err != nil {
		return err
	}
	live := cmdline.Clone(l.live())
	own, err := findDevice(live, dev)
	if err != nil {
		return err
	}
	var files []target
	if k, ok := own.Value.(*libvirtxml.DomainDisk); ok {
		files = diskTargets(k)
	}
	domxml.RemoveDevice(live.Devices, own)
	if err := l.pass(ctx); err != nil {
		return err
	}
	if err := l.show(live); err != nil {
		return err
	}
	if err := l.pass(ctx); err != nil {
		return err
	}
	if err := l.leaveLocks(ctx, t, lockUser(dev)); err != nil {
		return err
	}
	l.takeBack(files)
	return l.pass(ctx)
}

// dropMissing drops the devices that are in the live definition and not in QEMU, and returns their aliases. Descriptors of locks that are for
// devices without a place in it go, too.
func (l *life) dropMissing(ctx context.Context, t talk) (gone []string, err error) {
	present, err := peripherals(ctx, t)
	if err != nil {
		return nil, err
	}
	for _, dev := range domxml.Devices(l.live().Devices) {
		if alias := dev.Alias(); !inQEMU(dev) || slices.Contains(present, alias) {
			continue
		}
		l.log.Info("device of guest has gone", "device", dev.Alias())
		if err := l.drop(ctx, t, dev); err != nil {
			return gone, err
		}
		gone = append(gone, dev.Alias())
	}
	return gone, l.leaveStrangers(ctx, t)
}

// inQEMU reports whether QEMU knows a device by its alias, unless it has gone.
func inQEMU(dev domxml.Device) bool {
	switch v := dev.Value.(type) {
	case *libvirtxml.DomainDisk, *libvirtxml.DomainInterface, *libvirtxml.DomainRNG:
		return dev.Alias() != ""
	case *libvirtxml.DomainChannel:
		return dev.Alias() != "" && v.Target != nil && v.Target.VirtIO != nil
	case *libvirtxml.DomainInput:
		return dev.Alias() != "" && (v.Bus == "usb" || v.Bus == "virtio")
	case *libvirtxml.DomainController:
		return dev.Alias() != "" && (v.Type == "scsi" || v.Type == "virtio-serial")
	}
	return false
}
