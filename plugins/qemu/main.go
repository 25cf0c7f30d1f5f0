// Command lodge-plugin-qemu is the driver for guests that QEMU runs on this machine. lodged starts it when it is needed.
//
// Started as a stage (process.StageCommand) it is a step on the way of one guest's QEMU to life.
package main

import (
	"github.com/lodgevirt/lodge/plugins/qemu/internal/driver"
	"github.com/lodgevirt/lodge/sdk/plugin"
)

// version is the driver's own.
const version = "0.1.0"

func main() { plugin.Serve(driver.Plugin(version)) }
