// Lodge-plugin-etcd is a lock manager for hosts that share storage: the locks of disks are keys in an etcd cluster. All of it is in
// package manager; docs/lock-etcd.md is for operators. "lodge-plugin-etcd list" shows the locks of all hosts.
package main

import (
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/manager"
	"github.com/lodgevirt/lodge/sdk/plugin"
)

// version is set when the binary is built for a release.
var version = "0.1.0"

func main() {
	plugin.Serve(manager.Plugin(version, manager.Options{}))
}
