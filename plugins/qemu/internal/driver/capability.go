package driver

import (
	"context"
	"os"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/capabilities"
	"github.com/lodgevirt/lodge/sdk/hypervisor"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

var _ hypervisor.Capabilities = (*Driver)(nil)

// Probe implements hypervisor.Driver.
func (d *Driver) Probe(ctx context.Context, _ *pb.ProbeRequest) (*pb.ProbeResponse, error) {
	owner := capabilities.Owner{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	runs, err := d.runsAs()
	if err != nil {
		return nil, err
	}
	if runs != nil {
		owner = capabilities.Owner{UID: runs.UID, GID: runs.GID}
	}
	return d.reporter.Probe(ctx, owner)
}

// DomainCapabilities implements hypervisor.Capabilities.
func (d *Driver) DomainCapabilities(ctx context.Context, req *pb.DomainCapabilitiesRequest) (*pb.DomainCapabilitiesResponse, error) {
	return d.reporter.DomainCapabilities(ctx, req)
}

// CPUModels implements hypervisor.Capabilities.
func (d *Driver) CPUModels(ctx context.Context, req *pb.CPUModelsRequest) (*pb.CPUModelsResponse, error) {
	return d.reporter.CPUModels(ctx, req)
}
