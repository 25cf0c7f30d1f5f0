// Package define reads and completes the definitions of pools that lie on Ceph, and of the images in them.
//
// Functions are pure and safe concurrently. Errors are those of package poolxml.
package define

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/lodgevirt/lodge/sdk/poolxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// Type is the type of pools.
	Type = "rbd"
	// Hidden begins the names of images that no client sees.
	Hidden = ".lodge-making-"
	// maxHosts is how many monitors a definition may name.
	maxHosts = 64
)

// Pool is a pool that lies on Ceph.
type Pool struct{ *poolxml.Pool }

// ParsePool reads and completes a definition. Elements that mean nothing to Ceph are left out, as libvirt does.
func ParsePool(text string) (*Pool, error) {
	p, err := poolxml.Parse(text, Type)
	if err != nil {
		return nil, err
	}
	p.Features, p.Target, p.Mount = nil, nil, nil
	p.Source = poolxml.Source{Hosts: p.Source.Hosts, Name: p.Source.Name, Auth: p.Source.Auth}
	if p.Source.Name == "" {
		return nil, verr.New(verr.XMLError, "missing storage pool source name: the name of a Ceph pool")
	}
	if err := checkName(p.Source.Name); err != nil {
		return nil, verr.New(verr.XMLError, "'%s' is no name of a Ceph pool", p.Source.Name)
	}
	if len(p.Source.Hosts) > 0 {
		if err := p.NeedHost(maxHosts); err != nil {
			return nil, err
		}
	}
	if a := p.Source.Auth; a != nil && a.Type != "ceph" {
		return nil, verr.New(verr.ConfigUnsupported, "auth type '%s' cannot be used with Ceph: use 'ceph'", a.Type)
	}
	if p.Config == nil {
		return &Pool{p}, nil
	}
	for _, s := range p.Config.Settings {
		if s.Name == "" || s.Value == "" {
			return nil, verr.New(verr.XMLError, "missing name or value of an rbd option")
		}
	}
	return &Pool{p}, nil
}

// checkName refuses what cannot stand in "pool/image@snapshot".
func checkName(name string) error {
	if err := poolxml.CheckName(name); err != nil {
		return err
	}
	if strings.ContainsAny(name, "/@") {
		return verr.New(verr.XMLError, "'%s' is no name of an image", name)
	}
	return nil
}

// Plain reports whether a name can stand in "pool/image@snapshot", so that a guest can have the image.
func Plain(name string) bool { return checkName(name) == nil }

// Monitors are the addresses of the monitors, with brackets around those of IPv6; none means those of Ceph's own configuration file.
func (p *Pool) Monitors() []string {
	all := make([]string, len(p.Source.Hosts))
	for n, h := range p.Source.Hosts {
		switch {
		case h.Port != "":
			all[n] = net.JoinHostPort(h.Name, h.Port)
		case strings.Contains(h.Name, ":"):
			all[n] = "[" + h.Name + "]"
		default:
			all[n] = h.Name
		}
	}
	return all
}

// Place names the Ceph pool and where it is, for messages.
func (p *Pool) Place() string {
	if len(p.Source.Hosts) == 0 {
		return fmt.Sprintf("Ceph pool '%s' (monitors of Ceph's configuration file)", p.Source.Name)
	}
	return fmt.Sprintf("Ceph pool '%s' at %s", p.Source.Name, strings.Join(p.Monitors(), ", "))
}

// User is who the host is to Ceph, or empty.
func (p *Pool) User() string {
	if p.Source.Auth == nil {
		return ""
	}
	return p.Source.Auth.Username
}

// Exclusive is what no other pool may have too: the Ceph pool at each of its monitors.
func (p *Pool) Exclusive() []string {
	hosts := p.Monitors()
	if len(hosts) == 0 {
		hosts = []string{"default"}
	}
	var all []string
	for _, h := range hosts {
		all = append(all, fmt.Sprintf("rbd %s/%s", h, p.Source.Name))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Whole reports whether the definition has the capacity taken for the allocation, without a look at the images' maps.
func (p *Pool) Whole() bool { return p.Refresh != nil && p.Refresh.Volume.Allocation == "capacity" }

// ParseVolume reads and completes a volume's definition, as poolxml.ParseVolume does.
func ParseVolume(text string, from *uint64) (*poolxml.Volume, error) {
	v, err := poolxml.ParseVolume(text, from, poolxml.Raw)
	if err != nil {
		return nil, err
	}
	switch err := checkName(v.Name); {
	case err != nil:
		return nil, err
	case strings.HasPrefix(v.Name, Hidden):
		return nil, verr.New(verr.XMLError, "'%s' is no name of an image", v.Name)
	case v.CapacityBytes == 0:
		return nil, verr.New(verr.XMLError, "volume capacity required for this storage pool")
	}
	return v, v.NeedPlain()
}
