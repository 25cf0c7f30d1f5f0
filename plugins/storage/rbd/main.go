// Command lodge-plugin-rbd is the storage driver for pools that lie on Ceph: "rbd". lodged starts it when a pool of this type is used.
package main

import (
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/driver"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/librados"
	"github.com/lodgevirt/lodge/sdk/plugin"
)

func main() { plugin.Serve(driver.Plugin("0.1.0", librados.Dial, librados.Available())) }
