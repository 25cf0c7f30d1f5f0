// Package handshake holds what the core and a plugin must agree on before the first call: the words of hashicorp/go-plugin's
// handshake, the names of the files in a plugin's private folder, and the limits of the boundary.
//
// The core starts a plugin through go-plugin's client. The plugin answers with the one line that go-plugin documents for plugins
// in any language (docs/internals.md, docs/guide-plugin-write-non-go.md), so that it needs neither go-plugin's broker, nor its
// redirection of standard output, which blocks a plugin that prints while no core is attached.
//
// Everything here is constant or pure; all of it is safe concurrently.
package handshake

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Words of the handshake.
const (
	// CookieKey is the environment variable that tells a plugin that the core started it.
	CookieKey = "LODGE_PLUGIN_COOKIE"
	// CookieValue is its value. It is no secret: it only keeps people from running a plugin by hand.
	CookieValue = "6f1c0b7e-2d4a-4c55-9a53-lodge-plugin"
	// VersionsKey is go-plugin's variable with the contract's major versions that the core speaks, separated by commas.
	VersionsKey = "PLUGIN_PROTOCOL_VERSIONS"
	// DirKey is the variable with the plugin's private folder, an absolute path.
	DirKey = "LODGE_PLUGIN_DIR"
	// OrphanKey is the variable with the time, as a Go duration, that a plugin goes on without a core; empty is OrphanGrace.
	OrphanKey = "LODGE_PLUGIN_ORPHAN_GRACE"
	// FailpointsKey is the variable with failpoints in the grammar of package failpoint, for tests.
	FailpointsKey = "LODGE_FAILPOINTS"
	// coreProtocol is go-plugin's own protocol version, the first field of the line.
	coreProtocol = 1
	// Protocol is the newest major version of the contract: that of the protobuf packages.
	Protocol = 1
)

// Files in a plugin's private folder, which has mode 0700.
const (
	// PluginSocket is the gRPC socket that the plugin listens on.
	PluginSocket = "plugin.sock"
	// CoreSocket is the gRPC socket that the core listens on for this plugin alone.
	CoreSocket = "core.sock"
	// FilesSocket is the SOCK_SEQPACKET socket that the plugin takes descriptors from.
	FilesSocket = "fds.sock"
)

// Limits of the boundary.
const (
	// MaxMessage is the largest gRPC message in either direction, in bytes.
	MaxMessage = 16 << 20
	// MaxSocketPath is the longest path of a unix socket, in bytes (sun_path without its end).
	MaxSocketPath = 107
)

// Metadata keys of each call from the core.
const (
	// RequestIDKey carries the request id, the same when a call is repeated.
	RequestIDKey = "lodge-request-id"
	// EpochKey carries the epoch of the core's process: nanoseconds since the host has booted, so that a later process has a larger one.
	EpochKey = "lodge-core-epoch"
)

// ErrVersion says that core and plugin have no major version of the contract in common.
var ErrVersion = errors.New("no protocol version in common")

// Negotiate picks the highest version that is in the core's list (as in VersionsKey) and among the plugin's own.
func Negotiate(offered string, own []int) (int, error) {
	best := 0
	for _, field := range strings.Split(offered, ",") {
		v, err := strconv.Atoi(strings.TrimSpace(field))
		if err == nil && v > best && slices.Contains(own, v) {
			best = v
		}
	}
	if best == 0 {
		return 0, fmt.Errorf("negotiate protocol of %q with %v: %w", offered, own, ErrVersion)
	}
	return best, nil
}

// Line is what a plugin prints on its standard output once it listens on a unix socket.
func Line(version int, socket string) string {
	return fmt.Sprintf("%d|%d|unix|%s|grpc|\n", coreProtocol, version, socket)
}

// CheckDir refuses a private folder whose sockets' paths would be too long for the system, or that is not absolute.
func CheckDir(dir string) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("plugin folder %q is not an absolute path", dir)
	}
	if longest := filepath.Join(dir, PluginSocket); len(longest) > MaxSocketPath {
		return fmt.Errorf("path of socket %q has %d bytes, the system allows %d", longest, len(longest), MaxSocketPath)
	}
	return nil
}
