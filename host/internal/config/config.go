// Package config reads lodge.toml. It is strict: a key that it does not know, or a value out of range, is an error that names file and
// line. A missing file is the default configuration.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	toml "github.com/pelletier/go-toml/v2"

	"github.com/lodgevirt/lodge/host/internal/virtconf"
)

// maxFile is the largest configuration file in bytes.
const maxFile = 1 << 20

// Config is the host's configuration.
type Config struct {
	// LogLevel is trace, debug, info, warn or error.
	LogLevel string  `toml:"log_level" comment:"trace, debug, info, warn or error"`
	Sockets  Sockets `toml:"sockets"`
	Limits   Limits  `toml:"limits"`
	Locks    Locks   `toml:"locks"`
	Plugins  Plugins `toml:"plugins"`
}

// Sockets says who may connect.
type Sockets struct {
	// Group may connect to the read-write socket too; empty is nobody but root (or the user).
	Group string `toml:"group" comment:"group whose members may connect read-write, besides root"`
}

// Limits bound what clients may use.
type Limits struct {
	// MaxClients is the number of connections of libvirt's clients.
	MaxClients int `toml:"max_clients" comment:"connections of libvirt's clients, 1 to 100000"`
	// MaxRequests is the number of calls of one client that run at once.
	MaxRequests int `toml:"max_client_requests" comment:"calls of one client that run at once, 1 to 1024"`
	// KeepaliveSeconds is the time between pings of a silent client; -1 sends none.
	KeepaliveSeconds int `toml:"keepalive_interval" comment:"seconds between pings of a silent client, -1 for none"`
	// KeepaliveCount is how many pings may go unanswered.
	KeepaliveCount int `toml:"keepalive_count" comment:"pings that may go unanswered, 1 to 100"`
}

// Locks says how disks are locked.
type Locks struct {
	// Manager is "lockd" for the lock daemon, or the name of a plugin that is a lock manager.
	Manager string `toml:"manager" comment:"\"lockd\", or the name of a plugin that is a lock manager"`
	// Disks: lock the writable disks of guests.
	Disks bool `toml:"auto_disk_leases" comment:"lock the writable disks of guests"`
	// Require refuses a guest with writable disks that has no <lease>; without it, that is so where disks are not locked.
	Require *bool `toml:"require_lease_for_disks" comment:"refuse guests with writable disks that are not locked and have no <lease>"`
	// FileLockspace is a folder for lock files named by the hash of a disk's path; empty locks the image itself.
	FileLockspace string `toml:"file_lockspace_dir" comment:"folder for lock files; empty locks the images themselves"`
	// LVMLockspace is a folder for lock files of logical volumes, named by their UUIDs; empty treats them like other disks.
	LVMLockspace string `toml:"lvm_lockspace_dir" comment:"folder for lock files of logical volumes, named by their UUIDs"`
	// SCSILockspace is a folder for lock files of SCSI units, named by their identifiers; empty treats them like other disks.
	SCSILockspace string `toml:"scsi_lockspace_dir" comment:"folder for lock files of SCSI units, named by their identifiers"`
	// From is libvirt's qemu-lockd.conf, whose settings count where this file has none of its own.
	From string `toml:"from" comment:"libvirt's qemu-lockd.conf, to take the five settings from that libvirt knows"`
}

// BuiltInManager is the name of the lock daemon among lock managers.
const BuiltInManager = "lockd"

// Plugins says which drivers there are.
type Plugins struct {
	// Dirs are searched for manifests, the folder "plugins" beside the core's binary by default.
	Dirs []string `toml:"dirs" comment:"folders with plugins and their manifests"`
	// Enabled names the plugins to be used; empty is all that are found.
	Enabled []string `toml:"enabled" comment:"plugins to use; empty for all that are found"`
	// CrashesPerMinute is how many crashes make a plugin failed.
	CrashesPerMinute int `toml:"max_crashes_per_minute" comment:"crashes within a minute after which a plugin stays down, 1 to 100000"`
}

// Default is the configuration without a file.
func Default() Config {
	return Config{
		LogLevel: "info",
		Limits:   Limits{MaxClients: 5000, MaxRequests: 32, KeepaliveSeconds: 5, KeepaliveCount: 5},
		Locks:    Locks{Manager: BuiltInManager, Disks: true},
		Plugins:  Plugins{CrashesPerMinute: 5},
	}
}

// Load reads a file. A missing one is the default configuration, unless required says that somebody named it.
func Load(path string, required bool) (Config, error) {
	c := Default()
	data, err := read(path)
	if errors.Is(err, fs.ErrNotExist) && !required {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("read configuration: %w", err)
	}
	dec := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return c, explain(path, err)
	}
	if err := c.Locks.takeOver(data); err != nil {
		return c, fmt.Errorf("%s: locks.from: %w", path, err)
	}
	return c, c.check(path)
}

// takeOver fills in libvirt's settings, where the file has none of its own.
func (l *Locks) takeOver(data []byte) error {
	if l.From == "" {
		return nil
	}
	theirs, err := virtconf.LoadQEMULockd(l.From)
	if err != nil {
		return err
	}
	var own struct {
		Locks struct {
			Disks *bool `toml:"auto_disk_leases"`
		} `toml:"locks"`
	}
	if err := toml.Unmarshal(data, &own); err != nil {
		return err
	}
	if own.Locks.Disks == nil {
		l.Disks = theirs.AutoDiskLeases
	}
	if l.Require == nil {
		l.Require = &theirs.RequireLeaseForDisks
	}
	for ours, value := range map[*string]string{
		&l.FileLockspace: theirs.FileLockspaceDir, &l.LVMLockspace: theirs.LVMLockspaceDir, &l.SCSILockspace: theirs.SCSILockspaceDir,
	} {
		if *ours == "" {
			*ours = value
		}
	}
	return nil
}

func read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are allowed", path, info.Size(), maxFile)
	}
	return os.ReadFile(path)
}

// explain puts file and line before what the decoder says.
func explain(path string, err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		first := strict.Errors[0]
		row, _ := first.Position()
		return fmt.Errorf("%s:%d: unknown key %v: %w", path, row, first.Key(), err)
	}
	var decode *toml.DecodeError
	if errors.As(err, &decode) {
		row, col := decode.Position()
		return fmt.Errorf("%s:%d:%d: %w", path, row, col, err)
	}
	return fmt.Errorf("%s: %w", path, err)
}

// check refuses values that cannot be meant.
func (c *Config) check(path string) error {
	if hclog.LevelFromString(c.LogLevel) == hclog.NoLevel {
		return fmt.Errorf("%s: log_level %q: use trace, debug, info, warn or error", path, c.LogLevel)
	}
	ranges := []struct {
		key           string
		value, lo, hi int
	}{
		{"limits.max_clients", c.Limits.MaxClients, 1, 100000},
		{"limits.max_client_requests", c.Limits.MaxRequests, 1, 1024},
		{"limits.keepalive_interval", c.Limits.KeepaliveSeconds, -1, 86400},
		{"limits.keepalive_count", c.Limits.KeepaliveCount, 1, 100},
		{"plugins.max_crashes_per_minute", c.Plugins.CrashesPerMinute, 1, 100000},
	}
	for _, r := range ranges {
		if r.value < r.lo || r.value > r.hi {
			return fmt.Errorf("%s: %s is %d: use %d to %d", path, r.key, r.value, r.lo, r.hi)
		}
	}
	folders := []string{c.Locks.FileLockspace, c.Locks.LVMLockspace, c.Locks.SCSILockspace}
	for _, dir := range append(folders, c.Plugins.Dirs...) {
		if dir != "" && !filepath.IsAbs(dir) {
			return fmt.Errorf("%s: folder %q: use an absolute path", path, dir)
		}
	}
	return nil
}
