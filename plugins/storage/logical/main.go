// Command lodge-plugin-logical is the storage driver for pools that are volume groups of LVM ("logical"). lodged starts it when such a
// pool is used.
package main

import (
	"github.com/lodgevirt/lodge/plugins/storage/logical/internal/driver"
	"github.com/lodgevirt/lodge/sdk/plugin"
)

func main() { plugin.Serve(driver.Plugin("0.1.0")) }
