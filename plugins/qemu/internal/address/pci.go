// Package address hands out the addresses of a guest's devices: PCI slots, drive units, ports of virtio-serial and USB
// controllers. It knows which kinds of bus there are and what may be plugged where, and nothing about XML or QEMU.
//
// A PCISet, Drives or Ports belongs to the caller that made it, which fills it while it completes one definition; none of
// them may be used from two goroutines at once. A reservation that fails changes nothing and returns a sentence that names
// both devices.
package address

import (
	"fmt"
	"strconv"
	"strings"
)

// Limits of a PCI address. The domain is any 32-bit number.
const (
	MaxBus      = 0xff
	MaxSlot     = 0x1f
	MaxFunction = 7
)

// PCI is a PCI address. The zero value stands for "no address", as 0000:00:00.0 always belongs to the host bridge.
type PCI struct {
	// Domain is the segment, of 32 bits.
	Domain uint
	// Bus is the number of the bus, at most MaxBus.
	Bus uint
	// Slot is the number of the slot on the bus, at most MaxSlot.
	Slot uint
	// Function is the number of the function in the slot, at most MaxFunction.
	Function uint
}

// String returns the usual form dddd:bb:ss.f in hexadecimal.
func (a PCI) String() string {
	return fmt.Sprintf("%04x:%02x:%02x.%x", a.Domain, a.Bus, a.Slot, a.Function)
}

// IsZero reports whether there is no address.
func (a PCI) IsZero() bool { return a == PCI{} }

// Check returns an error that names the part which is out of range.
func (a PCI) Check() error {
	parts := []struct {
		name       string
		value, max uint
	}{
		{"domain", a.Domain, 0xffffffff},
		{"bus", a.Bus, MaxBus},
		{"slot", a.Slot, MaxSlot},
		{"function", a.Function, MaxFunction},
	}
	for _, p := range parts {
		if p.value > p.max {
			return fmt.Errorf("invalid PCI address %s='0x%x', must be <= 0x%x", p.name, p.value, p.max)
		}
	}
	return nil
}

// ParsePCI reads the form dddd:bb:ss.f, each part hexadecimal.
func ParsePCI(s string) (PCI, error) {
	fields := strings.FieldsFunc(s, func(r rune) bool { return r == ':' || r == '.' })
	if len(fields) != 4 || strings.Count(s, ":") != 2 || strings.Count(s, ".") != 1 ||
		strings.LastIndex(s, ":") > strings.Index(s, ".") {
		return PCI{}, fmt.Errorf("parse PCI address %q: not of the form dddd:bb:ss.f", s)
	}
	var n [4]uint
	for i, f := range fields {
		v, err := strconv.ParseUint(f, 16, 32)
		if err != nil {
			return PCI{}, fmt.Errorf("parse PCI address %q: %w", s, err)
		}
		n[i] = uint(v)
	}
	a := PCI{n[0], n[1], n[2], n[3]}
	return a, a.Check()
}
