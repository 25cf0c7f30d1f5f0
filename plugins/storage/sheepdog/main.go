// Command lodge-plugin-sheepdog is the storage driver for pools in sheepdog clusters. lodged starts it when a pool of this type is used.
package main

import (
	"github.com/lodgevirt/lodge/plugins/storage/sheepdog/internal/driver"
	"github.com/lodgevirt/lodge/sdk/plugin"
)

func main() { plugin.Serve(driver.Plugin("0.1.0")) }
