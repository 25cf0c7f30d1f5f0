package mirror

import (
	"context"
	"time"

	"github.com/lodgevirt/lodge/host/internal/connection"
	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/sdk/domxml"
	hypervisorv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Bits of libvirt's flags.
const (
	defineValidate = 1 << 0

	undefineManagedSave = 1 << 0
	undefineSnapshots   = 1 << 1
	// undefineKnown: what there is not (checkpoints, NVRAM, TPM state) may be removed with it.
	undefineKnown = 127

	destroyGraceful = 1 << 0

	setMaximum = 1 << 2 // of memory and of vCPUs
)

// maxXML is the largest definition in bytes, libvirt's REMOTE_STRING_MAX.
const maxXML = 4 << 20

// checkXML refuses a definition that must not be passed on.
func checkXML(xml, root string) error {
	if len(xml) > maxXML {
		return verr.New(verr.XMLError, "definition has %d bytes, at most %d are allowed", len(xml), maxXML)
	}
	return domxml.Check(xml, root)
}

func refuse(flags, known uint32) error {
	if unknown := flags &^ known; unknown != 0 {
		return verr.New(verr.InvalidArg, "unsupported flags (0x%x)", unknown)
	}
	return nil
}

// begin waits for the right to change the domain.
func (d *Domain) begin(ctx context.Context) (end func(), err error) {
	late := time.NewTimer(jobWait)
	defer late.Stop()
	select {
	case d.slot <- struct{}{}:
		return func() { <-d.slot }, nil
	case <-late.C:
		return nil, verr.New(verr.OperationTimeout, "another change of domain '%s' is under way", d.View().Name)
	case <-ctx.Done():
		return nil, verr.New(verr.OperationTimeout, "another change of domain '%s' is under way: %w", d.View().Name, ctx.Err())
	}
}

// change makes a change of the domain as the only one; done tells by the domain as it is later whether the change was made, gone included.
func (d *Domain) change(ctx context.Context, do func(context.Context, *hypervisorv1.Guest) (uint64, error), done func(*guest) bool) error {
	end, err := d.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if _, err := d.now(); err != nil {
		return err
	}
	var made func() bool
	if done != nil {
		made = func() bool { return done(d.state.Load()) }
	}
	return d.m.change(ctx, func(ctx context.Context) (uint64, error) { return do(ctx, d.ref()) }, made)
}

func active(s *guest) bool   { return !s.gone && s.view.Active() }
func inactive(s *guest) bool { return !s.gone && !s.view.Active() }

func (m *Mirror) guests() pb.GuestServiceClient { return pb.NewGuestServiceClient(m.cfg.Plugin) }

// Define makes a domain or changes the one that the definition is about; flags are virDomainDefineFlags.
func (m *Mirror) Define(ctx context.Context, xml string, flags uint32) (connection.Domain, error) {
	if err := refuse(flags, defineValidate); err != nil {
		return nil, err
	}
	if err := checkXML(xml, "domain"); err != nil {
		return nil, err
	}
	id, err := m.made(ctx, func(ctx context.Context) (string, uint64, error) {
		rsp, err := m.guests().Define(ctx, &pb.DefineRequest{Connection: m.cfg.Connection, Xml: xml})
		return rsp.GetUuid(), rsp.GetSeq(), err
	})
	if err != nil {
		return nil, err
	}
	return m.ByUUID(id)
}

// Undefine takes the domain out of the hypervisor's inventory; flags are virDomainUndefineFlagsValues.
func (d *Domain) Undefine(ctx context.Context, flags uint32) error {
	if err := refuse(flags, undefineKnown); err != nil {
		return err
	}
	return d.change(ctx, func(ctx context.Context, g *hypervisorv1.Guest) (uint64, error) {
		rsp, err := d.m.guests().Undefine(ctx, &pb.UndefineRequest{Guest: g, Snapshots: flags&undefineSnapshots != 0})
		return rsp.GetSeq(), err
	}, func(s *guest) bool { return s.gone })
}

// Start powers the domain on; there are no flags that it takes.
func (d *Domain) Start(ctx context.Context, flags uint32) error {
	if err := refuse(flags, 0); err != nil {
		return err
	}
	return d.change(ctx, func(ctx context.Context, g *hypervisorv1.Guest) (uint64, error) {
		rsp, err := d.m.guests().Start(ctx, &pb.StartRequest{Guest: g})
		return rsp.GetSeq(), err
	}, active)
}

// Destroy powers the domain off at once, beside whatever else is being done to it; flags are virDomainDestroyFlagsValues.
func (d *Domain) Destroy(ctx context.Context, flags uint32) error {
	if err := refuse(flags, destroyGraceful); err != nil {
		return err
	}
	if _, err := d.now(); err != nil {
		return err
	}
	return d.m.change(ctx, func(ctx context.Context) (uint64, error) {
		rsp, err := d.m.guests().Stop(ctx, &pb.StopRequest{Guest: d.ref()})
		return rsp.GetSeq(), err
	}, func() bool { return !active(d.state.Load()) })
}

// SetAutostart says whether the hypervisor's host starts the domain.
func (d *Domain) SetAutostart(ctx context.Context, on bool) error {
	return d.change(ctx, func(ctx context.Context, g *hypervisorv1.Guest) (uint64, error) {
		rsp, err := d.m.guests().SetAutostart(ctx, &pb.SetAutostartRequest{Guest: g, Autostart: on})
		return rsp.GetSeq(), err
	}, func(s *guest) bool { return !s.gone && s.view.Autostart == on })
}

// turn asks for a change of state and waits until the picture has the state that the driver has answered, if it has one.
func (d *Domain) turn(
	ctx context.Context, ask func(context.Context, hypervisorv1.LifecycleServiceClient, *hypervisorv1.Guest) (*hypervisorv1.Change, error),
	done func(*guest) bool,
) error {
	return d.change(ctx, func(ctx context.Context, g *hypervisorv1.Guest) (uint64, error) {
		change, err := ask(ctx, hypervisorv1.NewLifecycleServiceClient(d.m.cfg.Plugin), g)
		if err != nil || change.GetState() == hypervisorv1.State_STATE_UNSPECIFIED {
			return 0, err
		}
		wait, cancel := context.WithTimeout(ctx, seenWait)
		defer cancel()
		_, _ = d.m.wait(wait, func(progress) bool { // seen late, at worst
			s := d.state.Load()
			return s.gone || s.view.State == domain.State(change.GetState())
		})
		return 0, nil
	}, done)
}

// Shutdown asks the guest to power off; modes are virDomainShutdownFlagValues.
func (d *Domain) Shutdown(ctx context.Context, modes uint32) error {
	return d.turn(ctx, func(ctx context.Context, c hypervisorv1.LifecycleServiceClient, g *hypervisorv1.Guest) (*hypervisorv1.Change, error) {
		rsp, err := c.Shutdown(ctx, &hypervisorv1.ShutdownRequest{Guest: g, Modes: modes})
		return rsp.GetChange(), err
	}, inactive)
}

// Reboot asks the guest to reboot; modes are virDomainRebootFlagValues.
func (d *Domain) Reboot(ctx context.Context, modes uint32) error {
	return d.turn(ctx, func(ctx context.Context, c hypervisorv1.LifecycleServiceClient, g *hypervisorv1.Guest) (*hypervisorv1.Change, error) {
		rsp, err := c.Reboot(ctx, &hypervisorv1.RebootRequest{Guest: g, Modes: modes})
		return rsp.GetChange(), err
	}, nil)
}

// Reset is the reset button.
func (d *Domain) Reset(ctx context.Context) error {
	return d.turn(ctx, func(ctx context.Context, c hypervisorv1.LifecycleServiceClient, g *hypervisorv1.Guest) (*hypervisorv1.Change, error) {
		rsp, err := c.Reset(ctx, &hypervisorv1.ResetRequest{Guest: g})
		return rsp.GetChange(), err
	}, nil)
}

// Suspend stops the guest.
func (d *Domain) Suspend(ctx context.Context) error {
	return d.turn(ctx, func(ctx context.Context, c hypervisorv1.LifecycleServiceClient, g *hypervisorv1.Guest) (*hypervisorv1.Change, error) {
		rsp, err := c.Suspend(ctx, &hypervisorv1.SuspendRequest{Guest: g})
		return rsp.GetChange(), err
	}, func(s *guest) bool { return !s.gone && s.view.State == domain.Paused })
}

// Resume lets it go on.
func (d *Domain) Resume(ctx context.Context) error {
	return d.turn(ctx, func(ctx context.Context, c hypervisorv1.LifecycleServiceClient, g *hypervisorv1.Guest) (*hypervisorv1.Change, error) {
		rsp, err := c.Resume(ctx, &hypervisorv1.ResumeRequest{Guest: g})
		return rsp.GetChange(), err
	}, func(s *guest) bool { return !s.gone && s.view.State == domain.Running })
}

func (d *Domain) tuning() pb.TuningServiceClient { return pb.NewTuningServiceClient(d.m.cfg.Plugin) }

// tunable checks the flags of a change of what the guest is given: there is one definition, which is the guest's.
func (d *Domain) tunable(flags uint32) error {
	s, err := d.now()
	if err != nil {
		return err
	}
	return s.impact(flags &^ setMaximum)
}

// SetVCPUs changes the number of vCPUs; flags are virDomainVcpuFlags.
func (d *Domain) SetVCPUs(ctx context.Context, count, flags uint32) error {
	if err := d.tunable(flags); err != nil {
		return err
	}
	if count == 0 {
		return verr.New(verr.InvalidArg, "a guest has at least one vCPU")
	}
	return d.change(ctx, func(ctx context.Context, g *hypervisorv1.Guest) (uint64, error) {
		rsp, err := d.tuning().SetVCPUs(ctx, &pb.SetVCPUsRequest{Guest: g, Vcpus: count})
		return rsp.GetSeq(), err
	}, func(s *guest) bool { return !s.gone && s.view.VCPUs == count })
}

// SetMemory changes the memory; flags are virDomainMemoryModFlags.
func (d *Domain) SetMemory(ctx context.Context, kib uint64, flags uint32) error {
	if err := d.tunable(flags); err != nil {
		return err
	}
	if kib == 0 {
		return verr.New(verr.InvalidArg, "a guest has some memory")
	}
	return d.change(ctx, func(ctx context.Context, g *hypervisorv1.Guest) (uint64, error) {
		rsp, err := d.tuning().SetMemory(ctx, &pb.SetMemoryRequest{Guest: g, Kib: kib, Maximum: flags&setMaximum != 0})
		return rsp.GetSeq(), err
	}, nil)
}

// Scheduler returns the name of the scheduler and its parameters.
func (d *Domain) Scheduler() (name string, parameters []*hypervisorv1.Stat, err error) {
	s, err := d.now()
	if err == nil && s.object.GetScheduler() == "" {
		err = verr.New(verr.NoSupport, "the hypervisor tells nothing of a scheduler")
	}
	if err != nil {
		return "", nil, err
	}
	return s.object.GetScheduler(), s.object.GetSchedulerParameters(), nil
}

// SetScheduler changes the parameters that are named.
func (d *Domain) SetScheduler(ctx context.Context, parameters []*hypervisorv1.Stat, impact uint32) error {
	s, err := d.now()
	if err == nil {
		err = s.impact(impact)
	}
	if err != nil {
		return err
	}
	return d.change(ctx, func(ctx context.Context, g *hypervisorv1.Guest) (uint64, error) {
		rsp, err := d.tuning().SetScheduler(ctx, &pb.SetSchedulerRequest{Guest: g, Parameters: parameters})
		return rsp.GetSeq(), err
	}, nil)
}

// FromNative reads a definition in a format of the hypervisor's.
func (m *Mirror) FromNative(ctx context.Context, format, native string) (string, error) {
	if len(native) > maxXML {
		return "", verr.New(verr.InvalidArg, "definition has %d bytes, at most %d are allowed", len(native), maxXML)
	}
	rsp, err := pb.NewNativeServiceClient(m.cfg.Plugin).FromNative(ctx, &pb.FromNativeRequest{
		Connection: m.cfg.Connection, Format: format, Native: native,
	})
	return rsp.GetXml(), err
}

// ToNative writes one.
func (m *Mirror) ToNative(ctx context.Context, format, xml string) (string, error) {
	if err := checkXML(xml, "domain"); err != nil {
		return "", err
	}
	rsp, err := pb.NewNativeServiceClient(m.cfg.Plugin).ToNative(ctx, &pb.ToNativeRequest{
		Connection: m.cfg.Connection, Format: format, Xml: xml,
	})
	return rsp.GetNative(), err
}

func (m *Mirror) migration() pb.MigrationServiceClient {
	return pb.NewMigrationServiceClient(m.cfg.Plugin)
}

// PrepareMigration asks where a guest is to be sent.
func (m *Mirror) PrepareMigration(ctx context.Context, uri string, flags uint64, name string) (string, error) {
	rsp, err := m.migration().PrepareMigration(ctx, &pb.PrepareMigrationRequest{
		Connection: m.cfg.Connection, Uri: uri, Flags: flags, Name: name,
	})
	return rsp.GetUri(), err
}

// PerformMigration sends the guest there.
func (d *Domain) PerformMigration(ctx context.Context, uri string, flags uint64, name string) error {
	return d.change(ctx, func(ctx context.Context, g *hypervisorv1.Guest) (uint64, error) {
		rsp, err := d.m.migration().PerformMigration(ctx, &pb.PerformMigrationRequest{Guest: g, Uri: uri, Flags: flags, Name: name})
		return rsp.GetSeq(), err
	}, nil)
}

// FinishMigration finds the guest that was sent here.
func (m *Mirror) FinishMigration(ctx context.Context, name, uri string, flags uint64) (connection.Domain, error) {
	id, err := m.made(ctx, func(ctx context.Context) (string, uint64, error) {
		rsp, err := m.migration().FinishMigration(ctx, &pb.FinishMigrationRequest{
			Connection: m.cfg.Connection, Name: name, Uri: uri, Flags: flags,
		})
		return rsp.GetUuid(), rsp.GetSeq(), err
	})
	if err != nil {
		return nil, err
	}
	return m.ByUUID(id)
}
