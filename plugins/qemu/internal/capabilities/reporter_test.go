package capabilities

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/probe"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func reporter(t *testing.T, dirs ...string) (*Reporter, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return NewReporter(probe.New(probe.Options{Dirs: dirs}), hclog.NewNullLogger()), ctx
}

func TestReporterOfARealQEMU(t *testing.T) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip(err)
	}
	r, ctx := reporter(t)
	resp, err := r.Probe(ctx, Owner{UID: 64055, GID: 108})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Version == 0 || resp.MaxVcpus["qemu"] < 255 || resp.MaxVcpus[""] == 0 || resp.Type != "QEMU" {
		t.Errorf("version %d, vcpus %v", resp.Version, resp.MaxVcpus)
	}
	if !strings.Contains(resp.HostXml, `<baselabel type="kvm">+64055:+108</baselabel>`) {
		t.Errorf("host %s", resp.HostXml)
	}
	for _, req := range []*pb.DomainCapabilitiesRequest{
		{}, {VirtType: "qemu"}, {Machine: "q35", VirtType: "qemu", Arch: "x86_64"}, {Emulator: "/usr/bin/qemu-system-x86_64"},
	} {
		if doc, err := r.DomainCapabilities(ctx, req); err != nil || !strings.HasPrefix(doc.Xml, "<domainCapabilities>") {
			t.Errorf("%v: %v", req, err)
		}
	}
}

func TestReporterOfAMachineWithoutEmulators(t *testing.T) {
	r, ctx := reporter(t, t.TempDir())
	resp, err := r.Probe(ctx, Owner{})
	if err != nil || resp.GuestsXml != "" || resp.Version != 0 || len(resp.MaxVcpus) != 0 {
		t.Errorf("%v, %v", resp, err)
	}
	if _, err := r.DomainCapabilities(ctx, &pb.DomainCapabilitiesRequest{}); !verr.Is(err, verr.InvalidArg) {
		t.Errorf("domain capabilities: %v", err)
	}
}

func TestReporterPassesOverABrokenEmulator(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "qemu-system-x86_64")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	r, ctx := reporter(t, dir)
	if resp, err := r.Probe(ctx, Owner{}); err != nil || resp.GuestsXml != "" {
		t.Errorf("%v, %v", resp, err)
	}
	if _, err := r.DomainCapabilities(ctx, &pb.DomainCapabilitiesRequest{Emulator: path}); !verr.Is(err, verr.InvalidArg) || !strings.Contains(err.Error(), path) {
		t.Errorf("domain capabilities: %v", err)
	}
}

func TestReporterKnowsNoUnknownArchitecture(t *testing.T) {
	r, ctx := reporter(t)
	if _, err := r.CPUModels(ctx, &pb.CPUModelsRequest{Arch: "vax"}); !verr.Is(err, verr.InvalidArg) {
		t.Errorf("vax: %v", err)
	}
	if resp, err := r.CPUModels(ctx, &pb.CPUModelsRequest{Arch: "x86_64"}); err != nil || resp.Models[0] != "486" {
		t.Errorf("x86_64: %v, %v", resp, err)
	}
}
