package driver

import (
	"os"
	"os/exec"
	"testing"

	"github.com/lodgevirt/lodge/sdk/plugin"
)

// roleKey has the test binary be the plugin.
const roleKey = "LODGE_TEST_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(roleKey) == "plugin" {
		plugin.Serve(Plugin("0.0.0"))
	}
	os.Exit(m.Run())
}

// process is the plugin's.
func process() *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleKey+"=plugin")
	return cmd
}
