package cmdline

import (
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// cpu writes the CPU model with its features, paravirtualization and timers.
func (b *builder) cpu() error {
	model, features, err := b.cpuModel()
	if err != nil {
		return err
	}
	o := options{model}
	for _, f := range features {
		switch f.Policy {
		case "", "force", "require":
			o.add(featureName(f.Name) + "=on")
		case "disable", "forbid":
			o.add(featureName(f.Name) + "=off")
		}
	}
	for _, t := range b.timers("tsc") {
		if t.Frequency != 0 {
			o.add(fmt.Sprintf("tsc-frequency=%d", t.Frequency))
		}
	}
	for _, t := range b.timers("kvmclock") {
		o.add("kvmclock=" + onOff(t.Present != "no"))
	}
	for _, t := range b.timers("hypervclock") {
		o.add("hv-time=" + onOff(t.Present != "no"))
	}
	if f := b.d.Features; f != nil {
		if f.APIC != nil && f.APIC.EOI != "" {
			o.add("kvm-pv-eoi=" + f.APIC.EOI)
		}
		addState(&o, "kvm-pv-unhalt", f.PVSpinlock)
		addState(&o, "pmu", f.PMU)
		o.add(hyperV(f.HyperV)...)
		o.add(kvmFeatures(f.KVM)...)
	}
	for _, p := range b.dev.Panics {
		if p.Model == "hyperv" {
			o.add("hv-crash=on")
		}
	}
	b.arg("-cpu", o.String())
	return nil
}

// featureName translates libvirt's name of a CPU feature to QEMU's.
func featureName(name string) string {
	if name == "pclmuldq" {
		return "pclmulqdq"
	}
	return escape(strings.ReplaceAll(name, "_", "-"))
}

func (b *builder) cpuModel() (string, []libvirtxml.DomainCPUFeature, error) {
	c := b.d.CPU
	switch c.Mode {
	case "host-passthrough":
		return "host" + migratable(c), c.Features, nil
	case "maximum":
		return "max" + migratable(c), c.Features, nil
	case "host-model":
		if m := b.plan.HostModel; m != nil && m.Model != nil {
			return escape(m.Model.Value), append(m.Features[:len(m.Features):len(m.Features)], c.Features...), nil
		}
		if b.d.Type == "kvm" {
			return "host,migratable=on", c.Features, nil
		}
		return "max", c.Features, nil
	}
	if c.Model == nil || c.Model.Value == "" {
		return "", nil, unsupported("CPU model is missing")
	}
	model := escape(c.Model.Value)
	if c.Model.VendorID != "" {
		model += ",vendor=" + escape(c.Model.VendorID)
	}
	return model, c.Features, nil
}

func migratable(c *libvirtxml.DomainCPU) string {
	if c.Migratable == "" {
		return ""
	}
	return ",migratable=" + c.Migratable
}

func addState(o *options, key string, s *libvirtxml.DomainFeatureState) {
	if s != nil && s.State != "" {
		o.add(key + "=" + s.State)
	}
}

// hyperV lists the Hyper-V enlightenments that are on.
func hyperV(h *libvirtxml.DomainFeatureHyperV) options {
	var o options
	if h == nil {
		return o
	}
	if h.Mode == "passthrough" {
		return options{"hv-passthrough=on"}
	}
	for _, f := range []struct {
		key   string
		state *libvirtxml.DomainFeatureState
	}{
		{"relaxed", h.Relaxed},
		{"vapic", h.VAPIC},
		{"vpindex", h.VPIndex},
		{"runtime", h.Runtime},
		{"synic", h.Synic},
		{"reset", h.Reset},
		{"frequencies", h.Frequencies},
		{"reenlightenment", h.ReEnlightenment},
		{"ipi", h.IPI},
		{"evmcs", h.EVMCS},
		{"avic", h.AVIC},
		{"emsr-bitmap", h.EMSRBitmap},
		{"xmm-input", h.XMMInput},
	} {
		if f.state != nil && f.state.State == "on" {
			o.add("hv-" + f.key + "=on")
		}
	}
	if s := h.Spinlocks; s != nil && s.State == "on" {
		o.add(fmt.Sprintf("hv-spinlocks=0x%x", s.Retries))
	}
	if s := h.STimer; s != nil && s.State == "on" {
		o.add("hv-stimer=on")
		if s.Direct != nil && s.Direct.State == "on" {
			o.add("hv-stimer-direct=on")
		}
	}
	if s := h.VendorId; s != nil && s.State == "on" {
		o.add("hv-vendor-id=" + escape(s.Value))
	}
	if s := h.TLBFlush; s != nil && s.State == "on" {
		o.add("hv-tlbflush=on")
	}
	return o
}

func kvmFeatures(k *libvirtxml.DomainFeatureKVM) options {
	var o options
	if k == nil {
		return o
	}
	if k.Hidden != nil && k.Hidden.State == "on" {
		o.add("kvm=off")
	}
	if k.HintDedicated != nil && k.HintDedicated.State == "on" {
		o.add("kvm-hint-dedicated=on")
	}
	if k.PollControl != nil && k.PollControl.State == "on" {
		o.add("kvm-poll-control=on")
	}
	if k.PVIPI != nil && k.PVIPI.State == "off" {
		o.add("kvm-pv-ipi=off")
	}
	return o
}
