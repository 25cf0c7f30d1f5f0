// Package define reads and completes the definitions of pools in sheepdog clusters, and of their volumes.
//
// Functions are pure and safe concurrently. Errors are those of package poolxml.
package define

import (
	"fmt"
	"strings"

	"github.com/lodgevirt/lodge/sdk/poolxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// Type of pools, and what a disk's source of a guest calls the protocol.
	Type = "sheepdog"
	// defaultPort is sheep's.
	defaultPort = 7000
)

// Pool is a pool in a cluster; it has one host, which is one of the cluster's, and a source name.
type Pool struct{ *poolxml.Pool }

// ParsePool reads and completes a definition.
func ParsePool(text string) (*Pool, error) {
	all, err := poolxml.Parse(text, Type)
	if err != nil {
		return nil, err
	}
	p := &Pool{all}
	if p.Source.Name == "" {
		p.Source.Name = p.Name
	}
	if strings.ContainsRune(p.Source.Name, '/') {
		return nil, verr.New(verr.XMLError, "'%s' is no name of a sheepdog pool's source", p.Source.Name)
	}
	if p.Source.Auth != nil {
		return nil, verr.New(verr.ConfigUnsupported, "sheepdog has no authentication")
	}
	p.Target = nil // there is no place on this host where it appears
	return p, p.NeedHost(1)
}

// Host is the node that is asked.
func (p *Pool) Host() string { return strings.Trim(p.Source.Hosts[0].Name, "[]") }

// Port is its port.
func (p *Pool) Port() uint16 { return p.Source.Hosts[0].Number(defaultPort) }

// Exclusive is what no other pool may have too: images have no pools, so two on one node would show the same.
func (p *Pool) Exclusive() []string {
	return []string{fmt.Sprintf("%s %s %d", Type, p.Host(), p.Port())}
}

// Key is the key of a volume.
func (p *Pool) Key(name string) string { return p.Source.Name + "/" + name }

// Network is how a guest reaches a volume.
func (p *Pool) Network(name string) *pb.NetworkSource {
	return &pb.NetworkSource{
		Protocol: Type, Name: name, Hosts: []*pb.Host{{Name: p.Source.Hosts[0].Name, Port: uint32(p.Port())}},
	}
}

// CheckName refuses what cannot be the name of an image: dog takes a dash at its beginning for an option, and cuts what is longer
// than 255 bytes without a word.
func CheckName(name string) error {
	if strings.HasPrefix(name, "-") {
		return verr.New(verr.XMLError, "'%s' is no name of a volume in sheepdog: it begins with a dash", name)
	}
	return poolxml.CheckName(name)
}

// ParseVolume reads and completes a volume's definition, as poolxml.ParseVolume does.
func ParseVolume(text string, from *uint64) (*poolxml.Volume, error) {
	v, err := poolxml.ParseVolume(text, from, poolxml.Raw)
	if err != nil {
		return nil, err
	}
	if err := CheckName(v.Name); err != nil {
		return nil, err
	}
	if v.CapacityBytes == 0 {
		return nil, verr.New(verr.NoSupport, "volume capacity required for this pool").In(verr.FromStorage)
	}
	return v, v.NeedPlain()
}
