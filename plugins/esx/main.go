// Command lodge-plugin-esx is the driver of VMware ESX hosts and vCenter servers: guests, datastores, networks and interfaces that they keep.
// lodged starts it when a connection to one is used.
package main

import (
	"github.com/lodgevirt/lodge/plugins/esx/internal/driver"
	"github.com/lodgevirt/lodge/sdk/plugin"
)

// version is set when the binary is built for a release.
var version = "0.1.0"

func main() { plugin.Serve(driver.Plugin(version)) }
