package driver

import (
	"encoding/json"
	"fmt"
	"os"
	"os/user"
	"strconv"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/process"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
)

// ConfigKeys are the keys of the driver's own table.
func ConfigKeys() []*basev1.ConfigKey {
	return []*basev1.ConfigKey{
		{Name: "user", Kind: basev1.ValueKind_VALUE_KIND_STRING, Help: "user that QEMU runs as, by name or number; the driver's own if empty"},
		{Name: "group", Kind: basev1.ValueKind_VALUE_KIND_STRING, Help: "group that QEMU runs as; the user's own if empty"},
	}
}

// Config is the driver's own table.
type Config struct {
	// User is what QEMU runs as, by name or number; empty for the plugin's own.
	User string `json:"user"`
	// Group is the group; empty for the user's.
	Group string `json:"group"`
}

func (d *Driver) config() (Config, error) {
	var c Config
	text := d.core.Settings().Config
	if len(text) == 0 {
		return c, nil
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return c, fmt.Errorf("read settings of the qemu driver: %w", err)
	}
	return c, nil
}

// runsAs returns whom QEMU shall run as, nil for the plugin's own user. Only root can choose.
func (d *Driver) runsAs() (*process.Owner, error) {
	c, err := d.config()
	if err != nil || c.User == "" || os.Geteuid() != 0 {
		return nil, err
	}
	o, err := lookup(c)
	if err != nil {
		return nil, fmt.Errorf("find user of guests: %w", err)
	}
	return o, nil
}

// give makes files and folders those of the user that QEMU runs as.
func give(o *process.Owner, paths ...string) error {
	if o == nil {
		return nil
	}
	for _, path := range paths {
		if err := os.Lchown(path, int(o.UID), int(o.GID)); err != nil {
			return fmt.Errorf("give to user of guests: %w", err)
		}
	}
	return nil
}

func lookup(c Config) (*process.Owner, error) {
	u, err := user.Lookup(c.User)
	if err != nil {
		if u, err = user.LookupId(c.User); err != nil {
			return nil, err
		}
	}
	gid := u.Gid
	if c.Group != "" {
		g, err := user.LookupGroup(c.Group)
		if err != nil {
			if g, err = user.LookupGroupId(c.Group); err != nil {
				return nil, err
			}
		}
		gid = g.Gid
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	groups, err := numbers(append(ids, u.Uid, gid)...)
	if err != nil {
		return nil, err
	}
	n := len(groups)
	return &process.Owner{UID: groups[n-2], GID: groups[n-1], Groups: groups[:n-2]}, nil
}

func numbers(texts ...string) ([]uint32, error) {
	var list []uint32
	for _, t := range texts {
		n, err := strconv.ParseUint(t, 10, 32)
		if err != nil {
			return nil, err
		}
		list = append(list, uint32(n))
	}
	return list, nil
}
