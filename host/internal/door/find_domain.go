package door

import (
	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/connection"
	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/host/internal/xdr"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// maxDomains is how many domains one list has at most; libvirt's clients refuse more.
const maxDomains = 16384

// appendReference appends a domain as clients know it.
func appendReference(b []byte, v *domain.View) []byte {
	b = xdr.AppendString(b, v.Name)
	b = append(b, v.UUID[:]...)
	return xdr.AppendUint32(b, uint32(v.ID))
}

// found appends a domain that was looked up.
func found(b []byte, d connection.Domain, err error) ([]byte, error) {
	if err != nil {
		return b, err
	}
	v := d.View()
	return appendReference(b, &v), nil
}

func domainLookupByName(s *session, args *libvirt.DomainLookupByNameArgs, b []byte) ([]byte, error) {
	d, err := s.connection().Domains.ByName(args.Name)
	return found(b, d, err)
}

func domainLookupByUUID(s *session, args *libvirt.DomainLookupByUUIDArgs, b []byte) ([]byte, error) {
	d, err := s.connection().Domains.ByUUID(uuid.UUID(args.UUID))
	return found(b, d, err)
}

func domainLookupByID(s *session, args *libvirt.DomainLookupByIDArgs, b []byte) ([]byte, error) {
	d, err := s.connection().Domains.ByID(args.ID)
	return found(b, d, err)
}

func connectListAllDomains(s *session, args *libvirt.ConnectListAllDomainsArgs, b []byte) ([]byte, error) {
	if err := checkFlags(uint32(args.Flags), uint32(domain.ListKnown), "virConnectListAllDomains"); err != nil {
		return b, err
	}
	filter := domain.ListFlags(args.Flags)
	if args.NeedResults == 0 {
		b = xdr.AppendUint32(b, 0)
		return xdr.AppendUint32(b, uint32(s.connection().Domains.Count(filter))), nil
	}
	domains := s.connection().Domains.Select(filter)
	if len(domains) > maxDomains {
		return b, verr.New(verr.RPC, "too many domains %d for limit %d", len(domains), maxDomains)
	}
	b = xdr.AppendUint32(b, uint32(len(domains)))
	for _, d := range domains {
		v := d.View()
		b = appendReference(b, &v)
	}
	return xdr.AppendUint32(b, uint32(len(domains))), nil
}

func connectNumOfDomains(s *session, _ *void) (*libvirt.ConnectNumOfDomainsRet, error) {
	return &libvirt.ConnectNumOfDomainsRet{Num: int32(s.connection().Domains.Count(domain.ListActive))}, nil
}

func connectNumOfDefinedDomains(s *session, _ *void) (*libvirt.ConnectNumOfDefinedDomainsRet, error) {
	return &libvirt.ConnectNumOfDefinedDomainsRet{Num: int32(s.connection().Domains.Count(domain.ListInactive))}, nil
}

// room checks how many entries a client of an old list call has room for.
func room(n int32, what string) error {
	if n < 0 || n > maxDomains {
		return verr.New(verr.RPC, "too many %s %d for limit %d", what, n, maxDomains)
	}
	return nil
}

func connectListDomains(s *session, args *libvirt.ConnectListDomainsArgs) (*libvirt.ConnectListDomainsRet, error) {
	if err := room(args.Maxids, "domains"); err != nil {
		return nil, err
	}
	ret := &libvirt.ConnectListDomainsRet{}
	for _, v := range firstOf(s.connection().Domains.List(domain.ListActive), args.Maxids) {
		ret.Ids = append(ret.Ids, v.ID)
	}
	return ret, nil
}

func connectListDefinedDomains(s *session, args *libvirt.ConnectListDefinedDomainsArgs) (*libvirt.ConnectListDefinedDomainsRet, error) {
	if err := room(args.Maxnames, "names"); err != nil {
		return nil, err
	}
	ret := &libvirt.ConnectListDefinedDomainsRet{}
	for _, v := range firstOf(s.connection().Domains.List(domain.ListInactive), args.Maxnames) {
		ret.Names = append(ret.Names, v.Name)
	}
	return ret, nil
}
