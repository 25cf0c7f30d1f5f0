package door

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/connection"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Flags of virtual networks: virConnectListAllNetworksFlags, virNetworkXMLFlags and virNetworkDefineFlags.
const (
	networkInactive    = uint32(libvirt.ConnectListNetworksInactive)
	networkActive      = uint32(libvirt.ConnectListNetworksActive)
	networkPersistent  = uint32(libvirt.ConnectListNetworksPersistent)
	networkTransient   = uint32(libvirt.ConnectListNetworksTransient)
	networkAutostart   = uint32(libvirt.ConnectListNetworksAutostart)
	networkNoAutostart = uint32(libvirt.ConnectListNetworksNoAutostart)
	networkListKnown   = networkInactive | networkActive | networkPersistent | networkTransient | networkAutostart | networkNoAutostart

	inactiveXML     = 1
	networkValidate = 1
)

// networkLists are the lists of virtual networks.
var networkLists = family[connection.Network, libvirt.Network]{
	plural: "networks", function: "virConnectListAllNetworks", known: networkListKnown,
	all: func(s *session) []connection.Network { return s.connection().Networks.All() },
	passes: func(n *connection.Network, flags uint32) bool {
		return picks(flags, n.Active, networkActive, networkInactive) &&
			picks(flags, n.Persistent, networkPersistent, networkTransient) &&
			picks(flags, n.Autostart, networkAutostart, networkNoAutostart)
	},
	name: func(n *connection.Network) string { return n.Name },
	reference: func(n *connection.Network) libvirt.Network {
		return libvirt.Network{Name: n.Name, UUID: libvirt.UUID(n.UUID)}
	},
}

// networkReply names a network that was looked up or defined.
func networkReply(n connection.Network, err error) (*refRet[libvirt.Network], error) {
	return &refRet[libvirt.Network]{networkLists.reference(&n)}, err
}

// network finds the network that a client means, which is by UUID.
func (s *session) network(ref libvirt.Network) (connection.Network, error) {
	return s.connection().Networks.ByUUID(uuid.UUID(ref.UUID))
}

// networkIs makes a handler that tells whether something is so of a network.
func networkIs(so func(connection.Network) bool) *handler {
	return memory(func(s *session, args *refArgs[libvirt.Network]) (*boolRet, error) {
		n, err := s.network(args.Ref)
		return &boolRet{boolean(so(n))}, err
	})
}

func networkLookupByName(s *session, args *nameArgs) (*refRet[libvirt.Network], error) {
	return networkReply(s.connection().Networks.ByName(args.Name))
}

func networkLookupByUUID(s *session, args *libvirt.NetworkLookupByUUIDArgs) (*refRet[libvirt.Network], error) {
	return networkReply(s.connection().Networks.ByUUID(uuid.UUID(args.UUID)))
}

func networkGetXMLDesc(s *session, args *flagsArgs[libvirt.Network]) (*xmlRet, error) {
	if err := checkFlags(args.Flags, inactiveXML, "virNetworkGetXMLDesc"); err != nil {
		return nil, err
	}
	xml, err := s.connection().Networks.XML(uuid.UUID(args.Ref.UUID), args.Flags)
	return &xmlRet{xml}, err
}

func networkGetBridgeName(s *session, args *refArgs[libvirt.Network]) (*libvirt.NetworkGetBridgeNameRet, error) {
	n, err := s.network(args.Ref)
	if err == nil && n.Bridge == "" {
		err = verr.New(verr.Internal, "network '%s' does not have a bridge name.", n.Name)
	}
	return &libvirt.NetworkGetBridgeNameRet{Name: n.Bridge}, err
}

func networkDefineXML(ctx context.Context, s *session, args *libvirt.NetworkDefineXMLArgs) (*refRet[libvirt.Network], error) {
	return networkReply(s.connection().Networks.Define(ctx, args.XML))
}

func networkDefineXMLFlags(ctx context.Context, s *session, args *libvirt.NetworkDefineXMLFlagsArgs) (*refRet[libvirt.Network], error) {
	if err := checkFlags(args.Flags, networkValidate, "virNetworkDefineXMLFlags"); err != nil {
		return nil, err
	}
	return networkReply(s.connection().Networks.Define(ctx, args.XML))
}

func networkUndefine(ctx context.Context, s *session, args *refArgs[libvirt.Network]) error {
	return s.connection().Networks.Undefine(ctx, uuid.UUID(args.Ref.UUID))
}

// networkCreate and networkSetAutostart change nothing: who has networks has them up from the moment that they are defined.
func networkCreate(s *session, args *refArgs[libvirt.Network]) (*void, error) {
	n, err := s.network(args.Ref)
	switch {
	case err != nil:
		return nil, err
	case n.Active:
		return nil, verr.New(verr.OperationInvalid, "network is already active")
	}
	return nil, verr.New(verr.NoSupport, "network '%s' cannot be started by itself", n.Name)
}

func networkSetAutostart(s *session, args *libvirt.NetworkSetAutostartArgs) (*void, error) {
	n, err := s.network(args.Net)
	if err == nil && n.Autostart != (args.Autostart != 0) {
		err = verr.New(verr.NoSupport, "whether network '%s' starts with its host cannot be chosen", n.Name)
	}
	return nil, err
}
