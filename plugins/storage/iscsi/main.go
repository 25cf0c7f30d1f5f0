// Command lodge-plugin-iscsi is the storage driver for pools on iSCSI targets, "iscsi" and "iscsi-direct". lodged starts it when a pool
// of these types is used.
package main

import (
	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/driver"
	"github.com/lodgevirt/lodge/sdk/plugin"
)

func main() { plugin.Serve(driver.Plugin("0.1.0")) }
