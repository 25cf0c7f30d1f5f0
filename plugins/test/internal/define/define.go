// Package define turns a definition as a client sends it into the one that the test driver shows: hypervisor-neutral completion by
// package domxml first, then what this hypervisor adds, which is what libvirt's test driver adds.
//
// It is pure but for the random addresses of network cards. Completing a completed definition changes nothing. Errors are
// verr's, of code XMLError or ConfigUnsupported.
package define

import (
	"slices"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// arch is that of the pretended host.
const arch = "i686"

// Names that libvirt knows.
var (
	types = []string{
		"none", "qemu", "kqemu", "kvm", "xen", "lxc", "uml", "openvz", "test", "vmware", "hyperv", "vbox", "phyp",
		"parallels", "bhyve", "vz", "hvf",
	}
	arches = []string{
		"alpha", "armv6l", "armv7l", "armv7b", "aarch64", "cris", "i686", "ia64", "lm32", "loongarch64", "m68k", "microblaze",
		"microblazeel", "mips", "mipsel", "mips64", "mips64el", "openrisc", "parisc", "parisc64", "ppc", "ppcle", "ppc64",
		"ppc64le", "ppcemb", "riscv32", "riscv64", "s390", "s390x", "sh4", "sh4eb", "sparc", "sparc64", "unicore32", "x86_64",
		"xtensa", "xtensaeb",
	}
)

// Complete checks and completes a definition.
func Complete(d *libvirtxml.Domain) error {
	if err := domxml.Complete(d); err != nil {
		return err
	}
	if !slices.Contains(types, d.Type) {
		return verr.New(verr.ConfigUnsupported, "invalid domain type %s", d.Type)
	}
	if d.OS != nil && d.OS.Type != nil {
		if d.OS.Type.Arch == "" {
			d.OS.Type.Arch = arch
		}
		if !slices.Contains(arches, d.OS.Type.Arch) {
			return verr.New(verr.ConfigUnsupported, "Unknown architecture %s", d.OS.Type.Arch)
		}
	}
	return completeDevices(d)
}
