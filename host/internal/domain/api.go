// Package domain is the heart of the core: the domains of each connection, what they are and shall be.
package domain

import (
	"context"
	"io"

	"github.com/google/uuid"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

var errSkeleton = verr.New(verr.NoSupport, "this function is not supported by the connection driver")

// Inventory is the domains of one connection ("qemu:///system").
type Inventory struct{}

// Domain is one domain. It stays valid after the domain has gone; its methods then fail with NoDomain.
type Domain struct{}

// List returns the views that pass the filter, ordered by name.
func (i *Inventory) List(filter ListFlags) []View { return nil }

// ByName, ByUUID and ByID find a domain from memory, or fail with NoDomain.
func (i *Inventory) ByName(name string) (*Domain, error)  { return nil, errSkeleton }
func (i *Inventory) ByUUID(id uuid.UUID) (*Domain, error) { return nil, errSkeleton }
func (i *Inventory) ByID(id int32) (*Domain, error)       { return nil, errSkeleton }
func (i *Inventory) Count(filter ListFlags) int           { return 0 }
func (i *Inventory) URI() string                          { return "" }

// Define stores a definition; flags are virDomainDefineFlags (1 validate).
func (i *Inventory) Define(ctx context.Context, xml string, flags uint32) (*Domain, error) {
	return nil, errSkeleton
}

// Create starts a transient domain; flags are virDomainCreateFlags (1 paused, 2 autodestroy, 4 bypass cache, 8 force boot, 16 validate, 32 reset nvram).
func (i *Inventory) Create(ctx context.Context, xml string, flags uint32) (*Domain, error) {
	return nil, errSkeleton
}

// Stats collects figures of domains (virConnectGetAllDomainStats); the caller gets one record a domain, in order.
func (i *Inventory) Stats(ctx context.Context, domains []*Domain, groups uint32) ([]StatsRecord, error) {
	return nil, errSkeleton
}

// StatsRecord is one domain's figures with libvirt's names.
type StatsRecord struct {
	View  View
	Stats []*pb.Stat
}

// View returns what is known now; it never blocks.
func (d *Domain) View() View { return View{} }

// XML returns the definition; flags are virDomainXMLFlags: 1 secure, 2 inactive, 4 update cpu, 8 migratable.
func (d *Domain) XML(flags uint32) (string, error) { return "", errSkeleton }

// CPUTime returns the CPU time of an active guest in nanoseconds, 0 for an inactive one.
func (d *Domain) CPUTime(ctx context.Context) (uint64, error) { return 0, errSkeleton }

// Start starts a persistent domain; flags as for Create.
func (d *Domain) Start(ctx context.Context, flags uint32) error { return errSkeleton }

// Destroy ends the guest; flags: 1 graceful.
func (d *Domain) Destroy(ctx context.Context, flags uint32) error { return errSkeleton }

// Shutdown, Reboot ask the guest; modes as in the contract.
func (d *Domain) Shutdown(ctx context.Context, modes uint32) error { return errSkeleton }
func (d *Domain) Reboot(ctx context.Context, modes uint32) error   { return errSkeleton }
func (d *Domain) Reset(ctx context.Context) error                  { return errSkeleton }
func (d *Domain) Suspend(ctx context.Context) error                { return errSkeleton }
func (d *Domain) Resume(ctx context.Context) error                 { return errSkeleton }
func (d *Domain) SendKey(ctx context.Context, codeset, holdMS uint32, keys []uint32) error {
	return errSkeleton
}
func (d *Domain) InjectNMI(ctx context.Context) error { return errSkeleton }

// Undefine removes the definition; flags are virDomainUndefineFlagsValues (1 managed save, 2 snapshots metadata, 4 nvram, 8 keep nvram, 16 checkpoints metadata, 32 tpm, 64 keep tpm).
func (d *Domain) Undefine(ctx context.Context, flags uint32) error { return errSkeleton }
func (d *Domain) SetAutostart(ctx context.Context, on bool) error  { return errSkeleton }

// Rename gives an inactive domain another name.
func (d *Domain) Rename(ctx context.Context, name string) error { return errSkeleton }

// SetMetadata and Metadata: kind 0 description, 1 title, 2 element; impact flags 0 current, 1 live, 2 config. nil text removes.
func (d *Domain) SetMetadata(ctx context.Context, kind int32, text *string, key, uri string, impact uint32) error {
	return errSkeleton
}
func (d *Domain) Metadata(kind int32, uri string, impact uint32) (string, error) {
	return "", errSkeleton
}

// OpenConsole connects to a character device (channel true: a virtio channel).
func (d *Domain) OpenConsole(ctx context.Context, device string, channel, force bool) (io.ReadWriteCloser, error) {
	return nil, errSkeleton
}

// Screenshot returns the MIME type and the picture.
func (d *Domain) Screenshot(ctx context.Context, screen uint32) (string, io.ReadCloser, error) {
	return "", nil, errSkeleton
}
