package capabilities

import (
	"runtime"
	"slices"

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
