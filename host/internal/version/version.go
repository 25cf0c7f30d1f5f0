// Package version says which version of Lodge this is, for every daemon and command alike. It is set once at build time, read-only
// afterwards, and cannot fail: a build that nobody gave a version is "devel".
package version

import "runtime/debug"

// Version is the release, set by the linker (-X) for packages; otherwise what the Go toolchain recorded.
var Version = ""

// String returns the version, "devel" if nothing was recorded.
func String() string {
	if Version != "" {
		return Version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}
