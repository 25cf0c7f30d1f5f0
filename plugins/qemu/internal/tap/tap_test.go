package tap

import (
	"errors"
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// alone puts the test into a network of its own. Its thread ends with the test.
func alone(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can make taps")
	}
	if _, err := os.Stat(device); err != nil {
		t.Skip(err)
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("no network namespace of our own: %v", err)
	}
}

var card = net.HardwareAddr{0x52, 0x54, 0, 1, 2, 3}

func TestTapLivesAsLongAsItsDescriptor(t *testing.T) {
	alone(t)
	file, name, err := Open(Config{MAC: card, MTU: 1400, Offload: true})
	if err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName("vnet0")
	if err != nil || name != "vnet0" {
		t.Fatalf("tap %q: %v", name, err)
	}
	a := link.Attrs()
	if a.HardwareAddr.String() != "fe:54:00:01:02:03" || a.MTU != 1400 || a.Flags&net.FlagUp == 0 {
		t.Errorf("tap has address %s, mtu %d, flags %v", a.HardwareAddr, a.MTU, a.Flags)
	}
	second, name, err := Open(Config{MAC: card})
	if err != nil || name != "vnet1" {
		t.Errorf("second tap is %q, %v", name, err)
	}
	second.Close()
	file.Close()
	if links, err := netlink.LinkList(); err != nil || len(links) != 1 {
		t.Errorf("links left: %v, %v", links, err)
	}
}

func TestTapOfSomebodyElseIsUsedAndLeft(t *testing.T) {
	alone(t)
	theirs := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "theirs"}, Mode: netlink.TUNTAP_MODE_TAP}
	if err := netlink.LinkAdd(theirs); err != nil {
		t.Fatal(err)
	}
	before, err := netlink.LinkByName("theirs") // with the random address that the kernel chose
	if err != nil {
		t.Fatal(err)
	}
	file, name, err := Open(Config{Name: "theirs", Existing: true, MAC: card, MTU: 1400})
	if err != nil || name != "theirs" {
		t.Fatalf("tap %q: %v", name, err)
	}
	if _, _, err := Open(Config{Name: "theirs", Existing: true}); !errors.Is(err, unix.EBUSY) {
		t.Errorf("opened a second time: %v", err)
	}
	file.Close()
	link, err := netlink.LinkByName("theirs")
	if err != nil {
		t.Fatal(err)
	}
	if a := link.Attrs(); a.MTU == 1400 || a.HardwareAddr.String() != before.Attrs().HardwareAddr.String() || a.Flags&net.FlagUp != 0 {
		t.Errorf("their tap was changed: %+v", a)
	}
}

func TestTapsThatCannotBe(t *testing.T) {
	alone(t)
	for name, c := range map[string]struct {
		config Config
		want   error
	}{
		"one that must exist and does not": {Config{Name: "missing", Existing: true}, ErrMissing},
		"one that must exist, unnamed":     {Config{Existing: true}, ErrNoName},
		"one that is no tap":               {Config{Name: "lo"}, unix.EINVAL},
		"a name that is too long":          {Config{Name: "a-name-that-is-too-long"}, unix.EINVAL},
		"an mtu that is too large":         {Config{Name: "mine", MTU: 1 << 20}, unix.EINVAL},
	} {
		if _, _, err := Open(c.config); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := netlink.LinkByName("mine"); err == nil {
		t.Error("a tap that could not be set up is left")
	}
}
