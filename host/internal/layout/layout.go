// Package layout says where everything of a host lies. All paths hang under a state, a run and a log folder, so several hosts can run
// side by side on one machine; the default paths are those that libvirt's clients look at.
//
// It is pure but for Make, which creates folders; safe concurrently.
package layout

import (
	"fmt"
	"os"
	"path/filepath"
)

// maxSocketPath is the longest path of a unix socket in bytes, without the closing NUL.
const maxSocketPath = 107

// Layout is the paths of one host.
type Layout struct {
	// Sockets is the folder of the sockets that libvirt's clients look for.
	Sockets string
	// Run is emptied by a reboot; the host's alone.
	Run string
	// State is kept by a reboot; the host's alone.
	State string
	// Log is for log files.
	Log string
	// Conf holds lodge.toml and plugins.d.
	Conf string
}

// Under returns the layout of a host that keeps everything under one folder.
func Under(dir string) Layout {
	run := filepath.Join(dir, "run")
	return Layout{
		Sockets: run, Run: run, State: filepath.Join(dir, "state"), Log: filepath.Join(dir, "log"),
		Conf: filepath.Join(dir, "etc"),
	}
}

// System returns the layout of the machine's host.
func System() Layout {
	return Layout{
		Sockets: "/run/libvirt", Run: "/run/lodge", State: "/var/lib/lodge", Log: "/var/log/lodge", Conf: "/etc/lodge",
	}
}

// Session returns the layout of an ordinary user's host, by the XDG base directories as getenv tells them.
func Session(getenv func(string) string) (Layout, error) {
	home := getenv("HOME")
	or := func(name, rest string) string {
		if v := getenv(name); filepath.IsAbs(v) {
			return v
		}
		return filepath.Join(home, rest)
	}
	if home == "" {
		return Layout{}, fmt.Errorf("find folders of the session: HOME is not set")
	}
	run := or("XDG_RUNTIME_DIR", ".cache")
	return Layout{
		Sockets: filepath.Join(run, "libvirt"), Run: filepath.Join(run, "lodge"),
		State: filepath.Join(or("XDG_DATA_HOME", ".local/share"), "lodge"),
		Log:   filepath.Join(or("XDG_CACHE_HOME", ".cache"), "lodge/log"),
		Conf:  filepath.Join(or("XDG_CONFIG_HOME", ".config"), "lodge"),
	}, nil
}

// Libvirt is the read-write socket for libvirt's clients.
func (l Layout) Libvirt() string { return filepath.Join(l.Sockets, "libvirt-sock") }

// LibvirtReadOnly is the read-only socket for libvirt's clients.
func (l Layout) LibvirtReadOnly() string { return filepath.Join(l.Sockets, "libvirt-sock-ro") }

// Admin is the socket of our own API.
func (l Layout) Admin() string { return filepath.Join(l.Run, "lodge.sock") }

// Lockd is the socket of the lock daemon.
func (l Layout) Lockd() string { return filepath.Join(l.Sockets, "virtlockd-sock") }

// Catalog is the file of the catalog.
func (l Layout) Catalog() string { return filepath.Join(l.State, "catalog.db") }

// Guests is the folder for a plugin's guests, on a file system that a reboot empties.
func (l Layout) Guests(plugin string) string { return filepath.Join(l.Run, "guests", plugin) }

// PluginState is the folder for what a plugin keeps.
func (l Layout) PluginState(plugin string) string { return filepath.Join(l.State, "plugins", plugin) }

// Saves is the folder for the managed save images of a connection: its URI's scheme and path.
func (l Layout) Saves(scheme, path string) string {
	return filepath.Join(l.State, "save", scheme, path)
}

// GuestLogs is the folder for logs of a plugin's guests.
func (l Layout) GuestLogs(plugin string) string { return filepath.Join(l.Log, plugin) }

// Make creates the folders that the core itself writes to, and refuses a layout whose sockets would have too long a path.
func (l Layout) Make() error {
	for _, socket := range []string{l.LibvirtReadOnly(), l.Admin(), l.Lockd(), filepath.Join(l.Run, "plugins", "parallels", "plugin.sock")} {
		if len(socket) > maxSocketPath {
			return fmt.Errorf("path of socket %q has %d bytes, at most %d are possible: choose a shorter folder", socket, len(socket), maxSocketPath)
		}
	}
	if err := os.MkdirAll(l.Sockets, 0o755); err != nil {
		return fmt.Errorf("make folder for sockets: %w", err)
	}
	for _, dir := range []string{l.Run, l.State, l.Log} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	return nil
}
