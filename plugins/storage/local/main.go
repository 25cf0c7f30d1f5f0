// Command lodge-plugin-local is the storage driver for pools that are folders of this machine: "dir", "fs" and "netfs". lodged starts
// it when a pool of these types is used.
package main

import (
	"github.com/lodgevirt/lodge/plugins/storage/local/internal/driver"
	"github.com/lodgevirt/lodge/sdk/plugin"
)

func main() { plugin.Serve(driver.Plugin("0.1.0")) }
