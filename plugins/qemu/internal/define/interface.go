package define

import (
	"crypto/sha256"
	"fmt"
	"net"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// netModels are the default network cards, best known to guests first, with the QEMU device that each needs.
var netModels = []struct{ model, device string }{
	{"rtl8139", "rtl8139"}, {"e1000", "e1000"}, {"virtio", "virtio-net-pci"},
}

func completeInterfaces(c *completion) error {
	seen := map[string]bool{}
	for i := range c.dev.Interfaces {
		n := &c.dev.Interfaces[i]
		if n.MAC == nil {
			n.MAC = &libvirtxml.DomainInterfaceMAC{Address: newMAC(c.d, i, seen)}
		}
		hw, err := net.ParseMAC(n.MAC.Address)
		if err != nil || len(hw) != 6 {
			return malformed("unable to parse mac address '%s'", n.MAC.Address)
		}
		if hw[0]&1 != 0 {
			return malformed("expected unicast mac address, found multicast '%s'", n.MAC.Address)
		}
		n.MAC.Address = hw.String()
		seen[n.MAC.Address] = true
		if n.Model == nil && (n.Source == nil || n.Source.Hostdev == nil) {
			n.Model = &libvirtxml.DomainInterfaceModel{Type: c.defaultNet()}
		}
		if n.Target != nil && strings.ContainsAny(n.Target.Dev, "/ \t\n:") {
			return malformed("invalid target device name '%s'", n.Target.Dev)
		}
	}
	return nil
}

func (c *completion) defaultNet() string {
	for _, m := range netModels {
		if c.env.HasDevice(m.device) {
			return m.model
		}
	}
	return "virtio"
}

// newMAC derives an address under QEMU's prefix 52:54:00 from the guest's UUID and the place of the interface, so that the
// same definition always gets the same one.
func newMAC(d *libvirtxml.Domain, index int, seen map[string]bool) string {
	for salt := 0; ; salt++ {
		h := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%d/%d", d.UUID, d.Name, index, salt))
		if mac := net.HardwareAddr([]byte{0x52, 0x54, 0, h[0], h[1], h[2]}).String(); !seen[mac] {
			return mac
		}
	}
}
