// Package connection maps the URIs that clients open to the drivers that serve them, and answers what belongs to a connection as
// a whole: capabilities, the node, the driver's version.
//
// The router is filled when the core starts and read-only afterwards. What a driver said of a connection (Probe) is kept for as long as
// the core runs and replaced when the driver becomes ready again, so that those answers cost no call either. All methods are safe
// concurrently.
package connection

import (
	"cmp"
	"context"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/host/internal/pool"
	"github.com/lodgevirt/lodge/host/internal/secret"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Host answers for the machine that the core runs on.
type Host interface {
	// Node describes the machine.
	Node() (*pb.Node, error)
	// CapabilitiesXML composes a capabilities document with a driver's <guest> elements and its additions to <host>.
	CapabilitiesXML(guestsXML, hostXML string) (string, error)
}

// Config describes a connection.
type Config struct {
	// Scheme and Path are those of the canonical URI: "qemu", "system". Path is also the connection's name for the driver.
	Scheme, Path string
	// URI is the canonical one if it is not made of scheme and path.
	URI string
	// Type is libvirt's name of the driver: "QEMU", "Test".
	Type string
	// ErrorDomain is the error domain of the driver.
	ErrorDomain verr.Domain
	// Domains are the connection's domains.
	Domains Domains
	// Pools are the storage pools that guests' disks are in, nil if there are none.
	Pools *pool.Inventory
	// Secrets are those of this machine, nil if guests' disks are not here.
	Secrets *secret.Store
	// Networks and Interfaces are nil where nobody serves them.
	Networks   Networks
	Interfaces Interfaces
	// Seeds: the driver is yet to bring the guests of the first use, which the first client waits for.
	Seeds bool
	// Plugin carries calls to the driver.
	Plugin grpc.ClientConnInterface
	// Probed tells what is behind the connection from memory, in place of the driver's Probe, if it is not nil.
	Probed func(context.Context) (*pb.ProbeResponse, error)
	// Host answers for this machine.
	Host Host
}

// Connection is one connection, shared by all clients that open its URI.
type Connection struct {
	// URI in its canonical form, for example "qemu:///system".
	URI string
	// Type is libvirt's name of the driver: "QEMU", "Test".
	Type string
	// ErrorDomain is the error domain of the driver.
	ErrorDomain verr.Domain
	// Domains are the connection's domains.
	Domains Domains
	// Pools are the storage pools that guests' disks are in, nil if there are none.
	Pools *pool.Inventory
	// Secrets are those of this machine, nil if guests' disks are not here.
	Secrets *secret.Store
	// Networks and Interfaces are nil where nobody serves them.
	Networks   Networks
	Interfaces Interfaces

	cfg     Config
	driver  pb.DriverServiceClient
	probing sync.Mutex // one Probe at a time
	probe   atomic.Pointer[pb.ProbeResponse]
	// settled is closed once the connection has the guests that it has from its first use on.
	settled chan struct{}
	settle  sync.Once
	// users counts the clients that have it open.
	users atomic.Int64
}

// Use counts a client that has the connection open, until Leave.
func (c *Connection) Use() { c.users.Add(1) }

// Leave ends what Use began.
func (c *Connection) Leave() { c.users.Add(-1) }

// Used reports whether a client has the connection open.
func (c *Connection) Used() bool { return c.users.Load() > 0 }

// New returns a connection; nothing is asked of the driver before it is needed.
func New(cfg Config) *Connection {
	c := &Connection{
		URI: cmp.Or(cfg.URI, cfg.Scheme+":///"+cfg.Path), Type: cfg.Type, ErrorDomain: cfg.ErrorDomain, Domains: cfg.Domains,
		Pools: cfg.Pools, Secrets: cfg.Secrets, Networks: cfg.Networks, Interfaces: cfg.Interfaces, cfg: cfg, driver: pb.NewDriverServiceClient(cfg.Plugin), settled: make(chan struct{}),
	}
	if !cfg.Seeds {
		c.Settled()
	}
	return c
}

// Settled says that the connection's first guests are there.
func (c *Connection) Settled() { c.settle.Do(func() { close(c.settled) }) }

// Probe asks a driver that has just become ready, through a connection of its own, what it can do, and keeps the answer.
func (c *Connection) Probe(ctx context.Context, driver pb.DriverServiceClient) (*pb.ProbeResponse, error) {
	p, err := driver.Probe(ctx, &pb.ProbeRequest{Connection: c.cfg.Path})
	if err != nil {
		return nil, err
	}
	c.probe.Store(p)
	return p, nil
}

// probed returns what the driver said of the connection, starting it if it was never asked.
func (c *Connection) probed(ctx context.Context) (*pb.ProbeResponse, error) {
	if c.cfg.Probed != nil {
		return c.cfg.Probed(ctx)
	}
	if p := c.probe.Load(); p != nil {
		return p, nil
	}
	c.probing.Lock()
	defer c.probing.Unlock()
	if p := c.probe.Load(); p != nil {
		return p, nil
	}
	return c.Probe(ctx, c.driver)
}

// Version of the hypervisor: major * 1000000 + minor * 1000 + release.
func (c *Connection) Version(ctx context.Context) (uint64, error) {
	p, err := c.probed(ctx)
	return p.GetVersion(), err
}

// Capabilities returns the capabilities document.
func (c *Connection) Capabilities(ctx context.Context) (string, error) {
	p, err := c.probed(ctx)
	if err != nil || p.CapabilitiesXml != "" {
		return p.GetCapabilitiesXml(), err
	}
	return c.cfg.Host.CapabilitiesXML(p.GuestsXml, p.HostXml)
}

// DomainCapabilities returns the domain capabilities document; every argument may be empty.
func (c *Connection) DomainCapabilities(ctx context.Context, emulator, arch, machine, virtType string) (string, error) {
	rsp, err := pb.NewCapabilityServiceClient(c.cfg.Plugin).DomainCapabilities(ctx, &pb.DomainCapabilitiesRequest{
		Connection: c.cfg.Path, Emulator: emulator, Arch: arch, Machine: machine, VirtType: virtType,
	})
	return rsp.GetXml(), err
}

// CPUModels lists CPU model names of an architecture.
func (c *Connection) CPUModels(ctx context.Context, arch string) ([]string, error) {
	rsp, err := pb.NewCapabilityServiceClient(c.cfg.Plugin).CPUModels(ctx, &pb.CPUModelsRequest{Connection: c.cfg.Path, Arch: arch})
	return rsp.GetModels(), err
}

// MaxVCPUs is the largest number of vCPUs for a virtualization type, "" for the default. An unknown type is InvalidArg.
func (c *Connection) MaxVCPUs(ctx context.Context, virtType string) (int32, error) {
	p, err := c.probed(ctx)
	if err != nil {
		return 0, err
	}
	n, ok := p.MaxVcpus[strings.ToLower(virtType)]
	if !ok {
		return 0, verr.New(verr.InvalidArg, "unknown type '%s'", virtType)
	}
	return int32(n), nil
}

// Node describes the machine that runs the guests.
func (c *Connection) Node(ctx context.Context) (*pb.Node, error) {
	p, err := c.probed(ctx)
	if err != nil || p.Node != nil {
		return p.GetNode(), err
	}
	return c.cfg.Host.Node()
}

// SecurityModel is the driver's security model and DOI, or empty strings.
func (c *Connection) SecurityModel(ctx context.Context) (model, doi string, err error) {
	p, err := c.probed(ctx)
	return p.GetSecurityModel().GetModel(), p.GetSecurityModel().GetDoi(), err
}
