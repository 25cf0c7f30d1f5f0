package driver

import (
	"bytes"
	"context"
	"io"

	"github.com/lodgevirt/lodge/plugins/esx/internal/guests"
	"github.com/lodgevirt/lodge/plugins/esx/internal/vmx"
	hv "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// change makes a change of a guest with the connection that it is on.
func (d *Driver) change(ctx context.Context, g *hv.Guest, call func(*guests.Guests) (uint64, error)) (uint64, error) {
	p, done, err := d.guest(ctx, g)
	if err != nil {
		return 0, err
	}
	defer done()
	return call(p.guests)
}

// Describe implements inventory.Guests.
func (d *Driver) Describe(ctx context.Context, req *pb.DescribeRequest) (*pb.DescribeResponse, error) {
	p, done, err := d.guest(ctx, req.GetGuest())
	if err != nil {
		return nil, err
	}
	defer done()
	xml, err := p.guests.Describe(ctx, req.GetGuest())
	return &pb.DescribeResponse{Xml: xml}, err
}

// Define implements inventory.Guests.
func (d *Driver) Define(ctx context.Context, req *pb.DefineRequest) (*pb.DefineResponse, error) {
	p, done, err := d.parts(ctx, req.GetConnection())
	if err != nil {
		return nil, err
	}
	defer done()
	id, seq, err := p.guests.Define(ctx, req.GetXml())
	return &pb.DefineResponse{Uuid: id, Seq: seq}, err
}

// Undefine implements inventory.Guests.
func (d *Driver) Undefine(ctx context.Context, req *pb.UndefineRequest) (*pb.UndefineResponse, error) {
	seq, err := d.change(ctx, req.GetGuest(), func(g *guests.Guests) (uint64, error) {
		return g.Undefine(ctx, req.GetGuest(), req.GetSnapshots())
	})
	return &pb.UndefineResponse{Seq: seq}, err
}

// Start implements inventory.Guests.
func (d *Driver) Start(ctx context.Context, req *pb.StartRequest) (*pb.StartResponse, error) {
	seq, err := d.change(ctx, req.GetGuest(), func(g *guests.Guests) (uint64, error) { return g.Start(ctx, req.GetGuest()) })
	return &pb.StartResponse{Seq: seq}, err
}

// Stop implements inventory.Guests.
func (d *Driver) Stop(ctx context.Context, req *pb.StopRequest) (*pb.StopResponse, error) {
	seq, err := d.change(ctx, req.GetGuest(), func(g *guests.Guests) (uint64, error) { return g.Stop(ctx, req.GetGuest()) })
	return &pb.StopResponse{Seq: seq}, err
}

// SetAutostart implements inventory.Guests.
func (d *Driver) SetAutostart(ctx context.Context, req *pb.SetAutostartRequest) (*pb.SetAutostartResponse, error) {
	seq, err := d.change(ctx, req.GetGuest(), func(g *guests.Guests) (uint64, error) {
		return g.SetAutostart(ctx, req.GetGuest(), req.GetAutostart())
	})
	return &pb.SetAutostartResponse{Seq: seq}, err
}

// SetVCPUs implements inventory.Tuning.
func (d *Driver) SetVCPUs(ctx context.Context, req *pb.SetVCPUsRequest) (*pb.SetVCPUsResponse, error) {
	seq, err := d.change(ctx, req.GetGuest(), func(g *guests.Guests) (uint64, error) { return g.SetVCPUs(ctx, req.GetGuest(), req.GetVcpus()) })
	return &pb.SetVCPUsResponse{Seq: seq}, err
}

// SetMemory implements inventory.Tuning.
func (d *Driver) SetMemory(ctx context.Context, req *pb.SetMemoryRequest) (*pb.SetMemoryResponse, error) {
	seq, err := d.change(ctx, req.GetGuest(), func(g *guests.Guests) (uint64, error) {
		return g.SetMemory(ctx, req.GetGuest(), req.GetKib(), req.GetMaximum())
	})
	return &pb.SetMemoryResponse{Seq: seq}, err
}

// SetScheduler implements inventory.Tuning.
func (d *Driver) SetScheduler(ctx context.Context, req *pb.SetSchedulerRequest) (*pb.SetSchedulerResponse, error) {
	seq, err := d.change(ctx, req.GetGuest(), func(g *guests.Guests) (uint64, error) {
		return g.SetScheduler(ctx, req.GetGuest(), req.GetParameters())
	})
	return &pb.SetSchedulerResponse{Seq: seq}, err
}

// CreateSnapshot implements inventory.Snapshots.
func (d *Driver) CreateSnapshot(ctx context.Context, req *pb.CreateSnapshotRequest) (*pb.CreateSnapshotResponse, error) {
	seq, err := d.change(ctx, req.GetGuest(), func(g *guests.Guests) (uint64, error) { return g.CreateSnapshot(ctx, req) })
	return &pb.CreateSnapshotResponse{Seq: seq}, err
}

// RevertToSnapshot implements inventory.Snapshots.
func (d *Driver) RevertToSnapshot(ctx context.Context, req *pb.RevertToSnapshotRequest) (*pb.RevertToSnapshotResponse, error) {
	seq, err := d.change(ctx, req.GetGuest(), func(g *guests.Guests) (uint64, error) { return g.RevertToSnapshot(ctx, req) })
	return &pb.RevertToSnapshotResponse{Seq: seq}, err
}

// DeleteSnapshot implements inventory.Snapshots.
func (d *Driver) DeleteSnapshot(ctx context.Context, req *pb.DeleteSnapshotRequest) (*pb.DeleteSnapshotResponse, error) {
	seq, err := d.change(ctx, req.GetGuest(), func(g *guests.Guests) (uint64, error) { return g.DeleteSnapshot(ctx, req) })
	return &pb.DeleteSnapshotResponse{Seq: seq}, err
}

// PrepareMigration implements inventory.Migration.
func (d *Driver) PrepareMigration(ctx context.Context, req *pb.PrepareMigrationRequest) (*pb.PrepareMigrationResponse, error) {
	p, done, err := d.parts(ctx, req.GetConnection())
	if err != nil {
		return nil, err
	}
	defer done()
	uri, err := p.guests.PrepareMigration(ctx, req)
	return &pb.PrepareMigrationResponse{Uri: uri}, err
}

// PerformMigration implements inventory.Migration.
func (d *Driver) PerformMigration(ctx context.Context, req *pb.PerformMigrationRequest) (*pb.PerformMigrationResponse, error) {
	seq, err := d.change(ctx, req.GetGuest(), func(g *guests.Guests) (uint64, error) { return g.PerformMigration(ctx, req) })
	return &pb.PerformMigrationResponse{Seq: seq}, err
}

// FinishMigration implements inventory.Migration.
func (d *Driver) FinishMigration(ctx context.Context, req *pb.FinishMigrationRequest) (*pb.FinishMigrationResponse, error) {
	p, done, err := d.parts(ctx, req.GetConnection())
	if err != nil {
		return nil, err
	}
	defer done()
	id, seq, err := p.guests.FinishMigration(ctx, req)
	return &pb.FinishMigrationResponse{Uuid: id, Seq: seq}, err
}

// nativeFormat is the only format of definitions of ESX's.
const nativeFormat = "vmware-vmx"

// unknownFolder is where the files of a .vmx file are that nobody knows the place of, as libvirt's own driver writes it.
var unknownFolder = vmx.Folder{Datastore: "?", Path: "?"}

// FromNative implements inventory.Natives.
func (d *Driver) FromNative(_ context.Context, req *pb.FromNativeRequest) (*pb.FromNativeResponse, error) {
	if err := checkFormat(req.GetFormat()); err != nil {
		return nil, err
	}
	xml, err := vmx.ToXML(req.GetNative(), vmx.Context{Names: unknownFolder})
	return &pb.FromNativeResponse{Xml: xml}, err
}

// ToNative implements inventory.Natives.
func (d *Driver) ToNative(ctx context.Context, req *pb.ToNativeRequest) (*pb.ToNativeResponse, error) {
	if err := checkFormat(req.GetFormat()); err != nil {
		return nil, err
	}
	p, done, err := d.parts(ctx, req.GetConnection())
	if err != nil {
		return nil, err
	}
	defer done()
	native, err := vmx.Format(req.GetXml(), vmx.Context{Names: unknownFolder, HardwareVersion: p.guests.HardwareVersion()})
	return &pb.ToNativeResponse{Native: native}, err
}

func checkFormat(format string) error {
	if format != nativeFormat {
		return verr.New(verr.InvalidArg, "Unsupported config format '%s', expecting '%s'", format, nativeFormat).In(verr.FromESX)
	}
	return nil
}

// Shutdown implements hypervisor.Lifecycle.
func (d *Driver) Shutdown(ctx context.Context, req *hv.ShutdownRequest) (*hv.ShutdownResponse, error) {
	_, err := d.change(ctx, req.GetGuest(), func(g *guests.Guests) (uint64, error) { return 0, g.Shutdown(ctx, req.GetGuest()) })
	return &hv.ShutdownResponse{Change: &hv.Change{}}, err
}

// Reboot implements hypervisor.Lifecycle.
func (d *Driver) Reboot(ctx context.Context, req *hv.RebootRequest) (*hv.RebootResponse, error) {
	_, err := d.change(ctx, req.GetGuest(), func(g *guests.Guests) (uint64, error) { return 0, g.Reboot(ctx, req.GetGuest()) })
	return &hv.RebootResponse{Change: &hv.Change{}}, err
}

// Reset implements hypervisor.Lifecycle.
func (d *Driver) Reset(ctx context.Context, req *hv.ResetRequest) (*hv.ResetResponse, error) {
	_, err := d.change(ctx, req.GetGuest(), func(g *guests.Guests) (uint64, error) { return g.Reset(ctx, req.GetGuest()) })
	return &hv.ResetResponse{Change: &hv.Change{}}, err
}

// Suspend implements hypervisor.Lifecycle.
func (d *Driver) Suspend(ctx context.Context, req *hv.SuspendRequest) (*hv.SuspendResponse, error) {
	_, err := d.change(ctx, req.GetGuest(), func(g *guests.Guests) (uint64, error) { return g.Suspend(ctx, req.GetGuest()) })
	return &hv.SuspendResponse{Change: &hv.Change{State: hv.State_STATE_PAUSED}}, err
}

// Resume implements hypervisor.Lifecycle.
func (d *Driver) Resume(ctx context.Context, req *hv.ResumeRequest) (*hv.ResumeResponse, error) {
	_, err := d.change(ctx, req.GetGuest(), func(g *guests.Guests) (uint64, error) { return g.Resume(ctx, req.GetGuest()) })
	return &hv.ResumeResponse{Change: &hv.Change{State: hv.State_STATE_RUNNING}}, err
}

// Screenshot implements hypervisor.Screenshooter.
func (d *Driver) Screenshot(ctx context.Context, req *hv.ScreenshotRequest) (string, io.ReadCloser, error) {
	p, done, err := d.guest(ctx, req.GetGuest())
	if err != nil {
		return "", nil, err
	}
	defer done()
	kind, picture, err := p.guests.Screenshot(ctx, req.GetGuest(), req.GetScreen())
	return kind, io.NopCloser(bytes.NewReader(picture)), err
}

// GuestStats implements hypervisor.Stats.
func (d *Driver) GuestStats(ctx context.Context, guest *hv.GuestHandle, groups uint32) ([]*hv.Stat, error) {
	p, done, err := d.guest(ctx, guest.GetGuest())
	if err != nil {
		return nil, err
	}
	defer done()
	return p.guests.Stats(ctx, guest.GetGuest(), groups)
}

// DomainCapabilities implements hypervisor.Capabilities.
func (d *Driver) DomainCapabilities(ctx context.Context, req *hv.DomainCapabilitiesRequest) (*hv.DomainCapabilitiesResponse, error) {
	p, done, err := d.parts(ctx, req.GetConnection())
	if err != nil {
		return nil, err
	}
	defer done()
	if kind := req.GetVirtType(); kind != "" && kind != "vmware" {
		return nil, verr.New(verr.InvalidArg, "virtualization type '%s' is not supported, expecting 'vmware'", kind).In(verr.FromESX)
	}
	return &hv.DomainCapabilitiesResponse{Xml: p.guests.DomainCapabilities()}, nil
}

// CPUModels implements hypervisor.Capabilities: ESX hands the host's CPU to its guests.
func (d *Driver) CPUModels(context.Context, *hv.CPUModelsRequest) (*hv.CPUModelsResponse, error) {
	return &hv.CPUModelsResponse{}, nil
}
