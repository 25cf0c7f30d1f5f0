package capabilities

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"github.com/hashicorp/go-hclog"
	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/probe"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Reporter answers the calls of the contract that ask what the hypervisor can do. It keeps nothing but what its prober keeps,
// reads the installed firmware at each call, and is safe concurrently.
type Reporter struct {
	prober       *probe.Prober
	log          hclog.Logger
	firmwareDirs []string
	cpuinfo      string
}

// Owner is whom guests run as.
type Owner struct{ UID, GID uint32 }

// NewReporter makes a Reporter of what a prober finds on this machine.
func NewReporter(prober *probe.Prober, log hclog.Logger) *Reporter {
	return &Reporter{prober: prober, log: log, firmwareDirs: probe.DefaultFirmwareDirs, cpuinfo: "/proc/cpuinfo"}
}

// Probe describes the hypervisor. A machine without any emulator, or with broken ones, is described as it is.
func (r *Reporter) Probe(ctx context.Context, owner Owner) (*pb.ProbeResponse, error) {
	binaries := r.binaries(ctx)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("probe emulators: %w", err)
	}
	guests, err := Guests(binaries)
	if err != nil {
		return nil, err
	}
	label := fmt.Sprintf("+%d:+%d", owner.UID, owner.GID)
	secmodels := []libvirtxml.CapsHostSecModel{
		{Name: "none", DOI: "0"},
		{Name: "dac", DOI: "0", Labels: []libvirtxml.CapsHostSecModelLabel{{Type: virtKVM, Value: label}, {Type: virtQEMU, Value: label}}},
	}
	resp := &pb.ProbeResponse{Type: "QEMU", GuestsXml: guests, MaxVcpus: MaxVCPUs(binaries)}
	var host *CPU
	for _, b := range binaries {
		if b.Native(runtime.GOARCH) {
			resp.Version, host = b.Version, r.hostCPU(b)
			break
		}
	}
	resp.HostXml, err = HostXML(host, secmodels)
	return resp, err
}

func (r *Reporter) binaries(ctx context.Context) []*probe.Binary {
	binaries, err := r.prober.All(ctx)
	if err != nil {
		r.log.Warn("emulators cannot be used", "error", err)
	}
	return binaries
}

func (r *Reporter) hostCPU(b *probe.Binary) *CPU {
	text, err := os.ReadFile(r.cpuinfo)
	if err != nil {
		r.log.Warn("cannot read the host's cpu", "error", err)
		return nil
	}
	if cpu, ok := HostCPU(b, string(text)); ok {
		return &cpu
	}
	return nil
}

// DomainCapabilities answers the call of that name.
func (r *Reporter) DomainCapabilities(ctx context.Context, req *pb.DomainCapabilitiesRequest) (*pb.DomainCapabilitiesResponse, error) {
	lookup := func(path string) (*probe.Binary, error) { return r.prober.Binary(ctx, path) }
	choice, err := Choose(r.binaries(ctx), lookup, req.GetEmulator(), req.GetArch(), req.GetMachine(), req.GetVirtType())
	if err != nil {
		return nil, err
	}
	firmware, err := probe.Firmwares(r.firmwareDirs)
	if err != nil {
		r.log.Warn("firmware cannot be used", "error", err)
	}
	_, missing := exec.LookPath("swtpm")
	doc, err := Domain(choice, Installed{Firmware: firmware, SwTPM: missing == nil})
	if err != nil {
		return nil, err
	}
	return &pb.DomainCapabilitiesResponse{Xml: doc}, nil
}

// CPUModels answers the call of that name. An architecture that libvirt does not know is InvalidArg.
func (r *Reporter) CPUModels(_ context.Context, req *pb.CPUModelsRequest) (*pb.CPUModelsResponse, error) {
	names, ok := Models(req.GetArch())
	if !ok {
		return nil, verr.New(verr.InvalidArg, "cannot find architecture %s", req.GetArch())
	}
	return &pb.CPUModelsResponse{Models: names}, nil
}
