package driver_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/lodgevirt/lodge/plugins/test/internal/driver"
	"github.com/lodgevirt/lodge/sdk/conformance"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// definition is a guest with a serial port.
func definition(name, uuid string) string {
	return fmt.Sprintf(`<domain type='test'><name>%s</name><uuid>%s</uuid><memory>8192</memory><os><type>hvm</type></os>
		<devices><serial type='pty'/></devices></domain>`, name, uuid)
}

func TestConformance(t *testing.T) {
	conformance.Run(t, conformance.Factory{
		Plugin:     func() plugin.Plugin { return driver.Plugin("0.0.0") },
		Connection: "default",
		Definition: definition,
		Device: func(*testing.T) string {
			return "<disk type='file' device='disk'><source file='/images/b'/><target dev='vdb' bus='virtio'/></disk>"
		},
		Kill: func(t *testing.T, guest *pb.Guest, _ *pb.Handle, settings plugin.Settings) {
			if err := os.Remove(filepath.Join(settings.RuntimeDir, guest.GetUuid()+".guest")); err != nil {
				t.Fatal(err)
			}
		},
	})
}
