// Lodge-plugin-test is the driver of test:///default: guests that are only pretended, for trying out clients, for testing the core
// without a hypervisor, and for authors of drivers to learn from. All of it is in package driver.
package main

import (
	"github.com/lodgevirt/lodge/plugins/test/internal/driver"
	"github.com/lodgevirt/lodge/sdk/plugin"
)

// version is set when the binary is built for a release.
var version = "0.1.0"

func main() {
	plugin.Serve(driver.Plugin(version))
}
