package driver

import (
	"context"
	"errors"
	"io/fs"
	"runtime"
	"sync"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/define"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/probe"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// hostArchs are libvirt's names of architectures by Go's.
var hostArchs = map[string]string{
	"amd64": "x86_64", "386": "i686", "arm64": "aarch64", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64",
}

// Validate implements hypervisor.Driver.
func (d *Driver) Validate(ctx context.Context, req *pb.ValidateRequest) (*pb.ValidateResponse, error) {
	def, err := domxml.Parse(req.GetXml())
	if err != nil {
		return nil, err
	}
	if err := checkTaps(def); err != nil {
		return nil, err
	}
	if err := domxml.Complete(def); err != nil {
		return nil, err
	}
	b, err := d.emulator(ctx, def)
	if err != nil {
		return nil, err
	}
	if err := define.Complete(def, d.envs.of(b)); err != nil {
		return nil, err
	}
	text, err := domxml.Format(def)
	if err != nil {
		return nil, err
	}
	return &pb.ValidateResponse{Xml: text, Summary: domxml.Summarize(def)}, nil
}

// emulator finds the emulator of a definition and what it can do.
func (d *Driver) emulator(ctx context.Context, def *libvirtxml.Domain) (*probe.Binary, error) {
	if def.Type != "kvm" && def.Type != "qemu" {
		return nil, verr.New(verr.ConfigUnsupported, "the qemu driver has no domains of type '%s'", def.Type)
	}
	arch := hostArchs[runtime.GOARCH]
	if def.OS != nil && def.OS.Type != nil && def.OS.Type.Arch != "" {
		arch = def.OS.Type.Arch
	}
	b, err := d.binary(ctx, def, arch)
	if err != nil {
		return nil, err
	}
	if def.Type == "kvm" && !b.KVM {
		return nil, verr.New(verr.ConfigUnsupported, "Emulator '%s' does not support virt type 'kvm'", b.Path)
	}
	return b, nil
}

func (d *Driver) binary(ctx context.Context, def *libvirtxml.Domain, arch string) (*probe.Binary, error) {
	if def.Devices != nil && def.Devices.Emulator != "" {
		b, err := d.prober.Binary(ctx, def.Devices.Emulator)
		if err != nil {
			return nil, verr.New(verr.ConfigUnsupported, "Cannot use emulator: %w", err)
		}
		return b, nil
	}
	b, err := d.prober.OfArch(ctx, arch)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, verr.New(verr.ConfigUnsupported, "could not find an emulator for architecture '%s'", arch)
	case err != nil:
		return nil, err
	}
	return b, nil
}

// envs remembers what package define has to know of each emulator, which takes longer to put together than to use. It is safe
// concurrently. The prober answers with another Binary when an emulator was replaced.
type envs struct {
	mu     sync.Mutex
	byPath map[string]knownEnv
}

type knownEnv struct {
	of  *probe.Binary
	env define.Env
}

// of returns the Env of an emulator, which is shared and only to be read. It is without the firmware, which only a start needs.
func (e *envs) of(b *probe.Binary) define.Env {
	e.mu.Lock()
	defer e.mu.Unlock()
	if known := e.byPath[b.Path]; known.of == b {
		return known.env
	}
	if e.byPath == nil {
		e.byPath = map[string]knownEnv{}
	}
	env := newEnv(b)
	e.byPath[b.Path] = knownEnv{of: b, env: env}
	return env
}

func newEnv(b *probe.Binary) define.Env {
	env := define.Env{
		Emulator: b.Path, Arch: b.Arch, Version: b.Version, DefaultMachine: b.DefaultMachine(), KVM: b.KVM,
		Machines: map[string]string{}, Devices: map[string]bool{},
	}
	for _, m := range b.Machines {
		env.Machines[m.Name] = m.Name
		if m.Alias != "" {
			env.Machines[m.Alias] = m.Name
		}
	}
	for _, name := range b.Types {
		env.Devices[name] = true
	}
	for _, virt := range b.VirtTypes() {
		for _, model := range b.CPUs[virt].Models {
			env.CPUModels = append(env.CPUModels, model.Name)
		}
	}
	return env
}

// firmware reads the installed descriptors; a broken one is passed over and told.
func (d *Driver) firmware() []define.Firmware {
	found, err := probe.Firmwares(probe.DefaultFirmwareDirs)
	if err != nil {
		d.log.Warn("firmware descriptor not usable", "error", err)
	}
	var list []define.Firmware
	for _, f := range found {
		one := define.Firmware{
			Interfaces: f.Interfaces, Executable: f.Executable, Format: f.Format, NVRAMTemplate: f.NVRAMTemplate,
			NVRAMFormat: f.NVRAMFormat, Features: f.Features, Machines: map[string][]string{},
		}
		for _, t := range f.Targets {
			one.Machines[t.Arch] = append(one.Machines[t.Arch], t.Machines...)
		}
		list = append(list, one)
	}
	return list
}
