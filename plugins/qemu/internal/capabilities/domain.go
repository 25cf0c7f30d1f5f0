package capabilities

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/probe"
	"github.com/lodgevirt/lodge/sdk/domxml"
)

// Installed are facts beside QEMU itself.
type Installed struct {
	// Firmware in order of preference.
	Firmware []probe.Firmware
	// SwTPM tells whether the TPM emulator is installed.
	SwTPM bool
}

// Domain prints the domain capabilities document of a kind of guest.
func Domain(c Choice, host Installed) (string, error) {
	b := c.Binary
	doc := libvirtxml.DomainCaps{
		Path: b.Path, Domain: c.VirtType, Machine: c.Machine.Name, Arch: b.Arch,
		VCPU: &libvirtxml.DomainCapsVCPU{Max: uint(max(0, b.MaxVCPUs(c.Machine, c.VirtType)))},
		// Without the type there is no thread to give a disk.
		IOThreads: &libvirtxml.DomainCapsIOThreads{Supported: yesNo(b.HasType("iothread"))},
		OS:        firmware(c, host.Firmware), CPU: cpuModes(c),
		MemoryBacking: &libvirtxml.DomainCapsMemoryBacking{Supported: "yes", Enums: enums(c, host, memoryBacking)},
		Devices: &libvirtxml.DomainCapsDevices{
			Disk: device(c, host, disks), Graphics: device(c, host, graphics), Video: device(c, host, videos),
			HostDev: device(c, host, hostDevices), RNG: device(c, host, rngs), FileSystem: device(c, host, filesystems),
			TPM: device(c, host, tpms), Redirdev: device(c, host, redirections), Channel: device(c, host, channels),
		},
		Features: guestOnly(c),
	}
	text, err := xml.Marshal(doc)
	if err != nil {
		return "", fmt.Errorf("print domain capabilities of %q: %w", b.Path, err)
	}
	return domxml.Reformat(string(text))
}

func isQ35(c Choice) bool { return strings.HasPrefix(c.Machine.Name, "pc-q35-") }

func isPC(c Choice) bool {
	return strings.HasPrefix(c.Machine.Name, "pc-i440fx-") || c.Machine.Name == "isapc"
}

// firmware makes the <os> element from the descriptors that fit the machine.
func firmware(c Choice, installed []probe.Firmware) *libvirtxml.DomainCapsOS {
	var kinds, images []string
	secure := []string{"no"}
	for _, f := range installed {
		if !f.Fits(c.Binary.Arch, c.Machine.Name) || f.Device != "flash" {
			continue
		}
		for _, kind := range []struct{ descriptor, libvirt string }{{"bios", "bios"}, {"uefi", "efi"}} {
			if slices.Contains(f.Interfaces, kind.descriptor) && !slices.Contains(kinds, kind.libvirt) {
				kinds = append(kinds, kind.libvirt)
			}
		}
		if !slices.Contains(images, f.Executable) {
			images = append(images, f.Executable)
		}
		if f.Has("secure-boot") && (isQ35(c) || !f.Has("requires-smm")) {
			secure = []string{"yes", "no"}
		}
	}
	types := []string{"rom"}
	if c.Binary.HasType("cfi.pflash01") {
		types = append(types, "pflash")
	}
	return &libvirtxml.DomainCapsOS{
		Supported: "yes", Enums: []libvirtxml.DomainCapsEnum{{Name: "firmware", Values: kinds}},
		Loader: &libvirtxml.DomainCapsOSLoader{Supported: "yes", Values: images, Enums: []libvirtxml.DomainCapsEnum{
			{Name: "type", Values: types}, {Name: "readonly", Values: []string{"yes", "no"}}, {Name: "secure", Values: secure},
		}},
	}
}

// guestOnly makes the <features> element.
func guestOnly(c Choice) *libvirtxml.DomainCapsFeatures {
	f := &libvirtxml.DomainCapsFeatures{
		GIC:               &libvirtxml.DomainCapsFeatureGIC{Supported: "no"},
		VMCoreInfo:        &libvirtxml.DomainCapsFeatureVMCoreInfo{Supported: yesNo(c.Binary.HasType("vmcoreinfo"))},
		GenID:             &libvirtxml.DomainCapsFeatureGenID{Supported: "no"},
		BackingStoreInput: &libvirtxml.DomainCapsFeatureBackingStoreInput{Supported: "yes"},
		Backup:            &libvirtxml.DomainCapsFeatureBackup{Supported: "no"},
		SEV:               &libvirtxml.DomainCapsFeatureSEV{Supported: "no"},
		SGX:               &libvirtxml.DomainCapsFeatureSGX{Supported: "no"},
		HyperV:            &libvirtxml.DomainCapsFeatureHyperV{Supported: yesNo(isX86(c.Binary))},
	}
	if isX86(c.Binary) {
		// The others depend on the kernel, which QEMU asks only when a guest starts.
		f.HyperV.Enums = []libvirtxml.DomainCapsEnum{{Name: "features", Values: []string{"spinlocks", "vendor_id"}}}
	}
	return f
}

func isX86(b *probe.Binary) bool { return b.Arch == "x86_64" || b.Arch == "i686" }
