// Command lodge-plugin-sanlock is the lock manager for sites that keep leases on shared storage with sanlock. lodged starts it when it
// is needed. With the word "cleanup" it removes lease files that nobody has; README.md tells of both.
package main

import (
	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/cleanup"
	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/manager"
	"github.com/lodgevirt/lodge/sdk/plugin"
)

// version is the plugin's own.
const version = "0.1.0"

func main() {
	p := manager.Plugin(version)
	p.Commands = map[string]func([]string) int{cleanup.Command: cleanup.Run}
	plugin.Serve(p)
}
