package driver

import (
	"fmt"
	"os/exec"
	"testing"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/process"
	"github.com/lodgevirt/lodge/sdk/conformance"
	"github.com/lodgevirt/lodge/sdk/hypervisor"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// The guests have no system: a QEMU that waits in its firmware starts fast and is a guest like any other.
func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("starts dozens of guests")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("no qemu-system-x86_64")
	}
	conformance.Run(t, conformance.Factory{
		Plugin: func() plugin.Plugin {
			p := Plugin("0.0.0")
			p.Hypervisor = func(core plugin.Core) (hypervisor.Driver, error) { return newDriver(core) }
			return p
		},
		Connection: "system",
		Definition: func(name, uuid string) string {
			return fmt.Sprintf(`<domain type='qemu'><name>%s</name><uuid>%s</uuid><memory unit='MiB'>16</memory><os><type>hvm</type></os>
				<devices><serial type='pty'/><video><model type='none'/></video></devices></domain>`, name, uuid)
		},
		Device: func(t *testing.T) string { return diskXML("sda", "usb", "raw", imageFile(t, "raw")) },
		Kill: func(t *testing.T, _ *pb.Guest, handle *pb.Handle, _ plugin.Settings) {
			p, err := process.Open(process.ID{PID: int(handle.GetPid()), StartTime: handle.GetStartTime()})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if err := p.Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
		NoticesDeath: true,
		Crowd:        24,
	})
}
