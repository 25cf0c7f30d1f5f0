package driver

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/process"
	"github.com/lodgevirt/lodge/sdk/fdpass"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

func TestLocksAreInheritedByTheGuest(t *testing.T) {
	r := newRig(t, "")
	lease, err := os.Create(filepath.Join(t.TempDir(), "lease"))
	if err != nil {
		t.Fatal(err)
	}
	token := fdpass.Token{1, 2, 3}
	r.core.SendFile(token, lease)
	req := r.startRequest(true)
	req.Resolved.Leases = []*pb.Lease{{Token: token[:], Resource: "disk"}, {Resource: "held by the lock daemon alone"}}
	resp, err := r.driver.Start(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", resp.GetHandle().GetPid()))
	if err != nil {
		t.Fatal(err)
	}
	held := slices.ContainsFunc(links, func(link string) bool {
		path, err := os.Readlink(link)
		return err == nil && path == lease.Name()
	})
	if !held {
		t.Error("qemu has not got the lock's descriptor")
	}
	r.stop()
}

func TestGuestWithATPMHasItsHelperForAsLongAsItLives(t *testing.T) {
	if _, err := exec.LookPath("swtpm"); err != nil {
		t.Skip("no swtpm")
	}
	r := newRig(t, `<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>`)
	helpers := func() int {
		t.Helper()
		found, err := process.Find(t.Context(), driverName+"-helper", r.guest.GetUuid())
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	r.start(true)
	if n := helpers(); n != 1 {
		t.Errorf("%d helpers", n)
	}
	r.stop()
	if n := helpers(); n != 0 {
		t.Errorf("%d helpers are left", n)
	}
}

func TestGuestWithUEFIHasVariablesThatOutliveIt(t *testing.T) {
	r := newRigWith(t, `<memory unit='MiB'>64</memory><os firmware='efi'><type machine='q35'>hvm</type></os><features><acpi/></features>`)
	if _, err := os.Stat("/usr/share/OVMF"); err != nil {
		t.Skip("no UEFI firmware")
	}
	live := r.start(true).GetLiveXml()
	if !strings.Contains(live, "<nvram") {
		t.Errorf("live xml has no variables: %s", live)
	}
	r.stop()
	stores, err := filepath.Glob(filepath.Join(r.core.Settings().StateDir, "nvram", "*_VARS.fd"))
	if err != nil || len(stores) != 1 {
		t.Errorf("stores of variables: %v, %v", stores, err)
	}
}
