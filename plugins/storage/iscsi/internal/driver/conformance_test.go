package driver

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/iscsiadmtest"
	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/kernel"
	"github.com/lodgevirt/lodge/sdk/conformance/storagedriver"
	"github.com/lodgevirt/lodge/sdk/plugin"
)

const (
	// serveKey makes the test binary the plugin.
	serveKey = "LODGE_TEST_SERVE"
	// hostKey is a link to the emulated host that it runs on.
	hostKey = "LODGE_TEST_HOST"
)

// TestConformanceOfKernelPools has an emulated kernel behind the driver, which is killed in all that it does.
func TestConformanceOfKernelPools(t *testing.T) {
	current := filepath.Join(t.TempDir(), "host")
	t.Setenv(hostKey, current)
	storagedriver.Run(t, storagedriver.Factory{
		Plugin: served,
		Config: fmt.Appendf(nil, `{"iscsiadm": %q, "node_database": %q}`, current+"/iscsiadm", current+"/nodes"),
		Pool: func(t *testing.T) storagedriver.Pool {
			h := iscsiadmtest.Start(t, iscsiadmtest.Target{Name: targetName, Portal: portal, Disks: []int64{4 << 20, 4 << 20}})
			_ = os.Remove(current)
			if err := os.Symlink(h.Dir, current); err != nil {
				t.Fatal(err)
			}
			return storagedriver.Pool{XML: kernelXML(h, ""), Volumes: []string{"unit:0:0:1", "unit:0:0:2"}}
		},
		Command: process,
	})
}

// served is the plugin, on an emulated host if the environment names one.
func served() plugin.Plugin {
	dir, err := filepath.EvalSymlinks(os.Getenv(hostKey))
	if err != nil {
		return Plugin("1.0.0")
	}
	return pluginOn("1.0.0", kernel.Roots{Sys: filepath.Join(dir, "sys"), Dev: filepath.Join(dir, "dev")})
}

// process is the plugin's.
func process() *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveKey+"=1")
	return cmd
}

func TestMain(m *testing.M) {
	if os.Getenv(serveKey) != "" {
		plugin.Serve(served())
		return
	}
	os.Exit(m.Run())
}
