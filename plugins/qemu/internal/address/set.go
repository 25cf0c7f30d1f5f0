package address

import (
	"errors"
	"fmt"
)

// Plug says what kind of connector a device has, and so on which buses it fits.
type Plug uint

// Kinds of connector.
const (
	// PlugPCI is a conventional PCI device.
	PlugPCI Plug = 1 << iota
	// PlugPCIe is a PCI Express device.
	PlugPCIe
	// PlugRootPort is a PCI Express root port or an expander bus, at home on the root complex.
	PlugRootPort
	// PlugPCIeBridge is a bridge from PCI Express to conventional PCI.
	PlugPCIeBridge
	// PlugDownstream is the downstream port of a switch.
	PlugDownstream
)

// BusKind is a model of PCI controller, in libvirt's words.
type BusKind string

// Models of PCI controller.
const (
	Root         BusKind = "pci-root"
	RootComplex  BusKind = "pcie-root"
	Bridge       BusKind = "pci-bridge"
	DMIBridge    BusKind = "dmi-to-pci-bridge"
	PCIeBridge   BusKind = "pcie-to-pci-bridge"
	RootPort     BusKind = "pcie-root-port"
	Upstream     BusKind = "pcie-switch-upstream-port"
	Downstream   BusKind = "pcie-switch-downstream-port"
	Expander     BusKind = "pci-expander-bus"
	PCIeExpander BusKind = "pcie-expander-bus"
)

// busModel is what a kind of bus takes.
type busModel struct {
	min, max uint
	auto     Plug // taken when an address is being looked for
	explicit Plug // taken when the definition says so
}

const anyEndpoint = PlugPCI | PlugPCIe

var busModels = map[BusKind]busModel{
	Root:         {1, MaxSlot, PlugPCI, anyEndpoint},
	RootComplex:  {1, MaxSlot, PlugRootPort, anyEndpoint | PlugRootPort | PlugPCIeBridge},
	Bridge:       {1, MaxSlot, PlugPCI, anyEndpoint},
	DMIBridge:    {0, MaxSlot, 0, anyEndpoint},
	PCIeBridge:   {1, MaxSlot, PlugPCI, anyEndpoint},
	RootPort:     {0, 0, PlugPCIe | PlugPCIeBridge, anyEndpoint | PlugPCIeBridge},
	Upstream:     {0, MaxSlot, PlugDownstream, PlugDownstream},
	Downstream:   {0, 0, PlugPCIe | PlugPCIeBridge, anyEndpoint | PlugPCIeBridge},
	Expander:     {0, 0, 0, anyEndpoint},
	PCIeExpander: {0, MaxSlot, 0, PlugRootPort | anyEndpoint},
}

// Known reports whether there is such a kind of bus.
func (k BusKind) Known() bool {
	_, ok := busModels[k]
	return ok
}

// ErrFull is wrapped by the error of Next when no bus has room; a new bus may help.
var ErrFull = errors.New("no more available PCI slots")

// PCISet is the PCI buses of a guest and who has which address.
type PCISet struct {
	buses map[uint]*bus
	top   uint
}

type bus struct {
	kind  BusKind
	slots [MaxSlot + 1]slot
}

type slot struct {
	owner  [MaxFunction + 1]string
	shared bool // holds functions that Next may add to
}

func (s *slot) empty() bool {
	for _, o := range s.owner {
		if o != "" {
			return false
		}
	}
	return true
}

// NewPCISet returns a set without buses.
func NewPCISet() *PCISet { return &PCISet{buses: map[uint]*bus{}} }

// AddBus adds a bus. It fails if the index is taken or too large or the kind unknown.
func (s *PCISet) AddBus(index uint, kind BusKind) error {
	switch {
	case !kind.Known():
		return fmt.Errorf("unknown PCI controller model %q", kind)
	case index > MaxBus:
		return fmt.Errorf("PCI controller index %d is too large, must be <= %d", index, MaxBus)
	case s.buses[index] != nil:
		return fmt.Errorf("multiple 'pci' controllers with index %d", index)
	}
	s.buses[index] = &bus{kind: kind}
	s.top = max(s.top, index)
	return nil
}

// Top returns the largest index of a bus.
func (s *PCISet) Top() uint { return s.top }

// Reserve takes one function of a slot for a device that the definition or the machine puts there.
func (s *PCISet) Reserve(a PCI, plug Plug, device string) error {
	if err := a.Check(); err != nil {
		return err
	}
	if a.Domain != 0 {
		return fmt.Errorf("invalid PCI address %s: only PCI domain 0 is available", a)
	}
	b := s.buses[a.Bus]
	if b == nil {
		return fmt.Errorf("invalid PCI address %s: no PCI controller has index %d", a, a.Bus)
	}
	m := busModels[b.kind]
	if a.Slot < m.min || a.Slot > m.max {
		return fmt.Errorf("invalid PCI address %s: slot must be between %d and %d on a %s", a, m.min, m.max, b.kind)
	}
	if plug != 0 && plug&m.explicit == 0 {
		return fmt.Errorf("invalid PCI address %s: %s cannot be plugged into a %s", a, device, b.kind)
	}
	owner := &b.slots[a.Slot].owner[a.Function]
	if *owner != "" {
		return fmt.Errorf("attempted double use of PCI address %s by %s and %s", a, *owner, device)
	}
	*owner = device
	return nil
}

// Owner returns the device that has an address, or "".
func (s *PCISet) Owner(a PCI) string {
	if b := s.buses[a.Bus]; b != nil && a.Check() == nil {
		return b.slots[a.Slot].owner[a.Function]
	}
	return ""
}

// Request is what a device without an address wants.
type Request struct {
	// Plug is the connector.
	Plug Plug
	// Function is the function in the empty slot that is taken.
	Function uint
	// Share says that devices which say so too may be functions of one slot.
	Share bool
	// Device is the owner's name in messages.
	Device string
}

// Next takes the first empty slot that fits, or for a device that may share, the first free function of such a slot.
// Its error wraps ErrFull.
func (s *PCISet) Next(r Request) (PCI, error) {
	for i := uint(0); i <= s.top; i++ {
		b := s.buses[i]
		if b == nil || busModels[b.kind].auto&r.Plug == 0 {
			continue
		}
		if a, ok := b.next(r); ok {
			a.Bus = i
			return a, nil
		}
	}
	return PCI{}, fmt.Errorf("find PCI address for %s: %w", r.Device, ErrFull)
}

// next returns the address without its bus.
func (b *bus) next(r Request) (PCI, bool) {
	m := busModels[b.kind]
	for n := m.min; n <= m.max; n++ {
		sl := &b.slots[n]
		if sl.empty() {
			sl.owner[r.Function], sl.shared = r.Device, r.Share
			return PCI{Slot: n, Function: r.Function}, true
		}
		if !r.Share || !sl.shared {
			continue
		}
		for f, o := range sl.owner {
			if o == "" {
				sl.owner[f] = r.Device
				return PCI{Slot: n, Function: uint(f)}, true
			}
		}
	}
	return PCI{}, false
}

// Empty reports whether nothing is in the slot of an address.
func (s *PCISet) Empty(a PCI) bool {
	b := s.buses[a.Bus]
	return b != nil && a.Slot <= MaxSlot && b.slots[a.Slot].empty()
}

// Share lets Next add functions to the slot of an address that was reserved for a device which may share.
func (s *PCISet) Share(a PCI) {
	if b := s.buses[a.Bus]; b != nil && a.Slot <= MaxSlot {
		b.slots[a.Slot].shared = true
	}
}
