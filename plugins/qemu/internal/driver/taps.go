package driver

import (
	"errors"
	"net"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/tap"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// generatedTap begins the names that nobody has chosen: a definition that has one was copied from a living guest.
const generatedTap = "vnet"

// openTaps opens the taps of a definition's ethernet interfaces, writes their names into it, and returns the numbers under which QEMU
// will inherit them, by the place of the interface.
func (s *start) openTaps(def *libvirtxml.Domain) (map[int]int, error) {
	if def.Devices == nil {
		return nil, nil
	}
	numbers := map[int]int{}
	for i := range def.Devices.Interfaces {
		n := &def.Devices.Interfaces[i]
		if n.Source == nil || n.Source.Ethernet == nil {
			continue
		}
		c, err := tapOf(n)
		if err != nil {
			return nil, err
		}
		file, name, err := tap.Open(c)
		if err != nil {
			return nil, tapError(c, err)
		}
		numbers[i] = monitorFD + len(s.files)
		s.files = append(s.files, file)
		if n.Target == nil {
			n.Target = &libvirtxml.DomainInterfaceTarget{}
		}
		n.Target.Dev = name
	}
	return numbers, nil
}

func tapError(c tap.Config, err error) error {
	switch {
	case errors.Is(err, tap.ErrNoName):
		return verr.New(verr.ConfigUnsupported, "target dev must be supplied when managed='no'")
	case errors.Is(err, tap.ErrMissing):
		return verr.New(verr.ConfigUnsupported, "target managed='no' but specified dev doesn't exist")
	}
	name := c.Name
	if name == "" {
		name = generatedTap + "%d"
	}
	return verr.New(verr.SystemError, "Unable to create tap device %s: %w", name, err)
}

// tapOf is the tap of an interface.
func tapOf(n *libvirtxml.DomainInterface) (tap.Config, error) {
	c := tap.Config{Offload: n.Model != nil && strings.HasPrefix(n.Model.Type, "virtio")}
	if t := n.Target; t != nil {
		c.Existing = t.Managed == "no"
		if c.Existing || !strings.HasPrefix(t.Dev, generatedTap) {
			c.Name = t.Dev
		}
	}
	if n.MAC != nil {
		mac, err := net.ParseMAC(n.MAC.Address)
		if err != nil {
			return c, verr.New(verr.XMLError, "unable to parse mac address '%s'", n.MAC.Address)
		}
		c.MAC = mac
	}
	if n.MTU != nil {
		c.MTU = int(n.MTU.Size)
	}
	return c, nil
}

// checkTaps refuses what a completed definition could not hold: addresses and routes of the host's side of an interface.
func checkTaps(def *libvirtxml.Domain) error {
	if def.Devices == nil {
		return nil
	}
	for _, n := range def.Devices.Interfaces {
		if n.Source == nil || n.Source.Ethernet == nil {
			continue
		}
		if len(n.Source.Ethernet.IP) > 0 || len(n.Source.Ethernet.Route) > 0 {
			return verr.New(verr.ConfigUnsupported, "addresses and routes in the <source> of an interface are not supported by this driver yet")
		}
	}
	return nil
}
