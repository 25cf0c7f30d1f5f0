package probe

import "slices"

// Binary is what one QEMU binary can do. It serialises to JSON.
type Binary struct {
	// Path of the emulator.
	Path string `json:"path"`
	// Arch is the architecture of its guests by libvirt's name: "x86_64", "i686".
	Arch string `json:"arch"`
	// Version is major * 1000000 + minor * 1000 + micro.
	Version uint64 `json:"version"`
	// Package is the packager's version.
	Package string `json:"package,omitempty"`
	// KVM tells whether this binary can run guests under KVM on this host.
	KVM bool `json:"kvm"`
	// KVMMaxVCPUs is the kernel's limit for a guest, or 0 where KVM cannot be used.
	KVMMaxVCPUs int `json:"kvm_max_vcpus,omitempty"`
	// Machines in QEMU's order.
	Machines []Machine `json:"machines"`
	// CPUs by virtualization type: "qemu", and "kvm" where that can be used.
	CPUs map[string]CPUs `json:"cpus"`
	// Types are the names of the devices, objects and backends that it knows, ascending, without CPUs and machines.
	Types []string `json:"types"`
	// Properties of some types that changed over the versions, ascending, by type.
	Properties map[string][]string `json:"properties,omitempty"`
	// Options are the parameters of the command line's options, ascending, by option ("smbios", "vnc").
	Options map[string][]string `json:"options"`
	// TPMModels are names of devices: "tpm-tis".
	TPMModels []string `json:"tpm_models,omitempty"`
	// TPMTypes are names of backends: "emulator".
	TPMTypes []string `json:"tpm_types,omitempty"`
}

// Machine is a type of machine.
type Machine struct {
	// Name is the canonical one: "pc-q35-7.2".
	Name string `json:"name"`
	// Alias is the short one, "q35", or empty.
	Alias string `json:"alias,omitempty"`
	// Default is true for the one that QEMU takes where none is named.
	Default bool `json:"default,omitempty"`
	// MaxCPUs is the largest number of vCPUs.
	MaxCPUs int `json:"max_cpus"`
	// Hotplug tells whether vCPUs can be added to a living guest.
	Hotplug bool `json:"hotplug,omitempty"`
	// Deprecated tells that a coming QEMU will not have it.
	Deprecated bool `json:"deprecated,omitempty"`
	// RAMID is the name of the main memory's backend, for example "pc.ram".
	RAMID string `json:"ram_id,omitempty"`
	// CPU is the type of the default CPU: "qemu64-x86_64-cpu".
	CPU string `json:"cpu,omitempty"`
}

// CPUs are the models of CPU under one virtualization type.
type CPUs struct {
	// Models in QEMU's order, without the versioned names that others are aliases of.
	Models []CPUModel `json:"models"`
	// Best are the features, by QEMU's names and ascending, of the best CPU that a guest can have here: the host's own
	// under KVM, all that the emulation can do otherwise. Empty where QEMU cannot tell.
	Best []string `json:"best,omitempty"`
	// Vendor is the maker that such a CPU claims: "AuthenticAMD"; empty where the architecture has none.
	Vendor string `json:"vendor,omitempty"`
}

// CPUModel is a named model of CPU.
type CPUModel struct {
	// Name is QEMU's: "EPYC".
	Name string `json:"name"`
	// Usable tells whether a guest can have it with all its features.
	Usable bool `json:"usable"`
	// Blockers are the features that are missing here, by QEMU's names.
	Blockers []string `json:"blockers,omitempty"`
	// Deprecated tells that a coming QEMU will not have it.
	Deprecated bool `json:"deprecated,omitempty"`
	// Features are the features that it stands for, by QEMU's names and ascending; empty where QEMU cannot tell.
	Features []string `json:"features,omitempty"`
}

// Machine finds a machine by canonical name or alias; "" is the default one.
func (b *Binary) Machine(name string) (Machine, bool) {
	for _, m := range b.Machines {
		if m.Name == name || (m.Alias != "" && m.Alias == name) || (name == "" && m.Default) {
			return m, true
		}
	}
	return Machine{}, false
}

// Aliases maps each machine's alias to its canonical name.
func (b *Binary) Aliases() map[string]string {
	aliases := map[string]string{}
	for _, m := range b.Machines {
		if m.Alias != "" {
			aliases[m.Alias] = m.Name
		}
	}
	return aliases
}

// DefaultMachine is the canonical name of the default machine, or empty where there is none.
func (b *Binary) DefaultMachine() string {
	m, _ := b.Machine("")
	return m.Name
}

// VirtTypes are libvirt's names of the ways in which it can run guests, the emulation first.
func (b *Binary) VirtTypes() []string {
	if b.KVM {
		return []string{"qemu", "kvm"}
	}
	return []string{"qemu"}
}

// MaxVCPUs is the largest number of vCPUs of a machine under a virtualization type.
func (b *Binary) MaxVCPUs(m Machine, virtType string) int {
	if virtType == "kvm" && b.KVMMaxVCPUs > 0 && b.KVMMaxVCPUs < m.MaxCPUs {
		return b.KVMMaxVCPUs
	}
	return m.MaxCPUs
}

// HasType reports whether the binary knows a device, object or backend.
func (b *Binary) HasType(name string) bool {
	_, found := slices.BinarySearch(b.Types, name)
	return found
}

// HasOption reports whether an option of the command line has a parameter; an empty parameter asks for the option alone.
func (b *Binary) HasOption(option, parameter string) bool {
	parameters, ok := b.Options[option]
	return ok && (parameter == "" || slices.Contains(parameters, parameter))
}

// HasProperty reports whether a type has a property. It knows the types of the package's own list only.
func (b *Binary) HasProperty(typeName, property string) bool {
	return slices.Contains(b.Properties[typeName], property)
}
