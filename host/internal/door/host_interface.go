package door

import (
	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/host/internal/connection"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Flags of lists of network interfaces, virConnectListAllInterfacesFlags.
const (
	interfaceInactive = uint32(libvirt.ConnectListInterfacesInactive)
	interfaceActive   = uint32(libvirt.ConnectListInterfacesActive)
)

// interfaceLists are the lists of the network interfaces of a host.
var interfaceLists = family[connection.Interface, libvirt.Interface]{
	plural: "interfaces", function: "virConnectListAllInterfaces", known: interfaceInactive | interfaceActive,
	all: func(s *session) []connection.Interface { return s.connection().Interfaces.All() },
	passes: func(i *connection.Interface, flags uint32) bool {
		return picks(flags, i.Active, interfaceActive, interfaceInactive)
	},
	name:      func(i *connection.Interface) string { return i.Name },
	reference: func(i *connection.Interface) libvirt.Interface { return libvirt.Interface{Name: i.Name, Mac: i.MAC} },
}

// interfaceReply names an interface that was looked up.
func interfaceReply(i connection.Interface, err error) (*refRet[libvirt.Interface], error) {
	return &refRet[libvirt.Interface]{interfaceLists.reference(&i)}, err
}

func interfaceLookupByName(s *session, args *nameArgs) (*refRet[libvirt.Interface], error) {
	return interfaceReply(s.connection().Interfaces.ByName(args.Name))
}

func interfaceLookupByMAC(s *session, args *libvirt.InterfaceLookupByMacStringArgs) (*refRet[libvirt.Interface], error) {
	found, err := s.connection().Interfaces.ByMAC(args.Mac)
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, verr.New(verr.NoInterface, "couldn't find interface with MAC address '%s'", args.Mac)
	case len(found) > 1:
		return nil, verr.New(verr.MultipleInterfaces, "multiple interfaces with matching MAC address")
	}
	return interfaceReply(found[0], nil)
}

func interfaceGetXMLDesc(s *session, args *flagsArgs[libvirt.Interface]) (*xmlRet, error) {
	if err := checkFlags(args.Flags, inactiveXML, "virInterfaceGetXMLDesc"); err != nil {
		return nil, err
	}
	xml, err := s.connection().Interfaces.XML(args.Ref.Name, args.Flags)
	return &xmlRet{xml}, err
}

func interfaceIsActive(s *session, args *refArgs[libvirt.Interface]) (*boolRet, error) {
	i, err := s.connection().Interfaces.ByName(args.Ref.Name)
	return &boolRet{boolean(i.Active)}, err
}
