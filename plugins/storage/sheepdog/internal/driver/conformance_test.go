package driver

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/lodgevirt/lodge/plugins/storage/sheepdog/internal/dogtest"
	"github.com/lodgevirt/lodge/sdk/conformance/storagedriver"
	"github.com/lodgevirt/lodge/sdk/plugin"
)

const poolXML = "<pool type='sheepdog'><name>p</name><source><host name='127.0.0.1'/><name>herd</name></source></pool>"

// TestConformance has an emulated cluster behind the driver, which is killed in all that it does.
func TestConformance(t *testing.T) {
	// One program for all pools: the configuration names it.
	var cluster *dogtest.Cluster
	current := t.TempDir() + "/dog"
	storagedriver.Run(t, storagedriver.Factory{
		Thin:   true,
		Plugin: func() plugin.Plugin { return Plugin("1.0.0") },
		Config: fmt.Appendf(nil, `{"dog": %q}`, current),
		Pool: func(t *testing.T) storagedriver.Pool {
			cluster = dogtest.Start(t)
			_ = os.Remove(current)
			if err := os.Symlink(cluster.Program(), current); err != nil {
				t.Fatal(err)
			}
			return storagedriver.Pool{XML: poolXML, Standing: true}
		},
		Command: process,
	})
}

// serveKey makes the test binary the plugin.
const serveKey = "LODGE_TEST_SERVE"

// process is the plugin's.
func process() *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveKey+"=1")
	return cmd
}

func TestMain(m *testing.M) {
	if os.Getenv(serveKey) != "" {
		plugin.Serve(Plugin("1.0.0"))
		return
	}
	os.Exit(m.Run())
}
