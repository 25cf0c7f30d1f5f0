// Package define reads and completes the definitions of pools and volumes that are folders and files.
//
// Definitions come from clients and are untrusted: they were checked for their size and form before they get here, and every value is
// checked here. Functions are pure and safe concurrently. Errors are verr errors: XMLError for what is missing or malformed,
// ConfigUnsupported for what this driver cannot do, by name.
//
// The format is described at https://libvirt.org/formatstorage.html.
package define

import (
	"encoding/xml"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Types of pools.
const (
	Dir   = "dir"
	FS    = "fs"
	NetFS = "netfs"
)

// Source formats, the first of each is the default.
var (
	FSFormats = []string{
		"auto", "ext2", "ext3", "ext4", "ufs", "iso9660", "udf", "gfs", "gfs2", "vfat", "hfs+", "xfs", "ocfs2", "vmfs", "btrfs",
	}
	NetFSFormats = []string{"auto", "nfs", "glusterfs", "cifs"}
)

// Pool is a pool's definition.
type Pool struct {
	XMLName  xml.Name `xml:"pool"`
	Type     string   `xml:"type,attr"`
	Name     string   `xml:"name"`
	UUID     string   `xml:"uuid"`
	Features *Feature `xml:"features"`
	Source   Source   `xml:"source"`
	Target   Target   `xml:"target"`
	Options  *Mount   `xml:"http://libvirt.org/schemas/storagepool/fs/1.0 mount_opts"`
}

// Feature is what a pool's volumes are made with.
type Feature struct {
	COW *State `xml:"cow"`
}

// State is a switch.
type State struct {
	State string `xml:"state,attr"`
}

// Source is where a pool comes from.
type Source struct {
	Hosts    []Host  `xml:"host"`
	Device   *Path   `xml:"device"`
	Dir      *Path   `xml:"dir"`
	Format   *Format `xml:"format"`
	Protocol *Proto  `xml:"protocol"`
	Vendor   *Named  `xml:"vendor"`
	Product  *Named  `xml:"product"`
}

// Host is a server.
type Host struct {
	Name string `xml:"name,attr"`
	Port string `xml:"port,attr,omitempty"`
}

// Path is an element with a path.
type Path struct {
	Path string `xml:"path,attr"`
}

// Proto is the version of a protocol.
type Proto struct {
	Version string `xml:"ver,attr"`
}

// Format is an element with a type.
type Format struct {
	Type string `xml:"type,attr"`
}

// Named is an element with a name.
type Named struct {
	Name string `xml:"name,attr"`
}

// Target is where a pool appears.
type Target struct {
	Path        string       `xml:"path"`
	Permissions *Permissions `xml:"permissions"`
}

// Permissions are those of a folder or file; empty parts are not stated.
type Permissions struct {
	Mode  string `xml:"mode,omitempty"`
	Owner string `xml:"owner,omitempty"`
	Group string `xml:"group,omitempty"`
	Label string `xml:"label,omitempty"`
}

// Mount are further options of a mount.
type Mount struct {
	Options []Named `xml:"http://libvirt.org/schemas/storagepool/fs/1.0 option"`
}

// ParsePool reads and completes a definition.
func ParsePool(text string) (*Pool, error) {
	if err := domxml.Check(text, "pool"); err != nil {
		return nil, err
	}
	p := &Pool{}
	if err := xml.Unmarshal([]byte(text), p); err != nil {
		return nil, verr.New(verr.XMLError, "definition of storage pool: %w", err)
	}
	p.Name = strings.TrimSpace(p.Name)
	if p.Name == "" {
		p.Name = strings.TrimSpace(p.UUID) // as libvirt does for sources without a name, it has none here
	}
	switch {
	case p.Name == "":
		return nil, verr.New(verr.XMLError, "missing pool source name element")
	case p.UUID == "":
		p.UUID = uuid.NewString()
	}
	id, err := domxml.ParseUUID(strings.TrimSpace(p.UUID))
	if err != nil {
		return nil, verr.New(verr.XMLError, "malformed uuid element")
	}
	p.UUID = id.String()
	if err := p.complete(); err != nil {
		return nil, err
	}
	return p, p.Target.Permissions.check()
}

// complete checks what each type needs.
func (p *Pool) complete() error {
	p.Target.Path = strings.TrimSpace(p.Target.Path)
	if !filepath.IsAbs(p.Target.Path) || strings.ContainsRune(p.Target.Path, 0) {
		return verr.New(verr.XMLError, "missing storage pool target path, which must be absolute: '%s'", p.Target.Path)
	}
	p.Target.Path = filepath.Clean(p.Target.Path)
	switch p.Type {
	case Dir:
		return nil
	case FS:
		if p.Source.Device == nil || !filepath.IsAbs(p.Source.Device.Path) {
			return verr.New(verr.XMLError, "missing storage pool source device path")
		}
		return p.format(FSFormats)
	case NetFS:
		if err := p.checkHost(); err != nil {
			return err
		}
		return p.format(NetFSFormats)
	}
	return verr.New(verr.ConfigUnsupported, "pool type '%s' is not one of this driver's", p.Type)
}

// checkHost refuses servers and folders that a command could take for something else.
func (p *Pool) checkHost() error {
	if len(p.Source.Hosts) != 1 || p.Source.Hosts[0].Name == "" {
		return verr.New(verr.XMLError, "missing storage pool source host name")
	}
	host := p.Source.Hosts[0].Name
	if strings.HasPrefix(host, "-") || strings.ContainsAny(host, " \t\n/\\'\"") {
		return verr.New(verr.XMLError, "'%s' is no name of a host", host)
	}
	if p.Source.Dir == nil || p.Source.Dir.Path == "" {
		return verr.New(verr.XMLError, "missing storage pool source path")
	}
	return nil
}

// format completes the source's format, and refuses one that is not known.
func (p *Pool) format(known []string) error {
	if p.Source.Format == nil || p.Source.Format.Type == "" {
		p.Source.Format = &Format{known[0]}
	}
	if !slices.Contains(known, p.Source.Format.Type) {
		return verr.New(verr.ConfigUnsupported, "unknown pool format type '%s' of pool type '%s'", p.Source.Format.Type, p.Type)
	}
	return nil
}

// check refuses what are no permissions.
func (p *Permissions) check() error {
	if p == nil {
		return nil
	}
	if p.Mode != "" {
		if mode, err := strconv.ParseUint(p.Mode, 8, 32); err != nil || mode > 0o7777 {
			return verr.New(verr.XMLError, "malformed octal mode '%s'", p.Mode)
		}
	}
	for name, text := range map[string]string{"owner": p.Owner, "group": p.Group} {
		if text == "" || text == "-1" {
			continue
		}
		if _, err := strconv.ParseUint(text, 10, 32); err != nil {
			return verr.New(verr.XMLError, "malformed %s element '%s'", name, text)
		}
	}
	return nil
}

// Values returns mode, owner and group, with what stands where nothing is stated; -1 leaves an owner or group as it is.
func (p *Permissions) Values(mode uint32) (uint32, int, int) {
	owner, group := -1, -1
	if p == nil {
		return mode, owner, group
	}
	if n, err := strconv.ParseUint(p.Mode, 8, 32); err == nil {
		mode = uint32(n)
	}
	if n, err := strconv.ParseUint(p.Owner, 10, 32); err == nil {
		owner = int(n)
	}
	if n, err := strconv.ParseUint(p.Group, 10, 32); err == nil {
		group = int(n)
	}
	return mode, owner, group
}

// XML prints the definition as libvirt does.
func (p *Pool) XML() (string, error) {
	text, err := xml.Marshal(p)
	if err != nil {
		return "", verr.New(verr.Internal, "print storage pool: %w", err)
	}
	return domxml.Reformat(string(text))
}

// Remote is what is mounted: a device, or a server's folder as mount(8) wants it.
func (p *Pool) Remote() string {
	switch {
	case p.Type == FS:
		return p.Source.Device.Path
	case p.Type != NetFS:
		return ""
	case p.Source.Format.Type == "cifs":
		return "//" + p.Source.Hosts[0].Name + "/" + strings.TrimPrefix(p.Source.Dir.Path, "/")
	}
	host := p.Source.Hosts[0].Name
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + p.Source.Dir.Path
}

// Exclusive is what no other pool may have too.
func (p *Pool) Exclusive() []string {
	all := []string{"path " + p.Target.Path}
	if remote := p.Remote(); remote != "" {
		all = append(all, fmt.Sprintf("%s %s", p.Type, remote))
	}
	return all
}
