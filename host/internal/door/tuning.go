package door

import (
	"context"
	"math"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/host/internal/connection"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Flags of virDomainSetVcpusFlags and virDomainSetMemoryFlags.
const (
	vcpusSetKnown  = 31
	memorySetKnown = 7
	memoryMaximum  = 4
)

// maxSchedulerParams is how many parameters a scheduler has at most.
const maxSchedulerParams = 16

// domainSetVCPUs and the other calls without flags mean what is current: the guest that runs, or the definition of one that does not.
func domainSetVCPUs(ctx context.Context, s *session, args *libvirt.DomainSetVcpusArgs) error {
	return s.setVCPUs(ctx, &libvirt.DomainSetVcpusFlagsArgs{Dom: args.Dom, Nvcpus: args.Nvcpus}, "virDomainSetVcpus")
}

func domainSetVCPUsFlags(ctx context.Context, s *session, args *libvirt.DomainSetVcpusFlagsArgs) error {
	return s.setVCPUs(ctx, args, "virDomainSetVcpusFlags")
}

func (s *session) setVCPUs(ctx context.Context, args *libvirt.DomainSetVcpusFlagsArgs, what string) error {
	if err := checkFlags(args.Flags, vcpusSetKnown, what); err != nil {
		return err
	}
	if err := exclusive(args.Flags, vcpusGuest|impactConfig, what); err != nil {
		return err
	}
	switch {
	case args.Nvcpus == 0:
		return verr.New(verr.InvalidArg, "nvcpus in %s must not be zero", what)
	case args.Nvcpus > math.MaxUint16:
		return verr.New(verr.Overflow, "input too large: %d", args.Nvcpus)
	}
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Tuning) error {
		return d.SetVCPUs(ctx, args.Nvcpus, args.Flags)
	})
}

func domainSetMemory(ctx context.Context, s *session, args *libvirt.DomainSetMemoryArgs) error {
	return s.setMemory(ctx, &libvirt.DomainSetMemoryFlagsArgs{Dom: args.Dom, Memory: args.Memory}, "virDomainSetMemory")
}

func domainSetMaxMemory(ctx context.Context, s *session, args *libvirt.DomainSetMaxMemoryArgs) error {
	all := &libvirt.DomainSetMemoryFlagsArgs{Dom: args.Dom, Memory: args.Memory, Flags: memoryMaximum}
	return s.setMemory(ctx, all, "virDomainSetMaxMemory")
}

func domainSetMemoryFlags(ctx context.Context, s *session, args *libvirt.DomainSetMemoryFlagsArgs) error {
	return s.setMemory(ctx, args, "virDomainSetMemoryFlags")
}

func (s *session) setMemory(ctx context.Context, args *libvirt.DomainSetMemoryFlagsArgs, what string) error {
	if err := checkFlags(args.Flags, memorySetKnown, what); err != nil {
		return err
	}
	if args.Memory == 0 {
		return verr.New(verr.InvalidArg, "memory in %s must not be zero", what)
	}
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Tuning) error {
		return d.SetMemory(ctx, args.Memory, args.Flags)
	})
}

func domainGetSchedulerType(s *session, args *libvirt.DomainGetSchedulerTypeArgs) (*libvirt.DomainGetSchedulerTypeRet, error) {
	d, err := able[connection.Tuning](s, args.Dom)
	if err != nil {
		return nil, err
	}
	name, params, err := d.Scheduler()
	return &libvirt.DomainGetSchedulerTypeRet{Type: name, Nparams: int32(min(len(params), maxSchedulerParams))}, err
}

func domainGetSchedulerParameters(
	s *session, args *libvirt.DomainGetSchedulerParametersArgs,
) (*libvirt.DomainGetSchedulerParametersRet, error) {
	all := &libvirt.DomainGetSchedulerParametersFlagsArgs{Dom: args.Dom, Nparams: args.Nparams}
	params, err := s.scheduler(all, "virDomainGetSchedulerParameters")
	return &libvirt.DomainGetSchedulerParametersRet{Params: params}, err
}

func domainGetSchedulerParametersFlags(
	s *session, args *libvirt.DomainGetSchedulerParametersFlagsArgs,
) (*libvirt.DomainGetSchedulerParametersFlagsRet, error) {
	params, err := s.scheduler(args, "virDomainGetSchedulerParametersFlags")
	return &libvirt.DomainGetSchedulerParametersFlagsRet{Params: params}, err
}

// scheduler returns as many parameters of a guest's scheduler as the client has room for; it learns their number with the scheduler's
// type. They are the same for the guest and its definition.
func (s *session) scheduler(args *libvirt.DomainGetSchedulerParametersFlagsArgs, what string) ([]libvirt.TypedParam, error) {
	if args.Nparams < 1 || args.Nparams > maxSchedulerParams {
		return nil, verr.New(verr.RPC, "nparams %d is not from 1 to %d", args.Nparams, maxSchedulerParams)
	}
	d, err := able[connection.Tuning](s, args.Dom)
	if err != nil {
		return nil, err
	}
	if err := s.impact(args.Dom, args.Flags&^typedStringsOkay, what); err != nil {
		return nil, err
	}
	_, stats, err := d.Scheduler()
	if err != nil {
		return nil, err
	}
	params := typedParams(stats, args.Flags&typedStringsOkay != 0)
	return firstOf(params, args.Nparams), nil
}

func domainSetSchedulerParameters(ctx context.Context, s *session, args *libvirt.DomainSetSchedulerParametersArgs) error {
	all := &libvirt.DomainSetSchedulerParametersFlagsArgs{Dom: args.Dom, Params: args.Params}
	return s.setScheduler(ctx, all, "virDomainSetSchedulerParameters")
}

func domainSetSchedulerParametersFlags(ctx context.Context, s *session, args *libvirt.DomainSetSchedulerParametersFlagsArgs) error {
	return s.setScheduler(ctx, args, "virDomainSetSchedulerParametersFlags")
}

func (s *session) setScheduler(ctx context.Context, args *libvirt.DomainSetSchedulerParametersFlagsArgs, what string) error {
	if err := checkFlags(args.Flags, impactLive|impactConfig, what); err != nil {
		return err
	}
	if n := len(args.Params); n == 0 || n > maxSchedulerParams {
		return verr.New(verr.RPC, "%d parameters, from 1 to %d are allowed", n, maxSchedulerParams)
	}
	params, err := statsOf(args.Params)
	if err != nil {
		return err
	}
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Tuning) error {
		return d.SetScheduler(ctx, params, args.Flags)
	})
}

// typedParams are figures as libvirt's typed parameters; strings are left out for clients that do not know them.
func typedParams(stats []*pb.Stat, texts bool) []libvirt.TypedParam {
	params := make([]libvirt.TypedParam, 0, len(stats))
	for _, st := range stats {
		if value := typedValue(st, texts); value != nil {
			params = append(params, libvirt.TypedParam{Field: st.Name, Value: *value})
		}
	}
	return params
}

func typedValue(st *pb.Stat, texts bool) *libvirt.TypedParamValue {
	switch v := st.GetValue().(type) {
	case *pb.Stat_Int:
		return libvirt.NewTypedParamValueInt(v.Int)
	case *pb.Stat_Uint:
		return libvirt.NewTypedParamValueUint(v.Uint)
	case *pb.Stat_Llong:
		return libvirt.NewTypedParamValueLlong(v.Llong)
	case *pb.Stat_Ullong:
		return libvirt.NewTypedParamValueUllong(v.Ullong)
	case *pb.Stat_Double:
		return libvirt.NewTypedParamValueDouble(v.Double)
	case *pb.Stat_Boolean:
		return libvirt.NewTypedParamValueBoolean(boolean(v.Boolean))
	case *pb.Stat_String_:
		if texts {
			return libvirt.NewTypedParamValueString(v.String_)
		}
	}
	return nil
}

// typedBoolean is VIR_TYPED_PARAM_BOOLEAN, whose value is an int as that of VIR_TYPED_PARAM_INT.
const typedBoolean = 6

// statsOf are typed parameters in the contract's terms. A name that is there twice is refused.
func statsOf(params []libvirt.TypedParam) ([]*pb.Stat, error) {
	stats, seen := make([]*pb.Stat, 0, len(params)), map[string]bool{}
	for _, p := range params {
		if seen[p.Field] {
			return nil, verr.New(verr.InvalidArg, "parameter '%s' occurs multiple times", p.Field)
		}
		seen[p.Field] = true
		st := &pb.Stat{Name: p.Field}
		switch v := p.Value.I.(type) {
		case int32:
			st.Value = &pb.Stat_Int{Int: v}
			if p.Value.D == typedBoolean {
				st.Value = &pb.Stat_Boolean{Boolean: v != 0}
			}
		case uint32:
			st.Value = &pb.Stat_Uint{Uint: v}
		case int64:
			st.Value = &pb.Stat_Llong{Llong: v}
		case uint64:
			st.Value = &pb.Stat_Ullong{Ullong: v}
		case float64:
			st.Value = &pb.Stat_Double{Double: v}
		case string:
			st.Value = &pb.Stat_String_{String_: v}
		default:
			return nil, verr.New(verr.InvalidArg, "parameter '%s' has a value of no type", p.Field)
		}
		stats = append(stats, st)
	}
	return stats, nil
}
