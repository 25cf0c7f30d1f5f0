package define

import (
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// Machine families that this driver knows the layout of.
const (
	familyPC  = "pc-i440fx-"
	familyQ35 = "pc-q35-"
)

// IsQ35 reports whether a canonical machine type has PCI Express.
func IsQ35(machine string) bool { return strings.HasPrefix(machine, familyQ35) || machine == "q35" }

func completeMachine(c *completion) error {
	if c.d.Type != "kvm" && c.d.Type != "qemu" {
		return unsupported("unexpected domain type '%s', the driver runs 'kvm' and 'qemu'", c.d.Type)
	}
	if c.d.Type == "kvm" && !c.env.KVM {
		return unsupported("domain type 'kvm' is not supported: KVM does not work on this machine")
	}
	if c.d.OS == nil || c.d.OS.Type == nil {
		return malformed("an os <type> must be specified")
	}
	t := c.d.OS.Type
	if t.Type != "hvm" {
		return verr.New(verr.InvalidArg, "could not find capabilities for OS type=%s", t.Type)
	}
	orDefault(&t.Arch, c.env.Arch)
	if t.Arch != c.env.Arch {
		return verr.New(verr.InvalidArg, "could not find capabilities for arch=%s domaintype=%s", t.Arch, c.d.Type)
	}
	if t.Machine == "" {
		t.Machine = c.env.DefaultMachine
	}
	canonical, ok := c.env.Machines[t.Machine]
	if !ok {
		return unsupported("Emulator '%s' does not support machine type '%s'", c.env.Emulator, t.Machine)
	}
	if !strings.HasPrefix(canonical, familyPC) && !strings.HasPrefix(canonical, familyQ35) {
		return unsupported("machine type '%s' is not supported by this driver", canonical)
	}
	t.Machine = canonical
	c.q35 = IsQ35(canonical)
	orDefault(&c.dev.Emulator, c.env.Emulator)
	return nil
}

// cpuDefaults are the attributes that libvirt adds to <cpu> for a mode.
var cpuDefaults = map[string]libvirtxml.DomainCPU{
	"host-passthrough": {Check: "none", Migratable: "on"},
	"maximum":          {Check: "none", Migratable: "on"},
	"host-model":       {Check: "partial"},
	"custom":           {Check: "partial", Match: "exact"},
}

// defaultCPUs is the CPU of a guest that names none, by architecture.
var defaultCPUs = map[string]string{"x86_64": "qemu64", "i686": "qemu32"}

func completeCPU(c *completion) error {
	if c.d.CPU == nil {
		c.d.CPU = &libvirtxml.DomainCPU{}
	}
	cpu := c.d.CPU
	if cpu.Mode == "" {
		cpu.Mode = "custom"
	}
	if cpu.Mode == "custom" && (cpu.Model == nil || cpu.Model.Value == "") {
		if len(cpu.Features) > 0 {
			return malformed("Non-empty feature list specified without CPU model")
		}
		cpu.Model = &libvirtxml.DomainCPUModel{Fallback: "forbid", Value: defaultCPUs[c.d.OS.Type.Arch]}
		orDefault(&cpu.Check, "none")
	}
	def, ok := cpuDefaults[cpu.Mode]
	if !ok {
		return malformed("invalid mode attribute '%s' of <cpu>", cpu.Mode)
	}
	if cpu.Mode == "host-passthrough" && c.d.Type != "kvm" {
		return unsupported("CPU mode '%s' for %s %s domain on %s host is not supported by hypervisor",
			cpu.Mode, c.d.OS.Type.Arch, c.d.Type, c.d.OS.Type.Arch)
	}
	orDefault(&cpu.Check, def.Check)
	orDefault(&cpu.Match, def.Match)
	orDefault(&cpu.Migratable, def.Migratable)
	return completeCPUParts(c, cpu)
}

// policies are what a CPU feature may say.
var policies = []string{"force", "require", "optional", "disable", "forbid"}

func completeCPUParts(c *completion, cpu *libvirtxml.DomainCPU) error {
	if cpu.Mode == "custom" {
		orDefault(&cpu.Model.Fallback, "allow")
		name := cpu.Model.Value
		if len(c.env.CPUModels) > 0 && !slices.Contains(c.env.CPUModels, name) {
			return unsupported("Unknown CPU model %s", name)
		}
	}
	seen := map[string]bool{}
	for i := range cpu.Features {
		f := &cpu.Features[i]
		orDefault(&f.Policy, "require")
		switch {
		case f.Name == "":
			return malformed("CPU feature without a name")
		case seen[f.Name]:
			return malformed("CPU feature '%s' specified more than once", f.Name)
		case !slices.Contains(policies, f.Policy):
			return malformed("Invalid CPU feature policy '%s' of feature '%s'", f.Policy, f.Name)
		}
		seen[f.Name] = true
	}
	return completeTopology(c, cpu.Topology)
}

func completeTopology(c *completion, t *libvirtxml.DomainCPUTopology) error {
	if t == nil {
		return nil
	}
	if t.Dies == 0 {
		t.Dies = 1
	}
	if t.Sockets < 1 || t.Cores < 1 || t.Threads < 1 || t.Dies < 1 {
		return malformed("Incomplete CPU topology: sockets, cores and threads must be positive")
	}
	if t.Clusters > 1 {
		return unsupported("CPU clusters are not supported for architecture '%s'", c.d.OS.Type.Arch)
	}
	if c.d.VCPU == nil {
		return nil
	}
	total := uint64(t.Sockets) * uint64(t.Dies) * uint64(t.Cores) * uint64(t.Threads)
	if total != uint64(c.d.VCPU.Value) {
		return unsupported("CPU topology doesn't match maximum vcpu count")
	}
	return nil
}

func completeFeatures(c *completion) error {
	f := c.d.Features
	if f == nil {
		return nil
	}
	if f.HyperV != nil {
		orDefault(&f.HyperV.Mode, "custom")
	}
	if f.SMM != nil {
		orDefault(&f.SMM.State, "on")
		if f.SMM.State == "on" && !c.q35 {
			return unsupported("smm is not available with machine type '%s'", c.d.OS.Type.Machine)
		}
	}
	return nil
}
