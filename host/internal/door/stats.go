package door

import (
	"context"
	"encoding/binary"
	"math"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/connection"
	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/host/internal/xdr"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Flags of virConnectGetAllDomainStats; its other flags filter as those of lists do.
const (
	statsFilter  = uint32(domain.ListActive | domain.ListInactive | domain.ListPersistent | domain.ListTransient | domain.ListRunning | domain.ListPaused | domain.ListShutOff | domain.ListOther)
	statsNoWait  = 1 << 29
	statsBacking = 1 << 30
	statsEnforce = 1 << 31
	// statsKnown are the groups that can be answered, pb.StatsGroup.
	statsKnown = 63
	// maxStats is how many figures one reply has for a domain at most.
	maxStats = 262144
)

// connectGetAllDomainStats waits for drivers if more than states is asked for, so it never runs on the reading goroutine.
var connectGetAllDomainStats = &handler{waits: true, prepare: func(payload []byte) (action, error) {
	args, err := decode[libvirt.ConnectGetAllDomainStatsArgs](payload)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, s *session, b []byte) ([]byte, error) { return domainStats(ctx, s, args, b) }, nil
}}

func domainStats(ctx context.Context, s *session, args *libvirt.ConnectGetAllDomainStatsArgs, b []byte) ([]byte, error) {
	if err := checkFlags(args.Flags, statsFilter|statsNoWait|statsBacking|statsEnforce, "virConnectGetAllDomainStats"); err != nil {
		return b, err
	}
	if unknown := args.Stats &^ statsKnown; unknown != 0 && args.Flags&statsEnforce != 0 {
		return b, verr.New(verr.ArgumentUnsupported, "stats types bits 0x%x are not supported by this daemon or QEMU", unknown)
	}
	groups := args.Stats & statsKnown
	if args.Stats == 0 {
		groups = statsKnown
	}
	domains, err := statsDomains(s, args)
	if err != nil {
		return b, err
	}
	records, err := s.connection().Domains.Stats(ctx, domains, groups)
	if err != nil {
		return b, err
	}
	b = xdr.AppendUint32(b, uint32(len(records)))
	for i := range records {
		b = appendRecord(b, &records[i])
	}
	return b, nil
}

// statsDomains returns the domains that are named, or all, as far as they pass the filter.
func statsDomains(s *session, args *libvirt.ConnectGetAllDomainStatsArgs) ([]connection.Domain, error) {
	inv, filter := s.connection().Domains, domain.ListFlags(args.Flags&statsFilter)
	if len(args.Doms) > maxDomains {
		return nil, verr.New(verr.RPC, "too many domains %d for limit %d", len(args.Doms), maxDomains).In(verr.FromRPC)
	}
	if len(args.Doms) == 0 {
		return inv.Select(filter), nil
	}
	domains := make([]connection.Domain, 0, len(args.Doms))
	for _, ref := range args.Doms {
		d, err := inv.ByUUID(uuid.UUID(ref.UUID))
		if err != nil {
			return nil, err
		}
		if v := d.View(); filter.Match(&v) {
			domains = append(domains, d)
		}
	}
	return domains, nil
}

// appendRecord appends a domain and its figures; figures of a kind that the wire does not know are left out.
func appendRecord(b []byte, r *domain.StatsRecord) []byte {
	b = appendReference(b, r.View)
	count := len(b)
	b = xdr.AppendUint32(b, 0)
	n := uint32(0)
	for _, st := range r.Stats {
		var ok bool
		if b, ok = appendStat(b, st); ok {
			n++
		}
		if n == maxStats {
			break
		}
	}
	binary.BigEndian.PutUint32(b[count:], n)
	return b
}

// appendStat appends a typed parameter.
func appendStat(b []byte, st *pb.Stat) ([]byte, bool) {
	if st.GetValue() == nil {
		return b, false
	}
	b = xdr.AppendString(b, st.Name)
	switch v := st.Value.(type) {
	case *pb.Stat_Int:
		b = xdr.AppendUint32(xdr.AppendUint32(b, 1), uint32(v.Int))
	case *pb.Stat_Uint:
		b = xdr.AppendUint32(xdr.AppendUint32(b, 2), v.Uint)
	case *pb.Stat_Llong:
		b = xdr.AppendUint64(xdr.AppendUint32(b, 3), uint64(v.Llong))
	case *pb.Stat_Ullong:
		b = xdr.AppendUint64(xdr.AppendUint32(b, 4), v.Ullong)
	case *pb.Stat_Double:
		b = xdr.AppendUint64(xdr.AppendUint32(b, 5), math.Float64bits(v.Double))
	case *pb.Stat_Boolean:
		b = xdr.AppendUint32(xdr.AppendUint32(b, 6), uint32(boolean(v.Boolean)))
	case *pb.Stat_String_:
		b = xdr.AppendString(xdr.AppendUint32(b, 7), v.String_)
	}
	return b, true
}
