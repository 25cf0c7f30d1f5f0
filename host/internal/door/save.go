package door

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/host/internal/connection"
	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Flags of saves and restores; the core judges those that it gets.
const (
	saveKnown       = 15
	imageSecure     = 1
	imageKnown      = 1
	imageDefine     = 6
	abortPostcopy   = 1
	jobCompleted    = 1
	jobKeepComplete = 2
	// maxSaveParams is how many parameters a save or restore has at most.
	maxSaveParams = 64
)

// Kinds of jobs, virDomainJobType.
const (
	jobUnbounded    = 2
	jobTypeComplete = 3
)

func domainSave(ctx context.Context, s *session, args *libvirt.DomainSaveArgs) error {
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Saver) error { return d.Save(ctx, args.To, "", 0) })
}

func domainSaveFlags(ctx context.Context, s *session, args *libvirt.DomainSaveFlagsArgs) error {
	if err := checkFlags(args.Flags, saveKnown, "virDomainSaveFlags"); err != nil {
		return err
	}
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Saver) error {
		return d.Save(ctx, args.To, optional(args.Dxml), args.Flags)
	})
}

// domainSaveParams is a managed save if it names no file.
func domainSaveParams(ctx context.Context, s *session, args *libvirt.DomainSaveParamsArgs) error {
	if err := checkFlags(args.Flags, saveKnown, "virDomainSaveParams"); err != nil {
		return err
	}
	p, err := saveParams(args.Params)
	if err != nil {
		return err
	}
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Saver) error {
		if p.file == "" {
			return d.ManagedSave(ctx, p.xml, args.Flags)
		}
		return d.Save(ctx, p.file, p.xml, args.Flags)
	})
}

// saveParameters are the typed parameters of a save or restore.
type saveParameters struct{ file, xml string }

func saveParams(params []libvirt.TypedParam) (saveParameters, error) {
	var p saveParameters
	if len(params) > maxSaveParams {
		return p, verr.New(verr.RPC, "too many parameters %d for limit %d", len(params), maxSaveParams).In(verr.FromRPC)
	}
	for _, param := range params {
		text, ok := param.Value.I.(string)
		if !ok {
			return p, verr.New(verr.InvalidArg, "parameter '%s' is no string", param.Field)
		}
		switch param.Field {
		case libvirt.DomainSaveParamFile:
			p.file = text
		case libvirt.DomainSaveParamDxml:
			p.xml = text
		default:
			return p, verr.New(verr.InvalidArg, "parameter '%s' not supported", param.Field)
		}
	}
	return p, nil
}

func domainRestore(ctx context.Context, s *session, args *libvirt.DomainRestoreArgs) error {
	return s.restore(ctx, args.From, "", 0)
}

func domainRestoreFlags(ctx context.Context, s *session, args *libvirt.DomainRestoreFlagsArgs) error {
	if err := checkFlags(args.Flags, saveKnown, "virDomainRestoreFlags"); err != nil {
		return err
	}
	return s.restore(ctx, args.From, optional(args.Dxml), args.Flags)
}

func domainRestoreParams(ctx context.Context, s *session, args *libvirt.DomainRestoreParamsArgs) error {
	if err := checkFlags(args.Flags, saveKnown, "virDomainRestoreParams"); err != nil {
		return err
	}
	p, err := saveParams(args.Params)
	if err != nil {
		return err
	}
	if p.file == "" {
		return verr.New(verr.InvalidArg, "missing path to restore from")
	}
	return s.restore(ctx, p.file, p.xml, args.Flags)
}

func (s *session) restore(ctx context.Context, path, xml string, flags uint32) error {
	images, err := domainsThat[connection.Images](s)
	if err != nil {
		return err
	}
	return images.Restore(ctx, path, xml, flags)
}

func domainManagedSave(ctx context.Context, s *session, args *libvirt.DomainManagedSaveArgs) error {
	if err := checkFlags(args.Flags, saveKnown, "virDomainManagedSave"); err != nil {
		return err
	}
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Saver) error { return d.ManagedSave(ctx, "", args.Flags) })
}

func domainHasManagedSaveImage(s *session, args *libvirt.DomainHasManagedSaveImageArgs) (*libvirt.DomainHasManagedSaveImageRet, error) {
	if err := checkFlags(args.Flags, 0, "virDomainHasManagedSaveImage"); err != nil {
		return nil, err
	}
	v, err := s.view(args.Dom)
	return &libvirt.DomainHasManagedSaveImageRet{Result: boolean(v.Saved)}, err
}

func domainManagedSaveRemove(ctx context.Context, s *session, args *libvirt.DomainManagedSaveRemoveArgs) error {
	if err := checkFlags(args.Flags, 0, "virDomainManagedSaveRemove"); err != nil {
		return err
	}
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Saver) error { return d.RemoveManagedSave(ctx) })
}

func domainManagedSaveGetXMLDesc(
	_ context.Context, s *session, args *libvirt.DomainManagedSaveGetXMLDescArgs,
) (*libvirt.DomainManagedSaveGetXMLDescRet, error) {
	const what = "virDomainManagedSaveGetXMLDesc"
	flags := uint32(args.Flags)
	if err := checkFlags(flags, imageKnown, what); err != nil {
		return nil, err
	}
	if err := s.allow(flags, imageSecure, what); err != nil {
		return nil, err
	}
	d, err := able[connection.Saver](s, args.Dom)
	if err != nil {
		return nil, err
	}
	xml, err := d.ManagedSaveXML(flags)
	return &libvirt.DomainManagedSaveGetXMLDescRet{XML: xml}, err
}

func domainManagedSaveDefineXML(ctx context.Context, s *session, args *libvirt.DomainManagedSaveDefineXMLArgs) error {
	if err := checkFlags(uint32(args.Flags), imageDefine, "virDomainManagedSaveDefineXML"); err != nil {
		return err
	}
	return onDomain(ctx, s, args.Dom, func(ctx context.Context, d connection.Saver) error {
		return d.DefineManagedSave(ctx, optional(args.Dxml), uint32(args.Flags))
	})
}

func domainSaveImageGetXMLDesc(
	_ context.Context, s *session, args *libvirt.DomainSaveImageGetXMLDescArgs,
) (*libvirt.DomainSaveImageGetXMLDescRet, error) {
	if err := checkFlags(args.Flags, imageKnown, "virDomainSaveImageGetXMLDesc"); err != nil {
		return nil, err
	}
	images, err := domainsThat[connection.Images](s)
	if err != nil {
		return nil, err
	}
	xml, err := images.ImageXML(args.File, args.Flags)
	return &libvirt.DomainSaveImageGetXMLDescRet{XML: xml}, err
}

func domainSaveImageDefineXML(ctx context.Context, s *session, args *libvirt.DomainSaveImageDefineXMLArgs) error {
	if err := checkFlags(args.Flags, imageDefine, "virDomainSaveImageDefineXML"); err != nil {
		return err
	}
	images, err := domainsThat[connection.Images](s)
	if err != nil {
		return err
	}
	return images.DefineImage(ctx, args.File, args.Dxml, args.Flags)
}

// domainAbortJob waits for nothing, so that it never stands behind the job that it is to end.
func domainAbortJob(s *session, args *libvirt.DomainAbortJobArgs) (*void, error) {
	d, err := able[connection.Saver](s, args.Dom)
	if err != nil {
		return nil, err
	}
	return nil, d.AbortJob()
}

func domainAbortJobFlags(s *session, args *libvirt.DomainAbortJobFlagsArgs) (*void, error) {
	if err := checkFlags(args.Flags, abortPostcopy, "virDomainAbortJobFlags"); err != nil {
		return nil, err
	}
	if args.Flags&abortPostcopy != 0 {
		return nil, verr.New(verr.OperationInvalid, "current job is not a migration in post-copy mode")
	}
	return domainAbortJob(s, &libvirt.DomainAbortJobArgs{Dom: args.Dom})
}

// jobOf finds the job that a client asks about.
func jobOf(s *session, ref libvirt.Domain, flags uint32) (info domain.JobInfo, err error) {
	d, err := able[connection.Saver](s, ref)
	switch {
	case err != nil:
		return info, err
	case flags&jobCompleted != 0:
		return d.LastJob(flags&jobKeepComplete != 0), nil
	}
	info = d.JobInfo()
	if v, err := s.view(ref); err != nil || info.Operation == 0 && !v.Active() {
		return info, errNotRunning
	}
	return info, nil
}

func domainGetJobInfo(s *session, args *libvirt.DomainGetJobInfoArgs) (*libvirt.DomainGetJobInfoRet, error) {
	info, err := jobOf(s, args.Dom, 0)
	if err != nil || info.Operation == 0 {
		return &libvirt.DomainGetJobInfoRet{}, err
	}
	return &libvirt.DomainGetJobInfoRet{
		Type: jobUnbounded, TimeElapsed: uint64(info.Elapsed.Milliseconds()),
		DataTotal: info.Total, DataProcessed: info.Processed, DataRemaining: info.Remaining,
		MemTotal: info.Total, MemProcessed: info.Processed, MemRemaining: info.Remaining,
	}, nil
}

func domainGetJobStats(s *session, args *libvirt.DomainGetJobStatsArgs) (*libvirt.DomainGetJobStatsRet, error) {
	flags := uint32(args.Flags)
	if err := checkFlags(flags, jobCompleted|jobKeepComplete, "virDomainGetJobStats"); err != nil {
		return nil, err
	}
	info, err := jobOf(s, args.Dom, flags)
	if err != nil || info.Operation == 0 {
		return &libvirt.DomainGetJobStatsRet{}, err
	}
	ret := &libvirt.DomainGetJobStatsRet{Type: jobUnbounded, Params: jobParams(&info)}
	if flags&jobCompleted != 0 {
		ret.Type = jobTypeComplete
	}
	return ret, nil
}

// jobParams are a job's figures with libvirt's names.
func jobParams(info *domain.JobInfo) []libvirt.TypedParam {
	params := []libvirt.TypedParam{
		{Field: libvirt.DomainJobOperationStr, Value: *libvirt.NewTypedParamValueInt(info.Operation)},
	}
	for _, p := range []struct {
		name  string
		value uint64
	}{
		{"time_elapsed", uint64(info.Elapsed.Milliseconds())},
		{"data_total", info.Total},
		{"data_processed", info.Processed},
		{"data_remaining", info.Remaining},
		{"memory_total", info.Total},
		{"memory_processed", info.Processed},
		{"memory_remaining", info.Remaining},
	} {
		params = append(params, libvirt.TypedParam{Field: p.name, Value: *libvirt.NewTypedParamValueUllong(p.value)})
	}
	return params
}
