package driver

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// alone puts the test into a network of its own, with one tap that is there already. Its thread ends with the test.
func alone(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can make taps")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("no network namespace of our own: %v", err)
	}
	theirs := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "theirs"}, Mode: netlink.TUNTAP_MODE_TAP}
	if err := netlink.LinkAdd(theirs); err != nil {
		t.Skipf("no taps here: %v", err)
	}
}

func linkNames(t *testing.T) string {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return strings.Join(names, " ")
}

func TestTapsOfAGuestComeAndGoWithIt(t *testing.T) {
	alone(t)
	r := newRig(t, `
		<interface type='ethernet'><mac address='52:54:00:00:00:01'/><model type='virtio'/><mtu size='1400'/></interface>
		<interface type='ethernet'><target dev='mine'/><model type='e1000'/></interface>
		<interface type='ethernet'><target dev='vnet7'/><model type='e1000'/></interface>
		<interface type='ethernet'><target dev='theirs' managed='no'/><model type='virtio'/></interface>`)
	live := r.start(false).GetLiveXml()
	if got, want := linkNames(t), "lo theirs vnet0 mine vnet1"; got != want {
		t.Errorf("links are %q, want %q", got, want)
	}
	for _, name := range []string{"vnet0", "mine", "vnet1", "theirs"} {
		if !strings.Contains(live, `dev='`+name+`'`) && !strings.Contains(live, `dev="`+name+`"`) {
			t.Errorf("live xml does not name %s: %s", name, live)
		}
	}
	theirs, err := netlink.LinkByName("theirs")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(theirs); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"vnet0", "mine", "theirs"} {
		link, err := netlink.LinkByName(name)
		if err != nil || link.Attrs().RawFlags&unix.IFF_LOWER_UP == 0 {
			t.Errorf("%s is not connected: %v, %v", name, link, err)
		}
	}
	r.stop()
	if got := linkNames(t); got != "lo theirs" {
		t.Errorf("links left are %q", got)
	}
}

func TestTapsThatCannotBe(t *testing.T) {
	alone(t)
	for name, c := range map[string]struct {
		body string
		code verr.Code
		want string
	}{
		"no such tap": {`<target dev='missing' managed='no'/>`, verr.ConfigUnsupported, "doesn't exist"},
		"no name":     {`<target dev='' managed='no'/>`, verr.ConfigUnsupported, "must be supplied"},
		"no tap":      {`<target dev='lo'/>`, verr.SystemError, "Unable to create tap device lo"},
	} {
		r := newRig(t, `<interface type='ethernet'><model type='virtio'/></interface>
			<interface type='ethernet'>`+c.body+`<model type='virtio'/></interface>`)
		_, err := r.driver.Start(t.Context(), r.startRequest(true))
		if !verr.Is(err, c.code) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		r.nothingLeft()
		if got := linkNames(t); got != "lo theirs" {
			t.Errorf("%s: links left are %q", name, got)
		}
	}
}

func TestAddressesOfTheHostAreRefusedAndNotLost(t *testing.T) {
	r := newRig(t, "")
	xml := `<domain type='qemu'><name>guest</name><memory>1024</memory><os><type>hvm</type></os><devices>
		<interface type='ethernet'><source><ip address='192.0.2.1' prefix='24'/></source></interface></devices></domain>`
	if _, err := r.driver.Validate(t.Context(), &pb.ValidateRequest{Connection: "system", Xml: xml}); !verr.Is(err, verr.ConfigUnsupported) {
		t.Errorf("error is %v", err)
	}
}
