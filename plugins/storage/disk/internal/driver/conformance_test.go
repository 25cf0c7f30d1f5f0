package driver

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/lodgevirt/lodge/plugins/storage/disk/internal/parted"
	"github.com/lodgevirt/lodge/sdk/conformance/storagedriver"
	"github.com/lodgevirt/lodge/sdk/plugin"
	"github.com/lodgevirt/lodge/tests/fakelvm"
)

func TestConformance(t *testing.T) {
	if !parted.Available() {
		t.Skip("parted is not installed")
	}
	var device atomic.Pointer[string] // of the check that runs
	storagedriver.Run(t, storagedriver.Factory{
		Plugin: func() plugin.Plugin { return Plugin("1.0.0") },
		Pool: func(t *testing.T) storagedriver.Pool {
			path := fakelvm.Loop(t, filepath.Join(t.TempDir(), "disk"), 64*mib)
			device.Store(&path)
			return storagedriver.Pool{
				XML:      fmt.Sprintf("<pool type='disk'><name>p</name><source><device path='%s'/><format type='gpt'/></source></pool>", path),
				Standing: true,
			}
		},
		Name:    func(n int) string { return fmt.Sprintf("%sp%d", filepath.Base(*device.Load()), n+1) },
		Rounds:  storagedriver.SlowRounds(),
		Command: process,
	})
}
