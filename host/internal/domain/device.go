package domain

import (
	"context"
	"crypto/rand"
	"net"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// deviceForce is VIR_DOMAIN_DEVICE_MODIFY_FORCE.
const deviceForce = 1 << 2

// AttachDevice adds a device, given as XML; flags are virDomainModificationImpact. A drive for media that is there already gets the
// medium in the XML instead, as with libvirt. With both the guest and its definition to be changed, the definition is checked first and
// written last, in the same moment as the live one.
func (d *Domain) AttachDevice(ctx context.Context, xml string, flags uint32) error {
	dev, err := domxml.ParseDevice(xml)
	if err != nil {
		return err
	}
	if err := giveMAC(dev); err != nil {
		return err
	}
	return d.changeDevice(ctx, "attach-device", flags, deviceChange{
		edit: func(def *libvirtxml.Domain) error { return addTo(def.Devices, dev, verr.OperationInvalid) },
		plan: func(live *libvirtxml.Domain) (*deviceCall, error) {
			if drive := driveFor(live.Devices, dev); drive.Value != nil {
				return planUpdate(drive, dev, false)
			}
			return planAttach(live, dev)
		},
	})
}

// DetachDevice takes away the device that an XML means; flags are virDomainModificationImpact. A guest may need its time to give a device
// up, or refuse: it is gone when the event says so.
func (d *Domain) DetachDevice(ctx context.Context, xml string, flags uint32) error {
	like, err := domxml.ParseDevice(xml)
	if err != nil {
		return err
	}
	return d.detach(ctx, flags, func(list *libvirtxml.DomainDeviceList) (domxml.Device, error) { return domxml.FindDevice(list, like) })
}

// DetachDeviceByAlias takes away the device with an alias; flags are virDomainModificationImpact.
func (d *Domain) DetachDeviceByAlias(ctx context.Context, alias string, flags uint32) error {
	return d.detach(ctx, flags, func(list *libvirtxml.DomainDeviceList) (domxml.Device, error) { return domxml.FindAlias(list, alias) })
}

func (d *Domain) detach(ctx context.Context, flags uint32, find func(*libvirtxml.DomainDeviceList) (domxml.Device, error)) error {
	return d.changeDevice(ctx, "detach-device", flags, deviceChange{
		edit: func(def *libvirtxml.Domain) error {
			found, err := find(def.Devices)
			if err != nil {
				return err
			}
			domxml.RemoveDevice(def.Devices, found)
			return nil
		},
		plan: func(live *libvirtxml.Domain) (*deviceCall, error) {
			found, err := find(live.Devices)
			if err != nil {
				return nil, err
			}
			return planDetach(live, found)
		},
	})
}

// UpdateDevice changes the device that an XML means into what it says; flags are virDomainDeviceModifyFlags.
func (d *Domain) UpdateDevice(ctx context.Context, xml string, flags uint32) error {
	dev, err := domxml.ParseDevice(xml)
	if err != nil {
		return err
	}
	return d.changeDevice(ctx, "update-device", flags&^deviceForce, deviceChange{
		edit: func(def *libvirtxml.Domain) error { return replaceIn(def.Devices, dev) },
		plan: func(live *libvirtxml.Domain) (*deviceCall, error) {
			present, err := domxml.FindDevice(live.Devices, dev)
			if err != nil {
				return nil, err
			}
			return planUpdate(present, dev, flags&deviceForce != 0)
		},
	})
}

// macPrefix begins the addresses that are made up, as with libvirt.
var macPrefix = []byte{0x52, 0x54, 0x00}

// giveMAC makes up the address of a network card that has none, so that it is the same in both definitions.
func giveMAC(dev domxml.Device) error {
	card, ok := dev.Value.(*libvirtxml.DomainInterface)
	if !ok || card.MAC != nil {
		return nil
	}
	mac := append(net.HardwareAddr(nil), macPrefix...)
	mac = append(mac, make([]byte, 3)...)
	rand.Read(mac[len(macPrefix):]) // never fails
	card.MAC = &libvirtxml.DomainInterfaceMAC{Address: mac.String()}
	return nil
}

// addTo adds a device to those of a definition, unless what it needs is taken.
func addTo(list *libvirtxml.DomainDeviceList, dev domxml.Device, taken verr.Code) error {
	switch v := dev.Value.(type) {
	case *libvirtxml.DomainDisk:
		if len(domxml.MatchDevices(list, dev)) > 0 {
			return verr.New(taken, "target %s already exists", v.Target.Dev)
		}
	case *libvirtxml.DomainController:
		if len(domxml.MatchDevices(list, dev)) > 0 {
			return verr.New(taken, "target %s:%d already exists", v.Type, *v.Index)
		}
	case *libvirtxml.DomainLease:
		if len(domxml.MatchDevices(list, dev)) > 0 {
			return verr.New(verr.OperationInvalid, "Lease %s in lockspace %s already exists", v.Key, v.Lockspace)
		}
	}
	_, err := domxml.AddDevice(list, dev)
	return err
}

// replaceIn puts a device where the one is that it means. It stays plugged in where it is, unless its XML says otherwise.
func replaceIn(list *libvirtxml.DomainDeviceList, dev domxml.Device) error {
	present, err := domxml.FindDevice(list, dev)
	if err != nil {
		return err
	}
	switch v := dev.Value.(type) {
	case *libvirtxml.DomainDisk:
		old := present.Value.(*libvirtxml.DomainDisk)
		if v.Address == nil && (v.Target.Bus == "" || v.Target.Bus == old.Target.Bus) {
			v.Address = old.Address
		}
		*old = *v
	case *libvirtxml.DomainInterface:
		old := present.Value.(*libvirtxml.DomainInterface)
		if v.Address == nil {
			v.Address = old.Address
		}
		*old = *v
	default:
		return verr.New(verr.OperationUnsupported, "persistent update of device '%s' is not supported", dev.Kind)
	}
	return nil
}

// driveFor returns the drive for media that a disk would be another one of, or nothing.
func driveFor(list *libvirtxml.DomainDeviceList, dev domxml.Device) domxml.Device {
	disk, ok := dev.Value.(*libvirtxml.DomainDisk)
	if !ok || disk.Device != "cdrom" && disk.Device != "floppy" {
		return domxml.Device{}
	}
	for _, have := range domxml.MatchDevices(list, dev) {
		if have.Value.(*libvirtxml.DomainDisk).Device == disk.Device {
			return have
		}
	}
	return domxml.Device{}
}

// planAttach checks what the core can check of a device to be attached, and says what to ask of the driver.
func planAttach(live *libvirtxml.Domain, dev domxml.Device) (*deviceCall, error) {
	text, err := dev.XML()
	if err != nil {
		return nil, err
	}
	before := len(domxml.MatchDevices(live.Devices, dev))
	if err := addTo(live.Devices, dev, verr.OperationFailed); err != nil {
		return nil, err
	}
	return &deviceCall{
		opens: dev,
		ask: func(ctx context.Context, c *deviceContext) (*deviceAnswer, error) {
			rsp, err := c.client.AttachDevice(ctx, &pb.AttachDeviceRequest{
				Guest: c.guest, Handle: c.handle, DeviceXml: text, LiveXml: c.live, Leases: c.leases, Disks: c.disks,
			})
			return &deviceAnswer{rsp.GetChange(), rsp.GetLiveXml()}, err
		},
		happened: func(now *libvirtxml.Domain) bool { return len(domxml.MatchDevices(now.Devices, dev)) > before },
	}, nil
}

// planDetach says what to ask of the driver for a device of the live definition to go.
func planDetach(live *libvirtxml.Domain, found domxml.Device) (*deviceCall, error) {
	text, err := found.XML()
	if err != nil {
		return nil, err
	}
	before := len(domxml.MatchDevices(live.Devices, found))
	return &deviceCall{
		ask: func(ctx context.Context, c *deviceContext) (*deviceAnswer, error) {
			rsp, err := c.client.DetachDevice(ctx, &pb.DetachDeviceRequest{
				Guest: c.guest, Handle: c.handle, DeviceXml: text, LiveXml: c.live,
			})
			if err == nil && rsp.GetGone() && rsp.GetLiveXml() == "" {
				err = verr.Status(verr.New(verr.Internal, "driver says that a device is gone, and not what is left"))
			}
			return &deviceAnswer{rsp.GetChange(), rsp.GetLiveXml()}, err
		},
		happened: func(now *libvirtxml.Domain) bool { return len(domxml.MatchDevices(now.Devices, found)) < before },
	}, nil
}

// planUpdate says what to ask of the driver for a device of the live definition to become another.
func planUpdate(present, dev domxml.Device, force bool) (*deviceCall, error) {
	if disk, ok := dev.Value.(*libvirtxml.DomainDisk); ok && disk.Device == "" {
		disk.Device = present.Value.(*libvirtxml.DomainDisk).Device
	}
	text, err := dev.XML()
	if err != nil {
		return nil, err
	}
	was, err := present.XML()
	if err != nil {
		return nil, err
	}
	return &deviceCall{
		opens: dev,
		ask: func(ctx context.Context, c *deviceContext) (*deviceAnswer, error) {
			rsp, err := c.client.UpdateDevice(ctx, &pb.UpdateDeviceRequest{
				Guest: c.guest, Handle: c.handle, DeviceXml: text, PresentXml: was, LiveXml: c.live,
				Leases: c.leases, Disks: c.disks, Force: force,
			})
			return &deviceAnswer{rsp.GetChange(), rsp.GetLiveXml()}, err
		},
		happened: func(now *libvirtxml.Domain) bool {
			found, err := domxml.FindDevice(now.Devices, dev)
			return err == nil && looksLike(found, dev)
		},
	}, nil
}

// looksLike reports whether a device has what an update can change: the same medium, the same state of its link.
func looksLike(have, want domxml.Device) bool {
	switch v := want.Value.(type) {
	case *libvirtxml.DomainDisk:
		return domxml.SameSource(have.Value.(*libvirtxml.DomainDisk).Source, v.Source)
	case *libvirtxml.DomainInterface:
		return linkOf(have.Value.(*libvirtxml.DomainInterface)) == linkOf(v)
	}
	return false
}

func linkOf(n *libvirtxml.DomainInterface) string {
	if n.Link == nil || n.Link.State == "" {
		return "up"
	}
	return n.Link.State
}
