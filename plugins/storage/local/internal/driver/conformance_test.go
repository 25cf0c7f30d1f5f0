package driver

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/lodgevirt/lodge/sdk/conformance/storagedriver"
	"github.com/lodgevirt/lodge/sdk/plugin"
)

func TestConformance(t *testing.T) {
	storagedriver.Run(t, storagedriver.Factory{
		Plugin: func() plugin.Plugin { return Plugin("1.0.0") },
		Pool: func(t *testing.T) storagedriver.Pool {
			dir := filepath.Join(t.TempDir(), "pool")
			return storagedriver.Pool{
				XML: fmt.Sprintf("<pool type='dir'><name>p</name><target><path>%s</path></target></pool>", dir), Standing: true,
			}
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
