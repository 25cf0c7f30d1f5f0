// Package tap opens the host's side of a guest's network card: a tap, whose descriptor QEMU inherits.
//
// A tap that Open makes lives as long as a descriptor of it is open: the kernel removes it when the guest ends, however it ends, and
// nobody has to clean up. One that somebody else made to stay is only used. Open keeps no state and is safe concurrently; when it
// fails, nothing is left.
package tap

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// generated is the pattern of names that the kernel completes with the first free number, after libvirt's.
const generated = "vnet%d"

// device makes taps: Linux, Documentation/networking/tuntap.rst.
const device = "/dev/net/tun"

// Errors that callers tell apart.
var (
	// ErrMissing says that a tap that must exist does not.
	ErrMissing = errors.New("network device does not exist")
	// ErrNoName says that a tap that must exist was not named.
	ErrNoName = errors.New("network device has no name")
)

// Config is what a tap shall be.
type Config struct {
	// Name is the tap's, or empty for one that is free.
	Name string
	// Existing says that the tap was made, set up and is removed by somebody else.
	Existing bool
	// Offload says that the guest's card can do a part of the host's work, as virtio cards can.
	Offload bool
	// MAC is that of the guest's card.
	MAC net.HardwareAddr
	// MTU is in bytes, 0 for the kernel's default.
	MTU int
}

// Open returns a descriptor of the tap and its name. The tap is set up: it has its address and MTU, and is up.
func Open(c Config) (*os.File, string, error) {
	if c.Existing {
		if c.Name == "" {
			return nil, "", fmt.Errorf("open tap: %w", ErrNoName)
		}
		if _, err := netlink.LinkByName(c.Name); err != nil {
			if errors.As(err, &netlink.LinkNotFoundError{}) {
				err = ErrMissing
			}
			return nil, "", fmt.Errorf("open tap %q: %w", c.Name, err)
		}
	}
	file, name, err := attach(c)
	if err != nil {
		return nil, "", err
	}
	if !c.Existing {
		err = setUp(c, name)
	}
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("set up tap %q: %w", name, err), file.Close())
	}
	return file, name, nil
}

// attach makes the tap, or opens the one of the name.
func attach(c Config) (*os.File, string, error) {
	name := c.Name
	if name == "" {
		name = generated
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return nil, "", fmt.Errorf("open tap %q: %w", name, err)
	}
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if c.Offload {
		flags |= unix.IFF_VNET_HDR
	}
	req.SetUint16(flags)
	// Not by os.OpenFile, which would make it known to Go's poller and is not the one who reads it.
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", fmt.Errorf("open %s: %w", device, err)
	}
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		_ = unix.Close(fd)
		return nil, "", fmt.Errorf("open tap %q: %w", name, err)
	}
	return os.NewFile(uintptr(fd), device), req.Name(), nil
}

func setUp(c Config, name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if len(c.MAC) == 6 {
		if err := netlink.LinkSetHardwareAddr(link, hostSide(c.MAC)); err != nil {
			return fmt.Errorf("set address: %w", err)
		}
	}
	if c.MTU > 0 {
		if err := netlink.LinkSetMTU(link, c.MTU); err != nil {
			return fmt.Errorf("set mtu %d: %w", c.MTU, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return nil
}

// hostSide is the address of the tap itself: the guest's with a first byte that keeps a bridge from taking it for its own, as
// libvirt does.
func hostSide(guest net.HardwareAddr) net.HardwareAddr {
	mac := append(net.HardwareAddr(nil), guest...)
	mac[0] = 0xfe
	return mac
}
