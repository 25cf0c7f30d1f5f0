package driver

import (
	"encoding/json"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/process"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
)

// ConfigKeys are the keys of the driver's own table.
func ConfigKeys() []*basev1.ConfigKey {
	return []*basev1.ConfigKey{
		{Name: "user", Kind: basev1.ValueKind_VALUE_KIND_STRING, Help: "user that QEMU runs as, by name or +number; the driver's own if empty"},
		{Name: "group", Kind: basev1.ValueKind_VALUE_KIND_STRING, Help: "group that QEMU runs as, by name or +number; the user's own if empty"},
		{Name: "dynamic_ownership", Kind: basev1.ValueKind_VALUE_KIND_BOOLEAN, Help: "whether a guest's files belong to that user while the guest lives; true if not set"},
		{Name: "max_files", Kind: basev1.ValueKind_VALUE_KIND_INTEGER, Help: "how many descriptors a QEMU may have; 8192 if not set"},
		{Name: "save_image_format", Kind: basev1.ValueKind_VALUE_KIND_STRING, Help: "how guests are saved: raw, gzip or zstd; raw if empty"},
	}
}

// Config is the driver's own table.
type Config struct {
	// User is what QEMU runs as, by name or number; empty for the plugin's own.
	User string `json:"user"`
	// Group is the group; empty for the user's.
	Group string `json:"group"`
	// DynamicOwnership says whether a guest's files belong to the user while the guest lives; nil is true.
	DynamicOwnership *bool `json:"dynamic_ownership"`
	// MaxFiles is how many descriptors a QEMU may have; 0 is defaultFiles.
	MaxFiles uint32 `json:"max_files"`
	// SaveImageFormat is the format that guests are saved in; empty for raw.
	SaveImageFormat string `json:"save_image_format"`
}

// defaultFiles is the limit that libvirtd's guests inherit from its unit.
const defaultFiles = 8192

func (c Config) files() uint64 {
	if c.MaxFiles == 0 {
		return defaultFiles
	}
	return uint64(c.MaxFiles)
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

// runsAs returns whom guests run as whose definition names nobody, nil for the plugin's own user. Only root can choose.
func (d *Driver) runsAs() (*process.Owner, error) {
	c, err := d.config()
	if err != nil || os.Geteuid() != 0 {
		return nil, err
	}
	return c.owner()
}

func (c Config) owner() (*process.Owner, error) {
	if c.User == "" {
		return nil, nil
	}
	o, err := lookup(c.User, c.Group)
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

// lookup finds a user, and a group or the user's own, by name or number; "+" says that it is a number.
func lookup(name, group string) (*process.Owner, error) {
	u, err := lookupUser(name)
	if err != nil {
		return nil, err
	}
	gid := u.Gid
	if group != "" {
		if gid, err = lookupGroup(group); err != nil {
			return nil, err
		}
	}
	if gid == "" {
		return nil, fmt.Errorf("user %s has no group of its own", name)
	}
	ids := []string{gid}
	if u.Username != "" {
		if ids, err = u.GroupIds(); err != nil {
			return nil, err
		}
	}
	groups, err := numbers(append(ids, u.Uid, gid)...)
	if err != nil {
		return nil, err
	}
	n := len(groups)
	return &process.Owner{UID: groups[n-2], GID: groups[n-1], Groups: groups[:n-2]}, nil
}

// lookupUser returns a user with a number alone for a number that nobody has.
func lookupUser(name string) (*user.User, error) {
	number, must := strings.CutPrefix(name, "+")
	if !must {
		if u, err := user.Lookup(name); err == nil {
			return u, nil
		}
	}
	if _, err := numbers(number); err != nil {
		return nil, user.UnknownUserError(name)
	}
	if u, err := user.LookupId(number); err == nil {
		return u, nil
	}
	return &user.User{Uid: number}, nil
}

func lookupGroup(name string) (gid string, err error) {
	number, must := strings.CutPrefix(name, "+")
	if !must {
		if g, err := user.LookupGroup(name); err == nil {
			return g.Gid, nil
		}
	}
	if _, err := numbers(number); err != nil {
		return "", user.UnknownGroupError(name)
	}
	return number, nil
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
