// Package connection maps the URIs that clients open to the drivers that serve them, and answers what belongs to a connection as
// a whole.
package connection

import (
	"context"

	"github.com/lodgevirt/lodge/host/internal/domain"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Router knows every connection that the host's drivers offer.
type Router struct{}

// Connection is one connection, shared by all clients that open its URI.
type Connection struct {
	// URI in its canonical form, for example "qemu:///system".
	URI string
	// Type is libvirt's name of the driver: "QEMU", "Test".
	Type string
	// ErrorDomain is the error domain of the driver.
	ErrorDomain verr.Domain
	// Domains are the connection's domains.
	Domains *domain.Inventory
}

// Open finds the connection for a URI as it arrives in REMOTE_PROC_CONNECT_OPEN; "" is the host's default connection. It answers
// from memory. An unknown scheme or path is NoConnect.
func (r *Router) Open(ctx context.Context, uri string) (*Connection, error) {
	return nil, verr.New(verr.NoConnect, "no connection driver available for %s", uri)
}

// Version of the hypervisor: major * 1000000 + minor * 1000 + release.
func (c *Connection) Version(ctx context.Context) (uint64, error) { return 0, nil }

// Capabilities returns the capabilities document.
func (c *Connection) Capabilities(ctx context.Context) (string, error) { return "", nil }

// DomainCapabilities returns the domain capabilities document; every argument may be empty.
func (c *Connection) DomainCapabilities(ctx context.Context, emulator, arch, machine, virtType string) (string, error) {
	return "", nil
}

// CPUModels lists CPU model names of an architecture.
func (c *Connection) CPUModels(ctx context.Context, arch string) ([]string, error) { return nil, nil }

// MaxVCPUs is the largest number of vCPUs for a virtualization type, "" for the default.
func (c *Connection) MaxVCPUs(ctx context.Context, virtType string) (int32, error) { return 0, nil }

// Node describes the host.
func (c *Connection) Node(ctx context.Context) (*pb.Node, error) { return nil, nil }

// SecurityModel is the driver's security model and DOI, or empty strings.
func (c *Connection) SecurityModel(ctx context.Context) (model, doi string, err error) {
	return "", "", nil
}
