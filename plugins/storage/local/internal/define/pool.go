// Package define reads and completes the definitions of pools that are folders, and of volumes that are files.
//
// Functions are pure and safe concurrently. Errors are those of package poolxml.
package define

import (
	"fmt"
	"strings"

	"github.com/lodgevirt/lodge/sdk/poolxml"
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

// made are the formats of volumes that this driver makes.
var made = []string{poolxml.Raw, "iso", poolxml.Folder, "qcow", poolxml.QCOW2, "qed", "vmdk", "vpc", "vdi"}

// ParseVolume reads and completes a volume's definition, as poolxml.ParseVolume does.
func ParseVolume(text string, from *uint64) (*poolxml.Volume, error) {
	v, err := poolxml.ParseVolume(text, from, made...)
	if err != nil {
		return nil, err
	}
	return v, v.NeedImage()
}

// Pool is a pool that is a folder; it has a target.
type Pool struct{ *poolxml.Pool }

// ParsePool reads and completes a definition.
func ParsePool(text string) (*Pool, error) {
	all, err := poolxml.Parse(text, Dir, FS, NetFS)
	if err != nil {
		return nil, err
	}
	p := &Pool{all}
	if err := p.NeedTarget(); err != nil {
		return nil, err
	}
	switch p.Type {
	case FS:
		if err := p.NeedDevices(1); err != nil {
			return nil, err
		}
		return p, p.NeedFormat(FSFormats...)
	case NetFS:
		if err := p.NeedHost(1); err != nil {
			return nil, err
		}
		if p.Source.Dir == nil || p.Source.Dir.Path == "" {
			return nil, verr.New(verr.XMLError, "missing storage pool source path")
		}
		return p, p.NeedFormat(NetFSFormats...)
	}
	return p, nil
}

// Remote is what is mounted: a device, or a server's folder as mount(8) wants it.
func (p *Pool) Remote() string {
	switch {
	case p.Type == FS:
		return p.Source.Devices[0].Path
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
