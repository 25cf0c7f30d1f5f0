package door

import (
	"context"
	"fmt"
	"slices"

	libvirt "github.com/digitalocean/go-libvirt"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Bounds of vCPU calls: how many are told of at once, and how many bytes of CPU maps.
const (
	maxVCPUInfos = 16384
	maxCPUMaps   = 8388608
)

const (
	// vcpuOffline is virVcpuState of a vCPU that does not take part.
	vcpuOffline = 0
	// vcpuCPUUnavailable says that nobody knows which CPU a vCPU runs on.
	vcpuCPUUnavailable = -2
)

// maxCPUs is how many CPUs a machine has at most that a driver tells of.
const maxCPUs = 16384

// onlineCPUs are the CPUs of the connection's machine; of one that is not this one all are taken to be online.
func (s *session) onlineCPUs(ctx context.Context) ([]bool, error) {
	n, err := s.elsewhere(ctx)
	switch {
	case err != nil:
		return nil, err
	case n != nil:
		return slices.Repeat([]bool{true}, int(min(n.Cpus, maxCPUs))), nil
	}
	cpus, err := s.server.cfg.Node.CPUMap()
	return cpus.Online, err
}

// cpuMaps returns so many times the map of all CPUs of the machine, each cut or filled up to a length in bytes. No driver pins vCPUs.
func (s *session) cpuMaps(ctx context.Context, count, length int32) ([]byte, error) {
	if count < 0 || length < 0 || count > maxVCPUInfos || int64(count)*int64(length) > maxCPUMaps {
		return nil, verr.New(verr.RPC, "%d CPU maps of %d bytes are too many", count, length)
	}
	cpus, err := s.onlineCPUs(ctx)
	if err != nil {
		return nil, err
	}
	maps := make([]byte, int(count)*int(length))
	for n := range int(count) {
		one := maps[n*int(length) : (n+1)*int(length)]
		for cpu, on := range cpus {
			if on && cpu/8 < len(one) {
				one[cpu/8] |= 1 << (cpu % 8)
			}
		}
	}
	return maps, nil
}

// domainGetVCPUs tells how long the vCPUs have run. It does not know on which CPUs.
func domainGetVCPUs(ctx context.Context, s *session, args *libvirt.DomainGetVcpusArgs) (*libvirt.DomainGetVcpusRet, error) {
	if args.Maxinfo < 0 || args.Maxinfo > maxVCPUInfos {
		return nil, verr.New(verr.RPC, "maxinfo %d is not from 0 to %d", args.Maxinfo, maxVCPUInfos)
	}
	f, v, err := s.figures(ctx, args.Dom, pb.StatsGroup_STATS_GROUP_VCPU)
	if err != nil {
		return nil, err
	}
	count := min(args.Maxinfo, int32(min(v.VCPUs, maxVCPUInfos)))
	ret := &libvirt.DomainGetVcpusRet{}
	if ret.Cpumaps, err = s.cpuMaps(ctx, count, args.Maplen); err != nil {
		return nil, err
	}
	for n := range count {
		state, known := f.number(fmt.Sprintf("vcpu.%d.state", n))
		if !known {
			state = vcpuOffline
		}
		nanoseconds, _ := f.number(fmt.Sprintf("vcpu.%d.time", n))
		ret.Info = append(ret.Info, libvirt.VcpuInfo{
			Number: uint32(n), State: int32(state), CPUTime: nanoseconds, CPU: vcpuCPUUnavailable,
		})
	}
	return ret, nil
}

// impact checks virDomainModificationImpact of a question, as far as its answer is the same for guest and definition.
func (s *session) impact(ref libvirt.Domain, flags uint32, what string) error {
	if err := checkFlags(flags, impactLive|impactConfig, what); err != nil {
		return err
	}
	v, err := s.view(ref)
	switch {
	case err != nil:
		return err
	case flags == impactLive|impactConfig:
		return verr.New(verr.InvalidArg, "live and config exclude each other in %s", what)
	case flags == impactLive && !v.Active():
		return errNotRunning
	case flags == impactConfig && !v.Persistent:
		return verr.New(verr.OperationInvalid, "transient domains do not have any persistent config")
	}
	return nil
}

func domainGetVCPUPinInfo(ctx context.Context, s *session, args *libvirt.DomainGetVcpuPinInfoArgs) (*libvirt.DomainGetVcpuPinInfoRet, error) {
	if err := s.impact(args.Dom, args.Flags, "virDomainGetVcpuPinInfo"); err != nil {
		return nil, err
	}
	v, err := s.view(args.Dom)
	if err != nil {
		return nil, err
	}
	count := min(args.Ncpumaps, int32(min(v.MaxVCPUs, maxVCPUInfos)))
	maps, err := s.cpuMaps(ctx, count, args.Maplen)
	return &libvirt.DomainGetVcpuPinInfoRet{Cpumaps: maps, Num: count}, err
}

func domainGetEmulatorPinInfo(ctx context.Context, s *session, args *libvirt.DomainGetEmulatorPinInfoArgs) (*libvirt.DomainGetEmulatorPinInfoRet, error) {
	if err := s.impact(args.Dom, uint32(args.Flags), "virDomainGetEmulatorPinInfo"); err != nil {
		return nil, err
	}
	maps, err := s.cpuMaps(ctx, 1, args.Maplen)
	return &libvirt.DomainGetEmulatorPinInfoRet{Cpumaps: maps, Ret: 1}, err
}

// cpuFigures are the names of virDomainGetCPUStats for a whole guest and those of bulk statistics, in libvirt's order.
var cpuFigures = []struct{ name, bulk string }{{"cpu_time", "cpu.time"}, {"user_time", "cpu.user"}, {"system_time", "cpu.system"}}

// totalOfCPUs is the number that stands for all CPUs together.
const totalOfCPUs = -1

// domainGetCPUStats tells what a guest took of all CPUs together; what it took of each one is not measured.
func domainGetCPUStats(ctx context.Context, s *session, args *libvirt.DomainGetCPUStatsArgs) (*libvirt.DomainGetCPUStatsRet, error) {
	if err := checkFlags(uint32(args.Flags), typedStringsOkay, "virDomainGetCPUStats"); err != nil {
		return nil, err
	}
	if args.Nparams > maxCPUParams {
		return nil, verr.New(verr.RPC, "nparams %d is too large", args.Nparams)
	}
	if args.StartCPU != totalOfCPUs {
		return nil, verr.New(verr.NoSupport, "CPU time of a guest by CPU of the host")
	}
	f, _, err := s.figures(ctx, args.Dom, pb.StatsGroup_STATS_GROUP_CPU_TOTAL)
	if err != nil {
		return nil, err
	}
	var params []libvirt.TypedParam
	for _, c := range cpuFigures {
		if n, ok := f.number(c.bulk); ok {
			params = append(params, libvirt.TypedParam{Field: c.name, Value: *libvirt.NewTypedParamValueUllong(n)})
		}
	}
	ret := &libvirt.DomainGetCPUStatsRet{Nparams: int32(len(params))}
	if args.Nparams > 0 {
		ret.Params = firstOf(params, int32(args.Nparams))
		ret.Nparams = int32(len(ret.Params))
	}
	return ret, nil
}
