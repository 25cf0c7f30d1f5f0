package door

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/host/internal/connection"
)

// Flags of changes of devices: virDomainDeviceModifyFlags.
const (
	deviceLive     = 1
	impactKnown    = 3
	modifyKnown    = 7
	attachFunction = "virDomainAttachDeviceFlags"
	detachFunction = "virDomainDetachDeviceFlags"
)

func domainAttachDevice(ctx context.Context, s *session, args *libvirt.DomainAttachDeviceArgs) error {
	return attachDevice(ctx, s, args.Dom, args.XML, deviceLive)
}

func domainAttachDeviceFlags(ctx context.Context, s *session, args *libvirt.DomainAttachDeviceFlagsArgs) error {
	return attachDevice(ctx, s, args.Dom, args.XML, args.Flags)
}

func attachDevice(ctx context.Context, s *session, dom libvirt.Domain, xml string, flags uint32) error {
	if err := checkFlags(flags, impactKnown, attachFunction); err != nil {
		return err
	}
	return onDomain(ctx, s, dom, func(ctx context.Context, d connection.Devices) error { return d.AttachDevice(ctx, xml, flags) })
}

func domainDetachDevice(ctx context.Context, s *session, args *libvirt.DomainDetachDeviceArgs) error {
	return detachDevice(ctx, s, args.Dom, args.XML, deviceLive)
}

func domainDetachDeviceFlags(ctx context.Context, s *session, args *libvirt.DomainDetachDeviceFlagsArgs) error {
	return detachDevice(ctx, s, args.Dom, args.XML, args.Flags)
}

func detachDevice(ctx context.Context, s *session, dom libvirt.Domain, xml string, flags uint32) error {
	if err := checkFlags(flags, impactKnown, detachFunction); err != nil {
		return err
	}
	return onDomain(ctx, s, dom, func(ctx context.Context, d connection.Devices) error { return d.DetachDevice(ctx, xml, flags) })
}

func domainDetachDeviceAlias(ctx context.Context, s *session, args *libvirt.DomainDetachDeviceAliasArgs) error {
	if err := checkFlags(args.Flags, impactKnown, "virDomainDetachDeviceAlias"); err != nil {
		return err
	}
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Devices) error {
		return d.DetachDeviceByAlias(ctx, args.Alias, args.Flags)
	})
}

func domainUpdateDeviceFlags(ctx context.Context, s *session, args *libvirt.DomainUpdateDeviceFlagsArgs) error {
	if err := checkFlags(uint32(args.Flags), modifyKnown, "virDomainUpdateDeviceFlags"); err != nil {
		return err
	}
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Devices) error {
		return d.UpdateDevice(ctx, args.XML, uint32(args.Flags))
	})
}
