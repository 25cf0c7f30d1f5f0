package door

import (
	"context"
	"errors"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/host/internal/connection"
	"github.com/lodgevirt/lodge/host/internal/xdr"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Flags of queries.
const (
	xmlSecure     = 1
	xmlMigratable = 8
	xmlKnown      = 15

	impactLive   = 1
	impactConfig = 2
	vcpusMaximum = 4
	vcpusGuest   = 8
)

func domainGetXMLDesc(s *session, args *libvirt.DomainGetXMLDescArgs, b []byte) ([]byte, error) {
	flags := uint32(args.Flags)
	if err := checkFlags(flags, xmlKnown, "virDomainGetXMLDesc"); err != nil {
		return b, err
	}
	if err := s.allow(flags, xmlSecure|xmlMigratable, "virDomainGetXMLDesc"); err != nil {
		return b, err
	}
	d, err := s.domain(args.Dom)
	if err != nil {
		return b, err
	}
	xml, err := d.XML(flags)
	if errors.Is(err, connection.ErrUnread) {
		return b, onceRead(d, func(s *session, b []byte) ([]byte, error) { return domainGetXMLDesc(s, args, b) })
	}
	if err != nil {
		return b, err
	}
	if len(xml) > xdr.MaxString {
		return b, verr.New(verr.RPC, "definition of %d bytes is too large", len(xml)).In(verr.FromRPC)
	}
	return xdr.AppendString(b, xml), nil
}

// onceRead answers once a domain's definition has been read.
func onceRead(d connection.Domain, answer func(*session, []byte) ([]byte, error)) error {
	r, ok := d.(connection.Reader)
	if !ok {
		return verr.New(verr.Internal, "the definition of domain '%s' cannot be read", d.View().Name)
	}
	return &waits{func(ctx context.Context, s *session, b []byte) ([]byte, error) {
		if err := r.Read(ctx); err != nil {
			return b, err
		}
		b, err := answer(s, b)
		if _, again := errors.AsType[*waits](err); again {
			err = verr.New(verr.OperationFailed, "the definition of domain '%s' changes too fast to be read", d.View().Name)
		}
		return b, err
	}}
}

func domainGetState(s *session, args *libvirt.DomainGetStateArgs, b []byte) ([]byte, error) {
	if err := checkFlags(args.Flags, 0, "virDomainGetState"); err != nil {
		return b, err
	}
	v, err := s.view(args.Dom)
	if err != nil {
		return b, err
	}
	return xdr.AppendUint32(xdr.AppendUint32(b, uint32(v.State)), uint32(v.Reason)), nil
}

func domainGetInfo(ctx context.Context, s *session, args *libvirt.DomainGetInfoArgs) (*libvirt.DomainGetInfoRet, error) {
	d, err := s.domain(args.Dom)
	if err != nil {
		return nil, err
	}
	v := d.View()
	cpuTime, err := d.CPUTime(ctx)
	return &libvirt.DomainGetInfoRet{
		State: uint8(v.State), MaxMem: v.MaxMemoryKiB, Memory: v.MemoryKiB, NrVirtCPU: uint16(v.VCPUs), CPUTime: cpuTime,
	}, err
}

func domainGetOSType(s *session, args *libvirt.DomainGetOsTypeArgs) (*libvirt.DomainGetOsTypeRet, error) {
	v, err := s.view(args.Dom)
	return &libvirt.DomainGetOsTypeRet{Type: v.OSType}, err
}

func domainGetMaxMemory(s *session, args *libvirt.DomainGetMaxMemoryArgs) (*libvirt.DomainGetMaxMemoryRet, error) {
	v, err := s.view(args.Dom)
	return &libvirt.DomainGetMaxMemoryRet{Memory: v.MaxMemoryKiB}, err
}

func domainGetMaxVCPUs(s *session, args *libvirt.DomainGetMaxVcpusArgs) (*libvirt.DomainGetMaxVcpusRet, error) {
	v, err := s.view(args.Dom)
	return &libvirt.DomainGetMaxVcpusRet{Num: int32(v.MaxVCPUs)}, err
}

func domainGetVCPUsFlags(s *session, args *libvirt.DomainGetVcpusFlagsArgs) (*libvirt.DomainGetVcpusFlagsRet, error) {
	const what = "virDomainGetVcpusFlags"
	if err := checkFlags(args.Flags, impactLive|impactConfig|vcpusMaximum|vcpusGuest, what); err != nil {
		return nil, err
	}
	if err := s.allow(args.Flags, vcpusGuest, what); err != nil {
		return nil, err
	}
	v, err := s.view(args.Dom)
	switch {
	case err != nil:
		return nil, err
	case args.Flags&vcpusGuest != 0:
		return nil, verr.New(verr.NoSupport, "%s of the guest's own count", what)
	case args.Flags&impactLive != 0 && args.Flags&impactConfig != 0:
		return nil, verr.New(verr.InvalidArg, "live and config exclude each other in %s", what)
	case args.Flags&impactLive != 0 && !v.Active():
		return nil, errNotRunning
	case args.Flags&impactConfig != 0 && !v.Persistent:
		return nil, verr.New(verr.OperationInvalid, "transient domains do not have any persistent config")
	case args.Flags&vcpusMaximum != 0:
		return &libvirt.DomainGetVcpusFlagsRet{Num: int32(v.MaxVCPUs)}, nil
	}
	return &libvirt.DomainGetVcpusFlagsRet{Num: int32(v.VCPUs)}, nil
}

// errNotRunning is what questions about a guest get when there is none.
var errNotRunning = verr.New(verr.OperationInvalid, "domain is not running")

func domainIsActive(s *session, args *libvirt.DomainIsActiveArgs) (*libvirt.DomainIsActiveRet, error) {
	v, err := s.view(args.Dom)
	return &libvirt.DomainIsActiveRet{Active: boolean(err == nil && v.Active())}, err
}

func domainIsPersistent(s *session, args *libvirt.DomainIsPersistentArgs) (*libvirt.DomainIsPersistentRet, error) {
	v, err := s.view(args.Dom)
	return &libvirt.DomainIsPersistentRet{Persistent: boolean(v.Persistent)}, err
}

func domainIsUpdated(s *session, args *libvirt.DomainIsUpdatedArgs) (*libvirt.DomainIsUpdatedRet, error) {
	v, err := s.view(args.Dom)
	return &libvirt.DomainIsUpdatedRet{Updated: boolean(v.Updated)}, err
}

func domainGetAutostart(s *session, args *libvirt.DomainGetAutostartArgs) (*libvirt.DomainGetAutostartRet, error) {
	v, err := s.view(args.Dom)
	return &libvirt.DomainGetAutostartRet{Autostart: boolean(v.Autostart)}, err
}

// domainGetControlInfo says that the control channel is free: calls are answered by the core, which is.
func domainGetControlInfo(s *session, args *libvirt.DomainGetControlInfoArgs) (*libvirt.DomainGetControlInfoRet, error) {
	if err := checkFlags(args.Flags, 0, "virDomainGetControlInfo"); err != nil {
		return nil, err
	}
	v, err := s.view(args.Dom)
	if err == nil && !v.Active() {
		err = errNotRunning
	}
	return &libvirt.DomainGetControlInfoRet{}, err
}

// domainGetSecurityLabel is the label of a guest without one.
func domainGetSecurityLabel(s *session, args *libvirt.DomainGetSecurityLabelArgs) (*libvirt.DomainGetSecurityLabelRet, error) {
	_, err := s.view(args.Dom)
	return &libvirt.DomainGetSecurityLabelRet{Label: chars("")}, err
}

// domainGetMessages has none: no domain is tainted or uses what is deprecated as far as the core knows.
func domainGetMessages(s *session, args *libvirt.DomainGetMessagesArgs) (*libvirt.DomainGetMessagesRet, error) {
	if err := checkFlags(args.Flags, 3, "virDomainGetMessages"); err != nil {
		return nil, err
	}
	_, err := s.view(args.Dom)
	return &libvirt.DomainGetMessagesRet{}, err
}

func domainGetMetadata(s *session, args *libvirt.DomainGetMetadataArgs, b []byte) ([]byte, error) {
	d, err := s.domain(args.Dom)
	if err != nil {
		return b, err
	}
	text, err := d.Metadata(args.Type, optional(args.Uri), uint32(args.Flags))
	if errors.Is(err, connection.ErrUnread) {
		return b, onceRead(d, func(s *session, b []byte) ([]byte, error) { return domainGetMetadata(s, args, b) })
	}
	return encode(b, &libvirt.DomainGetMetadataRet{Metadata: text}, err)
}

// exists fails for a domain that is not there; it serves queries whose answer is the same for every other one.
func exists(s *session, ref libvirt.Domain) error {
	_, err := s.view(ref)
	return err
}

func domainListAllCheckpoints(s *session, args *libvirt.DomainListAllCheckpointsArgs) (*libvirt.DomainListAllCheckpointsRet, error) {
	return &libvirt.DomainListAllCheckpointsRet{}, exists(s, args.Dom)
}

// reply names a domain that a call has made or started.
func reply[R any](d connection.Domain, err error, wrap func(libvirt.Domain) *R) (*R, error) {
	if err != nil {
		return nil, err
	}
	return wrap(reference(d.View())), nil
}
