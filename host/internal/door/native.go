package door

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/host/internal/connection"
)

func connectDomainXMLFromNative(
	ctx context.Context, s *session, args *libvirt.ConnectDomainXMLFromNativeArgs,
) (*libvirt.ConnectDomainXMLFromNativeRet, error) {
	if err := checkFlags(args.Flags, 0, "virConnectDomainXMLFromNative"); err != nil {
		return nil, err
	}
	d, err := domainsThat[connection.Natives](s)
	if err != nil {
		return nil, err
	}
	xml, err := d.FromNative(ctx, args.NativeFormat, args.NativeConfig)
	return &libvirt.ConnectDomainXMLFromNativeRet{DomainXML: xml}, err
}

func connectDomainXMLToNative(
	ctx context.Context, s *session, args *libvirt.ConnectDomainXMLToNativeArgs,
) (*libvirt.ConnectDomainXMLToNativeRet, error) {
	if err := checkFlags(args.Flags, 0, "virConnectDomainXMLToNative"); err != nil {
		return nil, err
	}
	d, err := domainsThat[connection.Natives](s)
	if err != nil {
		return nil, err
	}
	native, err := d.ToNative(ctx, args.NativeFormat, args.DomainXML)
	return &libvirt.ConnectDomainXMLToNativeRet{NativeConfig: native}, err
}
