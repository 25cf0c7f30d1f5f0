// Package define turns a domain definition into the complete one that libvirt would show for the qemu driver: canonical
// machine, CPU, implicit controllers and devices, and an address for everything that has one.
//
// Complete works on the caller's domain and on nothing else: no file is read, no process asked. All facts about the installed
// QEMU come in Env, which is only read and may be shared; two domains may be completed at the same time. Completing is
// deterministic, and completing a completed definition changes nothing. On an error the domain is in an undefined state
// and must be thrown away.
//
// What is malformed or contradicts itself is refused with verr.XMLError, what QEMU or this driver cannot do with
// verr.ConfigUnsupported, always by name. Whether a definition can be started, not only kept, is decided by package cmdline.
package define

import (
	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// Env is what is known about one QEMU binary and the machine it runs on.
type Env struct {
	// Emulator is the path of the binary.
	Emulator string
	// Arch is the architecture of its guests, in libvirt's words: "x86_64", "i686".
	Arch string
	// Version is major * 1000000 + minor * 1000 + micro, or 0 if it is not known.
	Version uint64
	// Machines maps every name of a machine type, alias or canonical, to the canonical one.
	Machines map[string]string
	// DefaultMachine is used where the definition names none; an alias or a canonical name.
	DefaultMachine string
	// KVM says that hardware virtualization works.
	KVM bool
	// CPUModels are the names that -cpu takes. Empty: not known, every name is passed on.
	CPUModels []string
	// Devices are the device types that the binary has. Empty: not known, all are taken to exist.
	Devices map[string]bool
	// Firmware is what is installed, best first. A start chooses from it; completing a definition doesn't look at it.
	Firmware []Firmware
}

// Firmware is one firmware descriptor of QEMU's firmware metadata specification (docs/interop/firmware.json).
type Firmware struct {
	// Interfaces are "uefi", "bios".
	Interfaces []string
	// Executable is the path of the code image.
	Executable string
	// Format of the code image, mostly "raw".
	Format string
	// NVRAMTemplate is the path of the variable store to start from; empty if there is none.
	NVRAMTemplate string
	// NVRAMFormat is the format of the template.
	NVRAMFormat string
	// Machines maps an architecture in QEMU's words to patterns of machine types such as "pc-q35-*".
	Machines map[string][]string
	// Features are those of the descriptor: "secure-boot", "requires-smm", "enrolled-keys", ...
	Features []string
}

// Has reports whether the firmware has a feature.
func (f Firmware) Has(feature string) bool {
	for _, have := range f.Features {
		if have == feature {
			return true
		}
	}
	return false
}

// HasDevice reports whether the binary has a device type, as far as is known.
func (e Env) HasDevice(name string) bool { return len(e.Devices) == 0 || e.Devices[name] }

// step is one part of completing a definition.
type step func(*completion) error

// steps are run in this order; later ones rely on what earlier ones have filled in.
var steps = []step{
	completeMachine, completeCPU, completeFeatures, forgetRuntime,
	completeDisks, completeInterfaces, completeChardevs, completeInputs, completeGraphics, completeVideo, completeAudio,
	completeSmallDevices, completeControllers, assignDrives, assignSerialPorts, assignUSB, assignPCI, check,
}

// completion is the work on one definition.
type completion struct {
	d   *libvirtxml.Domain
	dev *libvirtxml.DomainDeviceList
	env Env
	q35 bool
}

// Complete fills in what libvirt's qemu driver fills in when it accepts a definition.
func Complete(d *libvirtxml.Domain, env Env) error {
	if d.Devices == nil {
		d.Devices = &libvirtxml.DomainDeviceList{}
	}
	c := &completion{d: d, dev: d.Devices, env: env}
	for _, s := range steps {
		if err := s(c); err != nil {
			return err
		}
	}
	return nil
}

func unsupported(format string, args ...any) error {
	return verr.New(verr.ConfigUnsupported, format, args...)
}

func malformed(format string, args ...any) error { return verr.New(verr.XMLError, format, args...) }

// orDefault sets an empty string to a default.
func orDefault(s *string, value string) {
	if *s == "" {
		*s = value
	}
}
