package driver

import (
	"context"

	"github.com/lodgevirt/lodge/plugins/test/internal/sample"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// DomainCapabilities describes the only kind of guest that there is.
func (d *Driver) DomainCapabilities(
	_ context.Context, req *pb.DomainCapabilitiesRequest,
) (*pb.DomainCapabilitiesResponse, error) {
	xml, err := sample.DomainCapabilities(req.GetEmulator(), req.GetArch(), req.GetMachine(), req.GetVirtType())
	return &pb.DomainCapabilitiesResponse{Xml: xml}, err
}

// CPUModels lists libvirt's CPU models.
func (d *Driver) CPUModels(_ context.Context, req *pb.CPUModelsRequest) (*pb.CPUModelsResponse, error) {
	names, err := sample.CPUModels(req.GetArch())
	return &pb.CPUModelsResponse{Models: names}, err
}
