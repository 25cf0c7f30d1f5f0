package define

import (
	"errors"
	"fmt"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/address"
)

// builtin is what a machine type has on its root bus whatever the definition says.
type builtin struct {
	at   address.PCI
	name string
}

var builtins = map[bool][]builtin{
	false: {
		{address.PCI{Slot: 1}, "the ISA bridge"},
		{address.PCI{Slot: 1, Function: 1}, "the IDE controller"},
		{address.PCI{Slot: 1, Function: 3}, "power management"},
	},
	true: {
		{address.PCI{Slot: 0x1f}, "the ISA bridge"},
		{address.PCI{Slot: 0x1f, Function: 2}, "the SATA controller"},
		{address.PCI{Slot: 0x1f, Function: 3}, "the SMBus controller"},
	},
}

// assignPCI gives a PCI address to every device that needs one, and adds PCI controllers until there is room for all and,
// where controllers beside the root are in use, for one device more, so that it can be plugged in later.
func assignPCI(c *completion) error {
	if err := c.addMissingBuses(); err != nil {
		return err
	}
	for range address.MaxBus + 1 {
		places, missing, err := c.tryPCI()
		if err != nil {
			return err
		}
		if missing == 0 {
			return c.commitPCI(places)
		}
		if err := c.grow(missing); err != nil {
			return err
		}
	}
	return malformed("PCI devices need more than %d buses", address.MaxBus)
}

// addMissingBuses adds the controllers below the largest bus that an address names.
func (c *completion) addMissingBuses() error {
	top := uint(0)
	for _, d := range c.pciDevices() {
		if a, ok, err := pciOf(d); err != nil {
			return err
		} else if ok {
			top = max(top, a.Bus)
		}
	}
	for _, ctl := range c.dev.Controllers {
		if ctl.Type == "pci" {
			top = max(top, *ctl.Index)
		}
	}
	if top > address.MaxBus {
		return malformed("PCI controller index %d is too large, must be <= %d", top, address.MaxBus)
	}
	for i := uint(1); i <= top; i++ {
		if !c.hasController("pci", i) {
			if err := c.addBus(i, c.extensionKind()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *completion) extensionKind() address.BusKind {
	if c.q35 {
		return address.RootPort
	}
	return address.Bridge
}

func (c *completion) addBus(index uint, kind address.BusKind) error {
	c.addController("pci", index, string(kind))
	for i := range c.dev.Controllers {
		if ctl := &c.dev.Controllers[i]; ctl.Type == "pci" && *ctl.Index == index {
			return c.completePCIController(ctl)
		}
	}
	return nil
}

// grow adds the controllers that make room for a connector.
func (c *completion) grow(missing address.Plug) error {
	top := uint(0)
	for _, ctl := range c.dev.Controllers {
		if ctl.Type == "pci" {
			top = max(top, *ctl.Index)
		}
	}
	kinds := []address.BusKind{c.extensionKind()}
	if c.q35 && missing == address.PlugPCI {
		kinds = append(kinds, address.PCIeBridge)
	}
	if missing == address.PlugRootPort || missing == address.PlugDownstream {
		return malformed("No more available PCI slots for a PCI controller")
	}
	for _, kind := range kinds {
		top++
		if top > address.MaxBus {
			return malformed("No more available PCI slots")
		}
		if err := c.addBus(top, kind); err != nil {
			return err
		}
	}
	return nil
}

// place is an address found for a device.
type place struct {
	device pciDevice
	at     address.PCI
}

// tryPCI finds an address for each device on the present buses, or says for which connector there is no room.
func (c *completion) tryPCI() (places []place, missing address.Plug, err error) {
	set, places, missing, err := c.placePCI()
	if err != nil || missing != 0 {
		return nil, missing, err
	}
	spare := address.Request{Plug: c.pcie(""), Device: "a device plugged in later"}
	if set.Top() > 0 && rootHasRoom(set) {
		if _, err := set.Next(spare); err != nil {
			return nil, spare.Plug, nil
		}
	}
	return places, 0, nil
}

// placePCI does so for the devices that are there, without a thought to later ones.
func (c *completion) placePCI() (set *address.PCISet, places []place, missing address.Plug, err error) {
	set = address.NewPCISet()
	for _, ctl := range c.dev.Controllers {
		if ctl.Type == "pci" {
			if err := set.AddBus(*ctl.Index, address.BusKind(ctl.Model)); err != nil {
				return nil, nil, 0, malformed("%w", err)
			}
		}
	}
	devices := c.pciDevices()
	groups := map[string]address.PCI{}
	if places, err = c.reserveKnown(set, devices, groups); err != nil {
		return nil, nil, 0, err
	}
	for _, d := range openPCI(devices) {
		at, err := findPCI(set, d, groups)
		if errors.Is(err, address.ErrFull) {
			return nil, nil, d.plug, nil
		}
		if err != nil {
			return nil, nil, 0, malformed("%w", err)
		}
		places = append(places, place{d, at})
	}
	return set, places, 0, nil
}

// multiOff reports whether the definition forbids further functions in a device's slot.
func multiOff(a *libvirtxml.DomainAddress) bool {
	return a != nil && a.PCI != nil && a.PCI.MultiFunction == "off"
}

// openPCI returns the devices without an address, those first that have a traditional place.
func openPCI(devices []pciDevice) []pciDevice {
	var first, rest []pciDevice
	for _, d := range devices {
		if _, ok, _ := pciOf(d); ok || !d.fixed.IsZero() {
			continue
		}
		if len(d.at) > 0 {
			first = append(first, d)
		} else {
			rest = append(rest, d)
		}
	}
	return append(first, rest...)
}

// rootHasRoom reports whether the root bus has an empty slot: only then is a spare place worth another controller.
func rootHasRoom(set *address.PCISet) bool {
	for n := uint(1); n <= address.MaxSlot; n++ {
		if set.Empty(address.PCI{Slot: n}) {
			return true
		}
	}
	return false
}

// reserveKnown takes the addresses that the definition and the machine fix.
func (c *completion) reserveKnown(
	set *address.PCISet, devices []pciDevice, groups map[string]address.PCI,
) (places []place, err error) {
	for _, d := range devices {
		at, ok, err := pciOf(d)
		if err != nil {
			return nil, err
		}
		if !d.fixed.IsZero() {
			if ok && at != d.fixed {
				return nil, malformed("Primary %s must have PCI address %s, not %s", d.name, d.fixed, at)
			}
			at = d.fixed
		} else if !ok {
			continue
		}
		if err := set.Reserve(at, d.plug&^address.PlugDownstream, d.name); err != nil {
			return nil, malformed("%w", err)
		}
		if d.share && !multiOff(*d.addr) {
			set.Share(at)
		}
		if d.group != "" {
			groups[d.group] = at
		}
		places = append(places, place{d, at})
	}
	for _, b := range builtins[c.q35] {
		owner := set.Owner(b.at)
		if owner == "" {
			err = set.Reserve(b.at, 0, b.name)
		} else if !ownsBuiltin(devices, b.at, owner) {
			err = fmt.Errorf("attempted double use of PCI address %s by %s and %s", b.at, b.name, owner)
		}
		if err != nil {
			return nil, malformed("%w", err)
		}
	}
	return places, nil
}

func ownsBuiltin(devices []pciDevice, at address.PCI, owner string) bool {
	for _, d := range devices {
		if d.fixed == at && d.name == owner {
			return true
		}
	}
	return false
}

// findPCI takes an address for a device that has none: the slot of its group, its traditional place, or the next free one.
func findPCI(set *address.PCISet, d pciDevice, groups map[string]address.PCI) (address.PCI, error) {
	if at, ok := groups[d.group]; ok && d.group != "" {
		at.Function = d.function
		return at, set.Reserve(at, 0, d.name)
	}
	for _, at := range d.at {
		if set.Empty(at) {
			groups[d.group] = at
			return at, set.Reserve(at, 0, d.name)
		}
	}
	at, err := set.Next(address.Request{Plug: d.plug, Function: d.function, Share: d.share, Device: d.name})
	if err == nil {
		groups[d.group] = at
	}
	return at, err
}

func (c *completion) commitPCI(places []place) error {
	multi := map[address.PCI]int{}
	for _, p := range places {
		slot := p.at
		slot.Function = 0
		multi[slot]++
	}
	for _, p := range places {
		slot := p.at
		slot.Function = 0
		if *p.device.addr == nil || (*p.device.addr).PCI == nil {
			*p.device.addr = &libvirtxml.DomainAddress{PCI: &libvirtxml.DomainAddressPCI{}}
		}
		x := (*p.device.addr).PCI
		x.Domain, x.Bus, x.Slot, x.Function = new(p.at.Domain), new(p.at.Bus), new(p.at.Slot), new(p.at.Function)
		if p.at.Function == 0 && multi[slot] > 1 {
			if x.MultiFunction == "off" {
				return malformed("PCI slot %s has several devices, but multifunction is off", p.at)
			}
			x.MultiFunction = "on"
		}
	}
	c.setRootPorts()
	return nil
}

// setRootPorts derives the port numbers of root ports from their addresses.
func (c *completion) setRootPorts() {
	for i := range c.dev.Controllers {
		ctl := &c.dev.Controllers[i]
		if ctl.Type != "pci" || *ctl.Index == 0 || ctl.PCI == nil || ctl.PCI.Target == nil || ctl.PCI.Target.Port != nil {
			continue
		}
		a := ctl.Address.PCI
		switch address.BusKind(ctl.Model) {
		case address.RootPort:
			ctl.PCI.Target.Port = new(*a.Slot<<3 | *a.Function)
		case address.Downstream:
			ctl.PCI.Target.Port = new(*a.Slot)
		default: // other kinds have no port
		}
	}
}

// pciOf reads the address that a device has; ok is false if it has none yet.
func pciOf(d pciDevice) (a address.PCI, ok bool, err error) {
	if *d.addr == nil {
		return a, false, nil
	}
	x := (*d.addr).PCI
	if x == nil {
		return a, false, unsupported("%s has an address of another type than 'pci', which is not supported", d.name)
	}
	a = address.PCI{Domain: deref(x.Domain), Bus: deref(x.Bus), Slot: deref(x.Slot), Function: deref(x.Function)}
	if err := a.Check(); err != nil {
		return a, false, malformed("%w", err)
	}
	return a, !a.IsZero(), nil
}
