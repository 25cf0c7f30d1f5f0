// Package define reads and completes the definitions of pools on iSCSI targets.
//
// Functions are pure and safe concurrently. Errors are those of package poolxml.
package define

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"unicode"

	"github.com/lodgevirt/lodge/sdk/poolxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Types of pools.
const (
	Kernel = "iscsi"
	Direct = "iscsi-direct"
)

const (
	// defaultPort is iSCSI's, RFC 7143 section 13.
	defaultPort = 3260
	// maxName is the longest name of a target or an initiator in bytes, RFC 7143 section 4.2.7.1.
	maxName = 223
	// Protocol is what a disk's source of a guest calls iSCSI, and what its secrets are for.
	Protocol = "iscsi"
)

// Pool is a pool on a target; it has one host and one device, which is the target's name.
type Pool struct{ *poolxml.Pool }

// ParsePool reads and completes a definition.
func ParsePool(text string) (*Pool, error) {
	all, err := poolxml.Parse(text, Kernel, Direct)
	if err != nil {
		return nil, err
	}
	p := &Pool{all}
	if err := p.NeedHost(1); err != nil {
		return nil, err
	}
	if len(p.Source.Devices) != 1 {
		return nil, verr.New(verr.XMLError, "missing storage pool source device path")
	}
	if err := checkName("target", p.Target()); err != nil {
		return nil, err
	}
	if i := p.Source.Initiator; i != nil && i.IQN.Name == "" {
		p.Source.Initiator = nil
	}
	if p.Source.Initiator != nil {
		if err := checkName("initiator", p.Initiator()); err != nil {
			return nil, err
		}
	}
	if a := p.Source.Auth; a != nil && a.Type != "chap" {
		return nil, verr.New(verr.ConfigUnsupported, "authentication of type '%s' is none of iSCSI's: use chap", a.Type)
	}
	if p.Type == Kernel {
		return p, p.NeedTarget()
	}
	p.Pool.Target = nil
	if p.Source.Initiator == nil {
		return nil, verr.New(verr.XMLError, "missing initiator IQN")
	}
	return p, nil
}

// checkName refuses what cannot be the name of a target or an initiator, or could be taken for something else by a command.
func checkName(whose, name string) error {
	odd := func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || r == unicode.ReplacementChar || strings.ContainsRune(`/\'",;`, r)
	}
	if name == "" || len(name) > maxName || name == "." || name == ".." || strings.HasPrefix(name, "-") || strings.ContainsFunc(name, odd) {
		return verr.New(verr.XMLError, "'%s' is no name of an iSCSI %s", name, whose)
	}
	return nil
}

// Target is the name of the target.
func (p *Pool) Target() string { return p.Source.Devices[0].Path }

// Folder is where the pool's devices are looked for: <target><path>.
func (p *Pool) Folder() string { return p.Pool.Target.Path }

// Initiator is the name to log in with, or empty for the host's own.
func (p *Pool) Initiator() string { return InitiatorOf(&p.Source) }

// InitiatorOf is the initiator that a source names, or empty.
func InitiatorOf(s *poolxml.Source) string {
	if s.Initiator == nil {
		return ""
	}
	return s.Initiator.IQN.Name
}

// Portal is the address of the target's server with its port, an IPv6 address in brackets.
func (p *Pool) Portal() string { return PortalOf(p.Source.Hosts[0]) }

// PortalOf is the portal that a host is.
func PortalOf(h poolxml.Host) string {
	return net.JoinHostPort(strings.Trim(h.Name, "[]"), strconv.Itoa(int(h.Number(defaultPort))))
}

// Exclusive is what no other pool may have too. Two initiators may share a target.
func (p *Pool) Exclusive() []string {
	return []string{fmt.Sprintf("%s %s %s %s", p.Type, p.Portal(), p.Target(), p.Initiator())}
}

// Link is what udev calls the device of a unit, and the key and path of a volume that is no device.
func (p *Pool) Link(lun int) string { return Link(p.Portal(), p.Target(), lun) }

// Link is what udev calls the device of a unit of a target.
func Link(portal, target string, lun int) string {
	return fmt.Sprintf("ip-%s-iscsi-%s-lun-%d", portal, target, lun)
}

// Network is how a guest reaches a unit by itself.
func (p *Pool) Network(lun int) *pb.NetworkSource {
	h := p.Source.Hosts[0]
	n := &pb.NetworkSource{
		Protocol: Protocol, Name: fmt.Sprintf("%s/%d", p.Target(), lun),
		Hosts: []*pb.Host{{Name: h.Name, Port: uint32(h.Number(defaultPort))}},
	}
	if a := p.Source.Auth; a != nil {
		n.User, n.Secret = a.Username, a.Ref(Protocol)[0]
	}
	return n
}

// volumePrefix is before the number of a unit in the name of its volume; the zeros are bus and target.
const volumePrefix = "unit:0:0:"

// VolumeName is the name of a unit's volume.
func VolumeName(lun int) string { return volumePrefix + strconv.Itoa(lun) }

// Unit is the number of the unit whose volume has a name.
func Unit(name string) (lun int, ok bool) {
	text, ok := strings.CutPrefix(name, volumePrefix)
	n, err := strconv.ParseUint(text, 10, 15)
	return int(n), ok && err == nil && VolumeName(int(n)) == name
}
