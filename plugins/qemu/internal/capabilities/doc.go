// Package capabilities says in libvirt's words what package probe has found: the <guest> elements of the capabilities document,
// the <cpu> of its host, domain capabilities documents, and the names of CPU models.
//
// Documents name what this driver does with QEMU, not all that QEMU could do: a client that believes them is not refused
// later. All functions are pure but for what they are given, and safe concurrently. What a client asked for wrongly is a verr error
// of code InvalidArg with libvirt's sentence; nothing else fails but printing.
//
// The documents are described at https://libvirt.org/formatcaps.html and https://libvirt.org/formatdomaincaps.html.
package capabilities

import (
	"encoding/xml"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/probe"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Libvirt's names of the two ways of running a guest.
const (
	virtKVM  = "kvm"
	virtQEMU = "qemu"
)

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// Choice is the kind of guest that a request meant.
type Choice struct {
	Binary   *probe.Binary
	Machine  probe.Machine
	VirtType string
}

// Choose finds the kind of guest that a request names; each argument may be empty for the default, which is the host's own
// architecture, its best emulator, the emulator's default machine, and KVM where it can be used. lookup is asked for
// emulators that are not among the known ones.
func Choose(known []*probe.Binary, lookup func(path string) (*probe.Binary, error), emulator, arch, machine, virtType string) (Choice, error) {
	b, err := chooseBinary(known, lookup, emulator, arch)
	if err != nil {
		return Choice{}, err
	}
	switch {
	case virtType == "":
		types := b.VirtTypes()
		virtType = types[len(types)-1]
	case virtType != virtKVM && virtType != virtQEMU:
		return Choice{}, verr.New(verr.InvalidArg, "unknown virttype: %s", virtType)
	case !slices.Contains(b.VirtTypes(), virtType):
		return Choice{}, verr.New(verr.InvalidArg, "KVM is not supported by '%s' on this host", b.Path)
	}
	m, ok := b.Machine(machine)
	if !ok {
		if machine == "" {
			return Choice{}, verr.New(verr.InvalidArg, "no default machine for emulator '%s'", b.Path)
		}
		return Choice{}, verr.New(verr.InvalidArg, "the machine '%s' is not supported by emulator '%s'", machine, b.Path)
	}
	return Choice{Binary: b, Machine: m, VirtType: virtType}, nil
}

func chooseBinary(known []*probe.Binary, lookup func(string) (*probe.Binary, error), emulator, arch string) (*probe.Binary, error) {
	if emulator == "" {
		for _, b := range known {
			if (arch == "" && b.Native(runtime.GOARCH)) || b.Arch == arch {
				return b, nil
			}
		}
		if arch == "" {
			return nil, verr.New(verr.InvalidArg, "unable to find any emulator to serve the host's architecture")
		}
		return nil, verr.New(verr.InvalidArg, "unable to find any emulator to serve '%s' architecture", arch)
	}
	b, err := find(known, lookup, emulator)
	if err != nil {
		return nil, err
	}
	if arch != "" && arch != b.Arch {
		return nil, verr.New(verr.InvalidArg, "architecture from emulator '%s' doesn't match given architecture '%s'", b.Arch, arch)
	}
	return b, nil
}

func find(known []*probe.Binary, lookup func(string) (*probe.Binary, error), emulator string) (*probe.Binary, error) {
	for _, b := range known {
		if b.Path == emulator {
			return b, nil
		}
	}
	b, err := lookup(emulator)
	if err != nil {
		return nil, verr.New(verr.InvalidArg, "cannot use emulator '%s': %w", emulator, err)
	}
	return b, nil
}

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
