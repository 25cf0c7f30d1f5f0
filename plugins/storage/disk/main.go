// Command lodge-plugin-disk is the storage driver for pools that are disks with a partition table ("disk"). lodged starts it when such a
// pool is used.
package main

import (
	"github.com/lodgevirt/lodge/plugins/storage/disk/internal/driver"
	"github.com/lodgevirt/lodge/sdk/plugin"
)

func main() { plugin.Serve(driver.Plugin("0.1.0")) }
