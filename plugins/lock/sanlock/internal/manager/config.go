package manager

import (
	"encoding/json"
	"fmt"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/cleanup"
	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/client"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Limits of settings.
const (
	maxHostID    = 2000
	maxIOTimeout = 600
)

func configKeys() []*basev1.ConfigKey {
	const (
		text    = basev1.ValueKind_VALUE_KIND_STRING
		number  = basev1.ValueKind_VALUE_KIND_INTEGER
		boolean = basev1.ValueKind_VALUE_KIND_BOOLEAN
	)
	return []*basev1.ConfigKey{
		{Name: "host_id", Kind: number, Help: "number of this host among those that share leases, another one on each, 1 to 2000"},
		{Name: "auto_disk_leases", Kind: boolean, DefaultValue: "false", Help: "whether each disk of a guest gets a lease by itself"},
		{Name: "disk_lease_dir", Kind: text, DefaultValue: strconv.Quote(cleanup.DefaultLeaseDir), Help: "folder of these leases, on storage that all hosts share"},
		{Name: "require_lease_for_disks", Kind: boolean, Help: "whether a guest that writes to disks must have a lease; the opposite of auto_disk_leases if not set"},
		{Name: "io_timeout", Kind: number, DefaultValue: "0", Help: "sanlock's I/O timeout in seconds; 0 for the daemon's own"},
		{Name: "user", Kind: text, Help: "user whose the lease files are, by name or +number; the plugin's own if empty"},
		{Name: "group", Kind: text, Help: "group whose the lease files are, by name or +number, who may write to them then; the plugin's own if empty"},
		{Name: "run_dir", Kind: text, DefaultValue: strconv.Quote(client.DefaultDir), Help: "folder of the sanlock daemon's socket"},
	}
}

// config is the plugin's own table, under the names of qemu-sanlock.conf.
type config struct {
	HostID               int64  `json:"host_id"`
	AutoDiskLeases       bool   `json:"auto_disk_leases"`
	DiskLeaseDir         string `json:"disk_lease_dir"`
	RequireLeaseForDisks *bool  `json:"require_lease_for_disks"`
	IOTimeout            int64  `json:"io_timeout"`
	User                 string `json:"user"`
	Group                string `json:"group"`
	RunDir               string `json:"run_dir"`

	// uid and gid are what User and Group come to, -1 for the plugin's own.
	uid, gid int
}

// parseConfig reads and checks the plugin's table.
func parseConfig(text []byte) (*config, error) {
	c := &config{DiskLeaseDir: cleanup.DefaultLeaseDir, RunDir: client.DefaultDir, uid: -1, gid: -1}
	if len(text) > 0 {
		if err := json.Unmarshal(text, c); err != nil {
			return nil, verr.New(verr.ConfigUnsupported, "read settings of the lock manager sanlock: %w", err)
		}
	}
	for _, rule := range []struct {
		wrong bool
		say   string
	}{
		{c.HostID < 0 || c.HostID > maxHostID, "host_id must be a number from 1 to 2000"},
		{c.AutoDiskLeases && c.HostID == 0, "auto_disk_leases needs host_id, a number from 1 to 2000 that no other host has"},
		{c.IOTimeout < 0 || c.IOTimeout > maxIOTimeout, "io_timeout must be a number from 0 to 600"},
		{!filepath.IsAbs(c.DiskLeaseDir), "disk_lease_dir must be an absolute path"},
		{!filepath.IsAbs(c.RunDir), "run_dir must be an absolute path"},
	} {
		if rule.wrong {
			return nil, verr.New(verr.ConfigUnsupported, "settings of the lock manager sanlock: %s", rule.say)
		}
	}
	if err := (client.Disk{Path: filepath.Join(c.DiskLeaseDir, strings.Repeat("f", 2*md5Size))}).Check(); err != nil {
		return nil, verr.New(verr.ConfigUnsupported, "settings of the lock manager sanlock: disk_lease_dir: %w", err)
	}
	var err error
	if c.uid, err = lookup(c.User, func(name string) (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	}); err != nil {
		return nil, verr.New(verr.ConfigUnsupported, "settings of the lock manager sanlock: user: %w", err)
	}
	if c.gid, err = lookup(c.Group, func(name string) (string, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	}); err != nil {
		return nil, verr.New(verr.ConfigUnsupported, "settings of the lock manager sanlock: group: %w", err)
	}
	return c, nil
}

// lookup turns a name or "+number" into a number, nothing into -1.
func lookup(name string, find func(string) (string, error)) (int, error) {
	if name == "" {
		return -1, nil
	}
	text, byNumber := strings.CutPrefix(name, "+")
	if !byNumber {
		var err error
		if text, err = find(name); err != nil {
			return 0, err
		}
	}
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%q is no number of a user or group", text)
	}
	return int(n), nil
}

// requires reports that a guest which writes to disks must have a lease.
func (c *config) requires() bool {
	if c.RequireLeaseForDisks != nil {
		return *c.RequireLeaseForDisks
	}
	return !c.AutoDiskLeases
}

// moves reports that leases of guests would not be found any more after a change to other settings.
func (c *config) moves(to *config) bool {
	return c.HostID != to.HostID || c.AutoDiskLeases != to.AutoDiskLeases || c.DiskLeaseDir != to.DiskLeaseDir || c.RunDir != to.RunDir
}
