package capabilities

import (
	"encoding/xml"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/probe"
)

// Guests prints a <guest> element for each binary, without a root. Of two binaries for one architecture the first counts.
func Guests(binaries []*probe.Binary) (string, error) {
	var out strings.Builder
	seen := map[string]bool{}
	for _, b := range binaries {
		if seen[b.Arch] {
			continue
		}
		seen[b.Arch] = true
		text, err := xml.Marshal(struct {
			XMLName xml.Name `xml:"guest"`
			libvirtxml.CapsGuest
		}{CapsGuest: guest(b)})
		if err != nil {
			return "", fmt.Errorf("print guest capabilities of %q: %w", b.Path, err)
		}
		out.Write(text)
	}
	return out.String(), nil
}

func guest(b *probe.Binary) libvirtxml.CapsGuest {
	g := libvirtxml.CapsGuest{OSType: "hvm", Arch: libvirtxml.CapsGuestArch{
		Name: b.Arch, WordSize: fmt.Sprint(probe.WordSize(b.Arch)), Emulator: b.Path,
	}}
	// The default machine comes first: clients take the first one.
	machines := slices.Clone(b.Machines)
	slices.SortStableFunc(machines, func(x, y probe.Machine) int { return rank(x) - rank(y) })
	for _, m := range machines {
		entry := libvirtxml.CapsGuestMachine{Name: m.Name, MaxCPUs: m.MaxCPUs}
		if m.Deprecated {
			entry.Deprecated = "yes"
		}
		g.Arch.Machines = append(g.Arch.Machines, entry)
		if m.Alias != "" {
			g.Arch.Machines = append(g.Arch.Machines, libvirtxml.CapsGuestMachine{Name: m.Alias, Canonical: m.Name, MaxCPUs: m.MaxCPUs})
		}
	}
	for _, virtType := range b.VirtTypes() {
		g.Arch.Domains = append(g.Arch.Domains, libvirtxml.CapsGuestDomain{Type: virtType})
	}
	g.Features = guestFeatures(b.Arch)
	return g
}

func rank(m probe.Machine) int {
	if m.Default {
		return 0
	}
	return 1
}

func guestFeatures(arch string) *libvirtxml.CapsGuestFeatures {
	f := &libvirtxml.CapsGuestFeatures{
		CPUSelection: &libvirtxml.CapsGuestFeatureCPUSelection{}, DeviceBoot: &libvirtxml.CapsGuestFeatureDeviceBoot{},
		DiskSnapshot: &libvirtxml.CapsGuestFeatureDiskSnapshot{Default: "on", Toggle: "no"},
	}
	switch arch {
	case "i686":
		f.PAE, f.NonPAE = &libvirtxml.CapsGuestFeaturePAE{}, &libvirtxml.CapsGuestFeatureNonPAE{}
		fallthrough
	case "x86_64":
		f.APIC = &libvirtxml.CapsGuestFeatureAPIC{Default: "on", Toggle: "no"}
		fallthrough
	case "aarch64":
		f.ACPI = &libvirtxml.CapsGuestFeatureACPI{Default: "on", Toggle: "yes"}
	}
	return f
}

// MaxVCPUs is the largest number of vCPUs that any machine of the host's own architecture has, by virtualization type and, under
// "", for the default type.
func MaxVCPUs(binaries []*probe.Binary) map[string]uint32 {
	limits := map[string]uint32{}
	for _, b := range binaries {
		if !b.Native(runtime.GOARCH) {
			continue
		}
		m, ok := b.Machine("")
		if !ok {
			continue
		}
		for _, virtType := range b.VirtTypes() {
			limits[virtType] = uint32(max(0, b.MaxVCPUs(m, virtType)))
			limits[""] = limits[virtType]
		}
		break
	}
	return limits
}
