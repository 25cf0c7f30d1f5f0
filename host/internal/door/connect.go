package door

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/host/internal/connection"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// libVersion is the level of libvirt's API that clients find: major * 1000000 + minor * 1000 + release.
	libVersion = 9_000_000
	// openReadOnly is the one flag of OPEN that means something to a server.
	openReadOnly = 1
	// openKnown are all flags of OPEN: read-only, credentials not asked for twice, no aliases.
	openKnown = 7
)

// Features that clients ask for, virDrvFeature.
const (
	featureMigrationV1      = 1
	featureTypedParamString = 9
	featureKeepalive        = 10
	featureXMLMigratable    = 11
	featureEventCallback    = 14
	featureCloseCallback    = 15
	featureNetworkOrder     = 16
)

// features say who has what: always is answered before OPEN too, drivers are the types that have it, and has asks the connection.
// Descriptor passing (8) and migration of later versions (3 to 7, 12, 13) are not there, so clients do not try them.
var features = map[int32]struct {
	always  bool
	drivers map[string]bool
	has     func(*connection.Connection) bool
}{
	featureMigrationV1:      {has: takesGuests},
	featureTypedParamString: {drivers: map[string]bool{"QEMU": true, "TEST": true, "Test": true, "LXC": true, "ESX": true}},
	featureKeepalive:        {always: true},
	featureXMLMigratable:    {drivers: map[string]bool{"QEMU": true}},
	featureEventCallback:    {always: true},
	featureCloseCallback:    {always: true},
	featureNetworkOrder:     {always: true},
}

func connectOpen(s *session, args *libvirt.ConnectOpenArgs) (*void, error) {
	if s.conn.Load() != nil {
		return nil, rpcInternal("connection already open")
	}
	if err := checkFlags(uint32(args.Flags), openKnown, "virConnectOpen"); err != nil {
		return nil, err
	}
	if len(args.Name) == 0 {
		return nil, rpcInternal("connection without a name")
	}
	conn, err := s.server.cfg.Router.Open(context.Background(), args.Name[0])
	if err != nil {
		return nil, err
	}
	if args.Flags&openReadOnly != 0 {
		s.readOnly.Store(true)
	}
	conn.Use()
	s.conn.Store(conn)
	return nil, nil
}

func connectClose(*session, *void) (*void, error) { return nil, nil }

func connectSupportsFeature(s *session, args *libvirt.ConnectSupportsFeatureArgs) (*libvirt.ConnectSupportsFeatureRet, error) {
	f := features[args.Feature]
	if args.Feature == featureKeepalive {
		s.keepalive()
	}
	if f.always {
		return &libvirt.ConnectSupportsFeatureRet{Supported: 1}, nil
	}
	conn := s.connection()
	if conn == nil {
		return nil, errNotOpen
	}
	return &libvirt.ConnectSupportsFeatureRet{Supported: boolean(f.drivers[conn.Type] || f.has != nil && f.has(conn))}, nil
}

// takesGuests reports whether guests can be migrated to a connection.
func takesGuests(c *connection.Connection) bool {
	_, ok := c.Domains.(connection.MigrationTarget)
	return ok
}

func authList(*session, *void) (*libvirt.AuthListRet, error) {
	return &libvirt.AuthListRet{Types: []libvirt.AuthType{0}}, nil
}

func authRefused(*session, *void) (*void, error) {
	return nil, verr.New(verr.AuthFailed, "this server asks for no authentication").In(verr.FromRPC)
}

func connectGetType(s *session, _ *void) (*libvirt.ConnectGetTypeRet, error) {
	return &libvirt.ConnectGetTypeRet{Type: s.connection().Type}, nil
}

func connectGetURI(s *session, _ *void) (*libvirt.ConnectGetUriRet, error) {
	return &libvirt.ConnectGetUriRet{Uri: s.connection().URI}, nil
}

func connectGetLibVersion(*session, *void) (*libvirt.ConnectGetLibVersionRet, error) {
	return &libvirt.ConnectGetLibVersionRet{LibVer: libVersion}, nil
}

// connectIsSecure is always yes: the door has unix sockets only.
func connectIsSecure(*session, *void) (*libvirt.ConnectIsSecureRet, error) {
	return &libvirt.ConnectIsSecureRet{Secure: 1}, nil
}

// connectSetIdentity accepts who the client says it acts for; that is for access checks of brokers, and changes nothing here.
func connectSetIdentity(s *session, args *libvirt.ConnectSetIdentityArgs) (*void, error) {
	if s.readOnly.Load() {
		return nil, denied("virConnectSetIdentity")
	}
	return nil, checkFlags(args.Flags, 0, "virConnectSetIdentity")
}

// closeCallback accepts the registration and its end. A driver's process that dies comes back by itself, so there is
// nothing to tell.
func closeCallback(*session, *void) (*void, error) { return nil, nil }

func connectGetVersion(ctx context.Context, s *session, _ *void) (*libvirt.ConnectGetVersionRet, error) {
	v, err := s.connection().Version(ctx)
	return &libvirt.ConnectGetVersionRet{HvVer: v}, err
}

func connectGetCapabilities(ctx context.Context, s *session, _ *void) (*libvirt.ConnectGetCapabilitiesRet, error) {
	xml, err := s.connection().Capabilities(ctx)
	return &libvirt.ConnectGetCapabilitiesRet{Capabilities: xml}, err
}

func connectGetDomainCapabilities(ctx context.Context, s *session, args *libvirt.ConnectGetDomainCapabilitiesArgs) (*libvirt.ConnectGetDomainCapabilitiesRet, error) {
	if err := checkFlags(uint32(args.Flags), 0, "virConnectGetDomainCapabilities"); err != nil {
		return nil, err
	}
	xml, err := s.connection().DomainCapabilities(
		ctx, optional(args.Emulatorbin), optional(args.Arch), optional(args.Machine), optional(args.Virttype))
	return &libvirt.ConnectGetDomainCapabilitiesRet{Capabilities: xml}, err
}

func connectGetMaxVCPUs(ctx context.Context, s *session, args *libvirt.ConnectGetMaxVcpusArgs) (*libvirt.ConnectGetMaxVcpusRet, error) {
	n, err := s.connection().MaxVCPUs(ctx, optional(args.Type))
	return &libvirt.ConnectGetMaxVcpusRet{MaxVcpus: n}, err
}

func connectGetCPUModelNames(ctx context.Context, s *session, args *libvirt.ConnectGetCPUModelNamesArgs) (*libvirt.ConnectGetCPUModelNamesRet, error) {
	if err := checkFlags(args.Flags, 0, "virConnectGetCPUModelNames"); err != nil {
		return nil, err
	}
	models, err := s.connection().CPUModels(ctx, args.Arch)
	if err != nil {
		return nil, err
	}
	ret := &libvirt.ConnectGetCPUModelNamesRet{Ret: int32(len(models))}
	if args.NeedResults != 0 {
		ret.Models = models
	}
	return ret, nil
}
