package capabilities

import (
	"maps"
	"slices"
	"strings"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/probe"
)

// CPU is a CPU as libvirt describes it: a named model, and what must be added to it and taken from it. Names are libvirt's.
type CPU struct {
	// Model is a named one.
	Model string
	// Vendor is the maker: "AMD".
	Vendor string
	// Require are features beyond the model's, Disable those of the model's that are not there; both ascending.
	Require, Disable []string
}

// notFeatures are prefixes of what QEMU lists among the features of a CPU, and no CPU has: QEMU's own services to guests,
// and the details of nested virtualization, which libvirt 9.0 has no names for.
var notFeatures = []string{"kvm", "hv-", "vmx-", "xen-"}

// archCapabilities stand in a register that only Intel's processors have. KVM offers it with others too, where guests may trip
// over it and newer QEMUs have stopped using it.
var archCapabilities = []string{
	"arch-capabilities", "fb-clear", "fbsdp-no", "ibrs-all", "mds-no", "psdp-no", "pschange-mc-no", "rdctl-no", "rsba",
	"sbdr-ssdp-no", "skip-l1dfl-vmentry", "ssb-no", "taa-no", "tsx-ctrl",
}

// HostModel finds the named model that is nearest to the best CPU of a binary under a virtualization type: the one that needs the
// fewest changes, among those of the same maker or of none. ok is false where QEMU cannot tell.
func HostModel(b *probe.Binary, virtType string) (cpu CPU, ok bool) {
	cpus := b.CPUs[virtType]
	have := features(cpus.Best)
	if vendors[cpus.Vendor] != "Intel" {
		for _, f := range archCapabilities {
			delete(have, f)
		}
	}
	if len(have) == 0 {
		return CPU{}, false
	}
	return nearest(cpus.Models, have, vendors[cpus.Vendor], true)
}

// HostCPU finds the named model that the host's own CPU is a superset of, by /proc/cpuinfo. ok is false where QEMU cannot tell.
func HostCPU(b *probe.Binary, cpuinfo string) (cpu CPU, ok bool) {
	flags, vendor := parseFlags(cpuinfo)
	universe := map[string]bool{}
	models := slices.Clone(b.CPUs[virtQEMU].Models)
	for i := range models {
		models[i].Features = intrinsic(b, models[i])
		for _, f := range models[i].Features {
			universe[f] = true
		}
	}
	for _, cpus := range b.CPUs {
		for _, f := range cpus.Best {
			universe[f] = true
		}
	}
	have := map[string]bool{}
	for _, flag := range flags {
		name, ok := flagFeatures[flag]
		if !ok {
			name = strings.ReplaceAll(flag, "_", "-")
		}
		if universe[name] && isFeature(name) {
			have[name] = true
		}
	}
	return nearest(models, have, vendors[vendor], false)
}

// intrinsic are a model's features without those that an accelerator adds to every model. "hypervisor" is one that both add.
func intrinsic(b *probe.Binary, m probe.CPUModel) []string {
	own := slices.Clone(m.Features)
	for _, other := range b.CPUs[virtKVM].Models {
		if other.Name == m.Name {
			own = slices.DeleteFunc(own, func(f string) bool { return !slices.Contains(other.Features, f) })
		}
	}
	return slices.DeleteFunc(own, func(f string) bool { return f == "hypervisor" })
}

// parseFlags finds the features and the maker of the first CPU.
func parseFlags(cpuinfo string) (flags []string, vendor string) {
	for line := range strings.Lines(cpuinfo) {
		name, value, ok := strings.Cut(line, ":")
		if !ok && flags != nil {
			break
		}
		switch strings.TrimSpace(name) {
		case "flags":
			flags = strings.Fields(value)
		case "vendor_id":
			vendor = strings.TrimSpace(value)
		}
	}
	return flags, vendor
}

func isFeature(name string) bool {
	return !slices.ContainsFunc(notFeatures, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

func features(names []string) map[string]bool {
	m := map[string]bool{}
	for _, n := range names {
		if isFeature(n) {
			m[n] = true
		}
	}
	return m
}

// nearest finds the model with the smallest difference to a set of features. Without disable, a model that has more is none.
func nearest(models []probe.CPUModel, have map[string]bool, vendor string, disable bool) (best CPU, found bool) {
	bestCost := 0
	for _, m := range models {
		maker, known := modelVendor(m.Name)
		if !known || len(m.Features) == 0 || (maker != "" && maker != vendor) {
			continue
		}
		c := CPU{Model: m.Name, Vendor: vendor}
		of := features(m.Features)
		for _, f := range slices.Sorted(maps.Keys(of)) {
			if !have[f] {
				c.Disable = append(c.Disable, FeatureName(f))
			}
		}
		if len(c.Disable) > 0 && !disable {
			continue
		}
		for _, f := range slices.Sorted(maps.Keys(have)) {
			if !of[f] {
				c.Require = append(c.Require, FeatureName(f))
			}
		}
		if cost := len(c.Require) + len(c.Disable); !found || cost < bestCost {
			best, bestCost, found = c, cost, true
		}
	}
	return best, found
}
