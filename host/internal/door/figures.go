package door

import (
	"context"
	"fmt"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/host/internal/connection"
	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// figures are the statistics of one guest by libvirt's names for bulk statistics, from which older calls are answered.
type figures map[string]*pb.Stat

// figures asks the driver for statistics of a guest that runs. A driver that does not answer leaves them out.
func (s *session) figures(ctx context.Context, ref libvirt.Domain, groups pb.StatsGroup) (figures, domain.View, error) {
	d, err := s.domain(ref)
	if err != nil {
		return nil, domain.View{}, err
	}
	v := d.View()
	if !v.Active() {
		return nil, v, errNotRunning
	}
	records, err := s.connection().Domains.Stats(ctx, []connection.Domain{d}, uint32(groups))
	if err != nil {
		return nil, v, err
	}
	f := make(figures, len(records[0].Stats))
	for _, st := range records[0].Stats {
		f[st.Name] = st
	}
	return f, v, nil
}

// number is a figure that counts something; ok says whether it is known.
func (f figures) number(name string) (n uint64, ok bool) {
	switch v := f[name].GetValue().(type) {
	case *pb.Stat_Uint:
		return uint64(v.Uint), true
	case *pb.Stat_Ullong:
		return v.Ullong, true
	case *pb.Stat_Int:
		return uint64(v.Int), v.Int >= 0
	case *pb.Stat_Llong:
		return uint64(v.Llong), v.Llong >= 0
	}
	return 0, false
}

// signed is a figure as old calls have it: -1 for what is not known.
func (f figures) signed(name string) int64 {
	n, ok := f.number(name)
	if !ok {
		return -1
	}
	return int64(n)
}

// numbered returns the prefix of the device whose named field has a value, as "block.2."; "" if there is none.
func (f figures) numbered(kind, value string, fields ...string) string {
	count, _ := f.number(kind + ".count")
	for i := range min(count, maxStats) {
		prefix := fmt.Sprintf("%s.%d.", kind, i)
		for _, field := range fields {
			if f[prefix+field].GetString_() == value {
				return prefix
			}
		}
	}
	return ""
}

// memoryTags are virDomainMemoryStatTags by the names that bulk statistics have for them, in the order of the tags.
var memoryTags = []string{
	"swap_in", "swap_out", "major_fault", "minor_fault", "unused", "available", "current", "rss", "usable", "last-update",
	"disk_caches", "hugetlb_pgalloc", "hugetlb_pgfail",
}

// maxMemoryStats is how many figures of memory one reply has at most.
const maxMemoryStats = 1024

func domainMemoryStats(ctx context.Context, s *session, args *libvirt.DomainMemoryStatsArgs) (*libvirt.DomainMemoryStatsRet, error) {
	if err := checkFlags(args.Flags, 0, "virDomainMemoryStats"); err != nil {
		return nil, err
	}
	if args.MaxStats > maxMemoryStats {
		return nil, verr.New(verr.RPC, "too many memory stats requested: %d > %d", args.MaxStats, maxMemoryStats)
	}
	f, _, err := s.figures(ctx, args.Dom, pb.StatsGroup_STATS_GROUP_BALLOON)
	if err != nil {
		return nil, err
	}
	ret := &libvirt.DomainMemoryStatsRet{}
	for tag, name := range memoryTags {
		if n, ok := f.number("balloon." + name); ok && uint32(len(ret.Stats)) < args.MaxStats {
			ret.Stats = append(ret.Stats, libvirt.DomainMemoryStat{Tag: int32(tag), Val: n})
		}
	}
	return ret, nil
}

// blockFigures are the names of virDomainBlockStatsFlags and those of bulk statistics, in libvirt's order.
var blockFigures = []struct{ name, bulk string }{
	{"wr_bytes", "wr.bytes"},
	{"wr_operations", "wr.reqs"},
	{"rd_bytes", "rd.bytes"},
	{"rd_operations", "rd.reqs"},
	{"flush_operations", "fl.reqs"},
	{"wr_total_times", "wr.times"},
	{"rd_total_times", "rd.times"},
	{"flush_total_times", "fl.times"},
}

// disk finds the figures of a disk by its target or its path.
func (s *session) disk(ctx context.Context, ref libvirt.Domain, path string) (f figures, prefix string, err error) {
	f, _, err = s.figures(ctx, ref, pb.StatsGroup_STATS_GROUP_BLOCK)
	if err != nil {
		return nil, "", err
	}
	if prefix = f.numbered("block", path, "name", "path"); prefix == "" || path == "" {
		return nil, "", verr.New(verr.InvalidArg, "invalid path: %s", path)
	}
	return f, prefix, nil
}

// disks is disk, where no path means all disks together.
func (s *session) disks(ctx context.Context, ref libvirt.Domain, path string) (f figures, prefix string, err error) {
	if path != "" {
		return s.disk(ctx, ref, path)
	}
	if f, _, err = s.figures(ctx, ref, pb.StatsGroup_STATS_GROUP_BLOCK); err != nil {
		return nil, "", err
	}
	const all = "block.all."
	count, _ := f.number("block.count")
	for _, b := range blockFigures {
		sum, known := uint64(0), false
		for i := range min(count, maxStats) {
			n, ok := f.number(fmt.Sprintf("block.%d.%s", i, b.bulk))
			sum, known = sum+n, known || ok
		}
		if known {
			f[all+b.bulk] = &pb.Stat{Value: &pb.Stat_Ullong{Ullong: sum}}
		}
	}
	return f, all, nil
}

func domainBlockStats(ctx context.Context, s *session, args *libvirt.DomainBlockStatsArgs) (*libvirt.DomainBlockStatsRet, error) {
	f, prefix, err := s.disks(ctx, args.Dom, args.Path)
	if err != nil {
		return nil, err
	}
	return &libvirt.DomainBlockStatsRet{
		RdReq: f.signed(prefix + "rd.reqs"), RdBytes: f.signed(prefix + "rd.bytes"),
		WrReq: f.signed(prefix + "wr.reqs"), WrBytes: f.signed(prefix + "wr.bytes"), Errs: -1,
	}, nil
}

// Bounds of lists of typed parameters, and the flag by which a client says that it knows strings among them.
const (
	maxBlockParams   = 16
	maxCPUParams     = 64
	typedStringsOkay = 4
)

// domainBlockStatsFlags tells the number of figures to a client that has room for none, and the figures to others.
func domainBlockStatsFlags(ctx context.Context, s *session, args *libvirt.DomainBlockStatsFlagsArgs) (*libvirt.DomainBlockStatsFlagsRet, error) {
	if err := checkFlags(args.Flags, typedStringsOkay, "virDomainBlockStatsFlags"); err != nil {
		return nil, err
	}
	if args.Nparams < 0 || args.Nparams > maxBlockParams {
		return nil, verr.New(verr.RPC, "nparams %d is not from 0 to %d", args.Nparams, maxBlockParams)
	}
	f, prefix, err := s.disks(ctx, args.Dom, args.Path)
	if err != nil {
		return nil, err
	}
	var params []libvirt.TypedParam
	for _, b := range blockFigures {
		if n, ok := f.number(prefix + b.bulk); ok {
			params = append(params, libvirt.TypedParam{Field: b.name, Value: *libvirt.NewTypedParamValueLlong(int64(n))})
		}
	}
	if args.Nparams == 0 {
		return &libvirt.DomainBlockStatsFlagsRet{Nparams: int32(len(params))}, nil
	}
	return &libvirt.DomainBlockStatsFlagsRet{Params: firstOf(params, args.Nparams)}, nil
}

// domainGetBlockInfo is answered by the driver for a guest that runs, and by the image for one that does not.
func domainGetBlockInfo(ctx context.Context, s *session, args *libvirt.DomainGetBlockInfoArgs) (*libvirt.DomainGetBlockInfoRet, error) {
	if err := checkFlags(args.Flags, 0, "virDomainGetBlockInfo"); err != nil {
		return nil, err
	}
	v, err := s.view(args.Dom)
	if err != nil {
		return nil, err
	}
	if !v.Active() {
		return s.imageInfo(ctx, args.Dom, args.Path)
	}
	f, prefix, err := s.disk(ctx, args.Dom, args.Path)
	if err != nil {
		return nil, err
	}
	ret := &libvirt.DomainGetBlockInfoRet{}
	for name, field := range map[string]*uint64{"allocation": &ret.Allocation, "capacity": &ret.Capacity, "physical": &ret.Physical} {
		n, ok := f.number(prefix + name)
		if !ok {
			return nil, verr.New(verr.OperationFailed, "the %s of disk '%s' is not known", name, args.Path)
		}
		*field = n
	}
	return ret, nil
}

// imageInfo reads the sizes of a disk's image of a domain that does not run.
func (s *session) imageInfo(ctx context.Context, ref libvirt.Domain, path string) (*libvirt.DomainGetBlockInfoRet, error) {
	if s.connection().Secrets == nil { // not on this machine
		return nil, errNotRunning
	}
	d, err := able[connection.Devices](s, ref)
	if err != nil {
		return nil, err
	}
	disk, volume, err := d.Disk(ctx, path)
	if err != nil {
		return nil, err
	}
	file := domxml.SourcePath(disk.Source)
	switch {
	case volume != nil && volume.GetNetwork() == nil:
		file = volume.GetPath()
	case volume != nil:
		return &libvirt.DomainGetBlockInfoRet{
			Allocation: volume.GetAllocation(), Capacity: volume.GetCapacity(), Physical: volume.GetAllocation(),
		}, nil
	case !domxml.HasSource(disk.Source):
		return &libvirt.DomainGetBlockInfoRet{}, nil
	case file == "":
		return nil, verr.New(verr.OperationInvalid, "the sizes of disk '%s', which is reached over a network, are known while the domain is running", path)
	}
	sizes, err := s.server.images.Sizes(ctx, file)
	return &libvirt.DomainGetBlockInfoRet{Allocation: sizes.Allocation, Capacity: sizes.Capacity, Physical: sizes.Physical}, err
}

func domainInterfaceStats(ctx context.Context, s *session, args *libvirt.DomainInterfaceStatsArgs) (*libvirt.DomainInterfaceStatsRet, error) {
	f, _, err := s.figures(ctx, args.Dom, pb.StatsGroup_STATS_GROUP_INTERFACE)
	if err != nil {
		return nil, err
	}
	p := f.numbered("net", args.Device, "name")
	if p == "" || args.Device == "" {
		return nil, verr.New(verr.InvalidArg, "invalid path, '%s' is not a known interface", args.Device)
	}
	return &libvirt.DomainInterfaceStatsRet{
		RxBytes: f.signed(p + "rx.bytes"), RxPackets: f.signed(p + "rx.pkts"), RxErrs: f.signed(p + "rx.errs"), RxDrop: f.signed(p + "rx.drop"),
		TxBytes: f.signed(p + "tx.bytes"), TxPackets: f.signed(p + "tx.pkts"), TxErrs: f.signed(p + "tx.errs"), TxDrop: f.signed(p + "tx.drop"),
	}, nil
}
