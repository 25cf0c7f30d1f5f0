// Package plugin serves a driver to the core: a main function of a driver is
//
//	func main() {
//		plugin.Serve(plugin.Plugin{
//			Name:    "example",
//			Version: "1.0.0",
//			Hypervisor: func(core plugin.Core) (hypervisor.Driver, error) { return newDriver(core), nil },
//		})
//	}
//
// Serve takes care of the handshake, the folders and sockets, health, logging (to the core, and into a bounded ring while the core
// is away), request ids, deadlines, panics, the watch stream with its replay, descriptors, and of going on when the core
// restarts and ending when it stays away for good.
package plugin

import (
	"context"
	"os"

	"github.com/hashicorp/go-hclog"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// Core is the core as a driver sees it. The SDK's implementation talks to the real one; package sdk/faketest has one for unit tests
// of drivers. All methods are safe concurrently.
type Core interface {
	// Logger logs to the core. It never blocks.
	Logger() hclog.Logger
	// State keeps small values on the core's disk.
	State() State
	// TakeFile returns the descriptor that the core has sent under a token (16 bytes), waiting for it until the context
	// ends, at most 5 seconds, since the core sends it before the call that names it. The caller owns the file. A token is good
	// for one call.
	TakeFile(ctx context.Context, token []byte) (*os.File, error)
	// Publish hands an event to the watch stream of its guest's connection; Seq and a missing Time are filled in. Never
	// blocks: beyond 65536 unread events the oldest are dropped and the core is told to resync.
	Publish(event *pb.WatchEvent)
	// Claim takes the locks of a guest that is being started for its process, as the contract says above LockService.Claim. Only for
	// a start whose Resolved.claim is set.
	Claim(ctx context.Context, guest *pb.Guest, pid int32, startTime uint64) error
	// Secret returns the value of a secret that the operator lets the plugin have, by UUID. The value must not reach a log, an argument, a
	// file or an error. It fails with verr.OperationDenied or verr.NoSecret.
	Secret(ctx context.Context, uuid string) ([]byte, error)
	// Settings returns what Configure brought last.
	Settings() Settings
}

// State is a small store of the plugin's own; values survive power loss once Put has returned.
type State interface {
	// Get returns the value of a key, or ok false.
	Get(ctx context.Context, key string) (value []byte, ok bool, err error)
	// Put stores at most 1 MiB under a key of 1 to 256 bytes.
	Put(ctx context.Context, key string, value []byte) error
	// Delete removes a key; a missing one is no error.
	Delete(ctx context.Context, key string) error
	// List returns the keys with a prefix, ascending.
	List(ctx context.Context, prefix string) ([]string, error)
}

// Settings is what the core configures a plugin with.
type Settings struct {
	// Config is the plugin's own table as JSON, checked against its ConfigKeys.
	Config []byte
	// RuntimeDir is emptied by a reboot; the plugin's alone.
	RuntimeDir string
	// StateDir is kept by a reboot; the plugin's alone.
	StateDir string
	// LogDir is for logs of guests.
	LogDir string
	// CgroupParent is the parent of the guests' control groups, relative to each hierarchy's root, or empty.
	CgroupParent string
}
