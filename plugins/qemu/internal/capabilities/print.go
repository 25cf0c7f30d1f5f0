package capabilities

import (
	"encoding/xml"
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// HostXML prints what only a driver knows of the <host> part of the capabilities document: the model of the CPU, unless it is nil,
// and the security models.
func HostXML(cpu *CPU, models []libvirtxml.CapsHostSecModel) (string, error) {
	var out strings.Builder
	if cpu != nil {
		c := libvirtxml.CapsHostCPU{Model: cpu.Model, Vendor: cpu.Vendor}
		for _, f := range cpu.Require {
			c.FeatureFlags = append(c.FeatureFlags, libvirtxml.CapsHostCPUFeatureFlag{Name: f})
		}
		if err := xml.NewEncoder(&out).Encode(&c); err != nil {
			return "", fmt.Errorf("print host cpu: %w", err)
		}
	}
	for _, m := range models {
		named := struct {
			XMLName xml.Name `xml:"secmodel"`
			libvirtxml.CapsHostSecModel
		}{CapsHostSecModel: m}
		if err := xml.NewEncoder(&out).Encode(&named); err != nil {
			return "", fmt.Errorf("print security model: %w", err)
		}
	}
	return out.String(), nil
}

// cpuModes makes the <cpu> element of domain capabilities.
func cpuModes(c Choice) *libvirtxml.DomainCapsCPU {
	onOff := []string{"on", "off"}
	host := libvirtxml.DomainCapsCPUMode{Name: "host-passthrough", Supported: yesNo(c.VirtType == virtKVM)}
	if c.VirtType == virtKVM {
		host.Enums = []libvirtxml.DomainCapsEnum{{Name: "hostPassthroughMigratable", Values: onOff}}
	}
	maximum := libvirtxml.DomainCapsCPUMode{
		Name: "maximum", Supported: "yes", Enums: []libvirtxml.DomainCapsEnum{{Name: "maximumMigratable", Values: onOff}},
	}
	return &libvirtxml.DomainCapsCPU{Modes: []libvirtxml.DomainCapsCPUMode{host, maximum, hostModelMode(c), customMode(c)}}
}

func hostModelMode(c Choice) libvirtxml.DomainCapsCPUMode {
	mode := libvirtxml.DomainCapsCPUMode{Name: "host-model", Supported: "no"}
	cpu, ok := HostModel(c.Binary, c.VirtType)
	if !ok || !isX86(c.Binary) {
		return mode
	}
	mode.Supported, mode.Vendor = "yes", cpu.Vendor
	mode.Models = []libvirtxml.DomainCapsCPUModel{{Name: cpu.Model, Fallback: "forbid"}}
	for _, f := range cpu.Require {
		mode.Features = append(mode.Features, libvirtxml.DomainCapsCPUFeature{Policy: "require", Name: f})
	}
	for _, f := range cpu.Disable {
		mode.Features = append(mode.Features, libvirtxml.DomainCapsCPUFeature{Policy: "disable", Name: f})
	}
	return mode
}

func customMode(c Choice) libvirtxml.DomainCapsCPUMode {
	mode := libvirtxml.DomainCapsCPUMode{Name: "custom", Supported: "yes"}
	for _, m := range c.Binary.CPUs[c.VirtType].Models {
		vendor, known := modelVendor(m.Name)
		if isX86(c.Binary) && !known {
			continue
		}
		entry := libvirtxml.DomainCapsCPUModel{Name: m.Name, Usable: yesNo(m.Usable), Vendor: "unknown"}
		if vendor != "" {
			entry.Vendor = vendor
		}
		if m.Deprecated {
			entry.Deprecated = "yes"
		}
		mode.Models = append(mode.Models, entry)
	}
	if len(mode.Models) == 0 {
		mode.Supported = "no"
	}
	return mode
}
