package domxml

import (
	"encoding/hex"
	"math"
	"slices"
	"strings"

	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// noName is libvirt's VIR_ERR_NO_NAME.
const noName verr.Code = 21

// Complete fills in what libvirt adds to every definition whatever its hypervisor, and checks what it checks: a UUID, the name,
// memory in KiB, the number of vCPUs, the boot device, the clock and the actions on power-off, reboot and crash. Completing a
// completed domain changes nothing. It fails with XMLError for what is missing or contradicts itself, with ConfigUnsupported for
// values that are not known, and leaves the domain half completed then.
func Complete(d *libvirtxml.Domain) error {
	steps := []func(*libvirtxml.Domain) error{
		completeIdentity, completeMemory, completeVCPUs, completeOS, completeClock, completeActions,
	}
	for _, step := range steps {
		if err := step(d); err != nil {
			return err
		}
	}
	if d.Devices == nil {
		d.Devices = &libvirtxml.DomainDeviceList{}
	}
	return nil
}

func completeIdentity(d *libvirtxml.Domain) error {
	if d.Type == "" {
		return verr.New(verr.Internal, "missing domain type attribute")
	}
	if err := CheckName(d.Name); err != nil {
		return err
	}
	if strings.Contains(d.Title, "\n") {
		return verr.New(verr.XMLError, "Domain title can't contain newlines")
	}
	if d.UUID == "" {
		id, err := uuid.NewRandom()
		if err != nil {
			return verr.New(verr.Internal, "make uuid: %w", err)
		}
		d.UUID = id.String()
		return nil
	}
	id, err := ParseUUID(d.UUID)
	if err != nil {
		return err
	}
	d.UUID = id.String()
	return nil
}

// CheckName fails for a name that no domain may have: with code 21 (VIR_ERR_NO_NAME) for an empty one, with XMLError for one with a
// slash or a newline.
func CheckName(name string) error {
	switch {
	case name == "":
		return verr.New(noName, "missing name information")
	case strings.Contains(name, "/"):
		return verr.New(verr.XMLError, "name %s cannot contain '/'", name)
	case strings.Contains(name, "\n"):
		return verr.New(verr.XMLError, "invalid char in name: newline")
	}
	return nil
}

// ParseUUID reads a UUID as libvirt does: 32 hexadecimal digits with or without dashes and spaces between bytes.
func ParseUUID(s string) (uuid.UUID, error) {
	digits := strings.Map(func(r rune) rune {
		if r == '-' || r == ' ' {
			return -1
		}
		return r
	}, strings.TrimSpace(s))
	var id uuid.UUID
	if len(digits) != 2*len(id) {
		return id, verr.New(verr.Internal, "malformed uuid element")
	}
	if _, err := hex.Decode(id[:], []byte(digits)); err != nil {
		return id, verr.New(verr.Internal, "malformed uuid element")
	}
	return id, nil
}

func completeMemory(d *libvirtxml.Domain) error {
	sum, err := numaMemory(d)
	if err != nil {
		return err
	}
	if d.Memory == nil {
		d.Memory = &libvirtxml.DomainMemory{}
	}
	if d.Memory.Value, err = kibibytes(d.Memory.Value, &d.Memory.Unit); err != nil {
		return err
	}
	if d.MaximumMemory != nil {
		if d.MaximumMemory.Value, err = kibibytes(d.MaximumMemory.Value, &d.MaximumMemory.Unit); err != nil {
			return err
		}
	}
	if sum > 0 {
		d.Memory.Value = sum
	}
	if d.Memory.Value == 0 {
		return verr.New(verr.XMLError, "Memory size must be specified via <memory> or in the <numa> configuration")
	}
	if d.CurrentMemory == nil {
		d.CurrentMemory = &libvirtxml.DomainCurrentMemory{}
	}
	if d.CurrentMemory.Value, err = kibibytes(d.CurrentMemory.Value, &d.CurrentMemory.Unit); err != nil {
		return err
	}
	if d.CurrentMemory.Value == 0 || d.CurrentMemory.Value > d.Memory.Value {
		d.CurrentMemory.Value = d.Memory.Value
	}
	return nil
}

// numaMemory turns the sizes of the NUMA cells into KiB and returns their sum with that of memory devices, which libvirt takes as the
// memory of a guest with cells.
func numaMemory(d *libvirtxml.Domain) (sum uint, err error) {
	if d.CPU == nil || d.CPU.Numa == nil {
		return 0, nil
	}
	for i := range d.CPU.Numa.Cell {
		c := &d.CPU.Numa.Cell[i]
		if c.Memory, err = kibibytes(c.Memory, &c.Unit); err != nil {
			return 0, err
		}
		if c.Memory > math.MaxUint-sum {
			return 0, verr.New(verr.Overflow, "memory of the NUMA cells is too large")
		}
		sum += c.Memory
	}
	if sum == 0 || d.Devices == nil {
		return sum, nil
	}
	for _, m := range d.Devices.Memorydevs {
		if m.Target == nil || m.Target.Size == nil {
			continue
		}
		unit := m.Target.Size.Unit
		size, err := kibibytes(m.Target.Size.Value, &unit)
		if err != nil {
			return 0, err
		}
		sum += size
	}
	return sum, nil
}

func completeVCPUs(d *libvirtxml.Domain) error {
	if d.VCPU == nil {
		d.VCPU = &libvirtxml.DomainVCPU{Value: 1}
	}
	v := d.VCPU
	if v.Value == 0 {
		v.Value = 1
	}
	if v.Placement == "" {
		v.Placement = "static"
	}
	if v.Current > v.Value {
		return verr.New(verr.ConfigUnsupported, "maximum vCPU count must not be less than current vCPU count")
	}
	if v.Current == v.Value {
		v.Current = 0
	}
	return nil
}

func completeOS(d *libvirtxml.Domain) error {
	if d.Bootloader != "" && (d.OS == nil || d.OS.Type == nil) {
		return nil
	}
	if d.OS == nil || d.OS.Type == nil || d.OS.Type.Type == "" {
		return verr.New(verr.XMLError, "an os <type> must be specified")
	}
	if kind := d.OS.Type.Type; !slices.Contains(osTypes, kind) {
		return verr.New(verr.ConfigUnsupported, "unknown OS type '%s'", kind)
	}
	if d.OS.Type.Type == "hvm" && len(d.OS.BootDevices) == 0 && !bootsByDevice(d) {
		d.OS.BootDevices = []libvirtxml.DomainBootDevice{{Dev: "hd"}}
	}
	return nil
}

// bootsByDevice reports whether a device has a boot order of its own, which excludes the one of <os>.
func bootsByDevice(d *libvirtxml.Domain) bool {
	if d.Devices == nil {
		return false
	}
	return slices.ContainsFunc(d.Devices.Disks, func(x libvirtxml.DomainDisk) bool { return x.Boot != nil }) ||
		slices.ContainsFunc(d.Devices.Interfaces, func(x libvirtxml.DomainInterface) bool { return x.Boot != nil }) ||
		slices.ContainsFunc(d.Devices.Hostdevs, func(x libvirtxml.DomainHostdev) bool { return x.Boot != nil }) ||
		slices.ContainsFunc(d.Devices.RedirDevs, func(x libvirtxml.DomainRedirDev) bool { return x.Boot != nil })
}

func completeClock(d *libvirtxml.Domain) error {
	if d.Clock == nil {
		d.Clock = &libvirtxml.DomainClock{}
	}
	if d.Clock.Offset == "" {
		d.Clock.Offset = "utc"
	}
	if !slices.Contains(clockOffsets, d.Clock.Offset) {
		return verr.New(verr.ConfigUnsupported, "unknown clock offset '%s'", d.Clock.Offset)
	}
	return nil
}

func completeActions(d *libvirtxml.Domain) error {
	for _, a := range []struct {
		element  string
		value    *string
		standard string
		known    []string
	}{
		{"on_poweroff", &d.OnPoweroff, "destroy", lifecycleActions},
		{"on_reboot", &d.OnReboot, "restart", lifecycleActions},
		{"on_crash", &d.OnCrash, "destroy", crashActions},
	} {
		if *a.value == "" {
			*a.value = a.standard
		}
		if !slices.Contains(a.known, *a.value) {
			return verr.New(verr.ConfigUnsupported, "unknown %s action: %s", a.element, *a.value)
		}
	}
	return nil
}

// Values that libvirt knows.
var (
	osTypes          = []string{"hvm", "xen", "linux", "exe", "uml", "xenpvh"}
	clockOffsets     = []string{"utc", "localtime", "timezone", "variable", "absolute"}
	lifecycleActions = []string{"destroy", "restart", "rename-restart", "preserve"}
	crashActions     = append([]string{"coredump-destroy", "coredump-restart"}, lifecycleActions...)
)
