package connection

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/host/internal/domain"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	storagev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
)

// ErrUnread is what XML and Metadata of a Domain return when the definition is not in memory; Read waits for it.
var ErrUnread = errors.New("the definition has not been read yet")

// Domains are the domains of a connection, whether the core keeps them or mirrors those that a hypervisor keeps. Finding, listing and
// counting them is answered from memory. Creator, Images, Natives and MigrationTarget are optional interfaces.
type Domains interface {
	// URI is the connection in its canonical form.
	URI() string
	// ByName, ByUUID and ByID find a domain, or fail with NoDomain.
	ByName(name string) (Domain, error)
	ByUUID(id uuid.UUID) (Domain, error)
	ByID(id int32) (Domain, error)
	// Count returns how many domains pass the filter.
	Count(filter domain.ListFlags) int
	// List returns the views that pass the filter, in no order.
	List(filter domain.ListFlags) []domain.View
	// Select returns the domains that pass the filter, in no order.
	Select(filter domain.ListFlags) []Domain
	// Define stores a definition; flags are virDomainDefineFlags.
	Define(ctx context.Context, xml string, flags uint32) (Domain, error)
	// Stats collects figures of domains of this connection, in their order; groups are bits of virDomainStatsTypes, 0 for all.
	Stats(ctx context.Context, domains []Domain, groups uint32) ([]domain.StatsRecord, error)
}

// Creator is an optional interface of Domains: starting what is not defined.
type Creator interface {
	// Create starts a transient domain; flags are virDomainCreateFlags.
	Create(ctx context.Context, xml string, flags uint32) (Domain, error)
}

// Images is an optional interface of Domains: the files that guests were saved to.
type Images interface {
	// Restore starts a guest from a file; flags are virDomainSaveRestoreFlags.
	Restore(ctx context.Context, path, xml string, flags uint32) error
	// ImageXML returns the definition in a file; flags are virDomainSaveImageXMLFlags.
	ImageXML(path string, flags uint32) (string, error)
	// DefineImage replaces it; flags are virDomainSaveRestoreFlags.
	DefineImage(ctx context.Context, path, xml string, flags uint32) error
}

// Natives is an optional interface of Domains: translating definitions.
type Natives interface {
	// FromNative reads a definition in a format of the hypervisor's.
	FromNative(ctx context.Context, format, native string) (xml string, err error)
	// ToNative writes one.
	ToNative(ctx context.Context, format, xml string) (native string, err error)
}

// MigrationTarget is an optional interface of Domains: taking a guest over, in libvirt's migration of version 1.
type MigrationTarget interface {
	// PrepareMigration says where the guest is to be sent; flags are virDomainMigrateFlags.
	PrepareMigration(ctx context.Context, uri string, flags uint64, name string) (to string, err error)
	// FinishMigration finds it once it was sent.
	FinishMigration(ctx context.Context, name, uri string, flags uint64) (Domain, error)
}

// Domain is one domain. What is not in this interface is in the optional ones below, which a domain has if its kind can do that at all;
// what a driver cannot do fails with NoSupport.
type Domain interface {
	// View returns what is known now; it never blocks.
	View() domain.View
	// XML returns the definition; flags are virDomainXMLFlags. It never waits for a driver.
	XML(flags uint32) (string, error)
	// Metadata returns the description (kind 0), the title (1) or the element with a namespace (2). It never waits for a driver.
	Metadata(kind int32, uri string, impact uint32) (string, error)
	// CPUTime returns nanoseconds of an active guest, 0 for an inactive one.
	CPUTime(ctx context.Context) (uint64, error)
	// Start starts the domain; flags are virDomainCreateFlags.
	Start(ctx context.Context, flags uint32) error
	// Destroy ends the guest at once; flags are virDomainDestroyFlagsValues.
	Destroy(ctx context.Context, flags uint32) error
	// Undefine removes the definition; flags are virDomainUndefineFlagsValues.
	Undefine(ctx context.Context, flags uint32) error
	// SetAutostart says whether the host starts it.
	SetAutostart(ctx context.Context, on bool) error
	// Shutdown and Reboot ask the guest; modes are virDomainShutdownFlagValues and virDomainRebootFlagValues.
	Shutdown(ctx context.Context, modes uint32) error
	Reboot(ctx context.Context, modes uint32) error
	// Reset is the reset button.
	Reset(ctx context.Context) error
	// Suspend stops the guest, Resume lets it go on.
	Suspend(ctx context.Context) error
	Resume(ctx context.Context) error
	// Screenshot reads a screen's picture; the caller closes it.
	Screenshot(ctx context.Context, screen uint32) (mime string, picture io.ReadCloser, err error)
}

// Reader is an optional interface of a Domain whose definition may not be in memory.
type Reader interface {
	// Read waits until it is.
	Read(ctx context.Context) error
}

// Keyboard is an optional interface of a Domain.
type Keyboard interface {
	SendKey(ctx context.Context, codeset, holdMS uint32, keys []uint32) error
	InjectNMI(ctx context.Context) error
}

// Console is an optional interface of a Domain.
type Console interface {
	OpenConsole(ctx context.Context, device string, channel, force bool) (io.ReadWriteCloser, error)
}

// Editor is an optional interface of a Domain whose definition can be changed in part.
type Editor interface {
	Rename(ctx context.Context, name string) error
	SetMetadata(ctx context.Context, kind int32, text *string, key, uri string, impact uint32) error
}

// Devices is an optional interface of a Domain.
type Devices interface {
	AttachDevice(ctx context.Context, xml string, flags uint32) error
	DetachDevice(ctx context.Context, xml string, flags uint32) error
	DetachDeviceByAlias(ctx context.Context, alias string, flags uint32) error
	UpdateDevice(ctx context.Context, xml string, flags uint32) error
	// Disk returns the disk with a name or path, and what its volume stands for if it names one.
	Disk(ctx context.Context, name string) (*libvirtxml.DomainDisk, *storagev1.Volume, error)
}

// Saver is an optional interface of a Domain whose state can be written into a file.
type Saver interface {
	Save(ctx context.Context, path, xml string, flags uint32) error
	ManagedSave(ctx context.Context, xml string, flags uint32) error
	RemoveManagedSave(ctx context.Context) error
	ManagedSaveXML(flags uint32) (string, error)
	DefineManagedSave(ctx context.Context, xml string, flags uint32) error
	// JobInfo, LastJob and AbortJob are about the save under way, or the last one.
	JobInfo() domain.JobInfo
	LastJob(keep bool) domain.JobInfo
	AbortJob() error
}

// Tuning is an optional interface of a Domain: changing what it is given.
type Tuning interface {
	// SetVCPUs changes the number of vCPUs; flags are virDomainVcpuFlags.
	SetVCPUs(ctx context.Context, count, flags uint32) error
	// SetMemory changes the memory; flags are virDomainMemoryModFlags, of which 4 means the largest memory.
	SetMemory(ctx context.Context, kib uint64, flags uint32) error
	// Scheduler returns the name of the scheduler and its parameters, from memory. It fails with NoSupport if there is none.
	Scheduler() (name string, parameters []*pb.Stat, err error)
	// SetScheduler changes the parameters that are named; impact flags are virDomainModificationImpact.
	SetScheduler(ctx context.Context, parameters []*pb.Stat, impact uint32) error
}

// Snapshot is a snapshot of a domain.
type Snapshot struct {
	// Name is unique in its domain.
	Name string
	// Parent is the name of the one that it was made below, or empty.
	Parent string
	// Description is for people.
	Description string
	// Created is when it was made.
	Created time.Time
	// State is what the guest did then.
	State domain.State
}

// Snapshots is an optional interface of a Domain.
type Snapshots interface {
	// Snapshots lists them, parents before their children, and names the current one, "" if there is none. It is answered from memory.
	Snapshots() (all []Snapshot, current string)
	// CreateSnapshot makes one as libvirt's <domainsnapshot> says; flags are virDomainSnapshotCreateFlags.
	CreateSnapshot(ctx context.Context, xml string, flags uint32) (name string, err error)
	// SnapshotXML describes one; flags are virDomainSnapshotXMLFlags. One that is not there is verr.NoDomainSnapshot.
	SnapshotXML(name string, flags uint32) (string, error)
	// RevertToSnapshot makes the guest what it was; flags are virDomainSnapshotRevertFlags.
	RevertToSnapshot(ctx context.Context, name string, flags uint32) error
	// DeleteSnapshot removes one; flags are virDomainSnapshotDeleteFlags.
	DeleteSnapshot(ctx context.Context, name string, flags uint32) error
}

// MigrationSource is an optional interface of a Domain: sending it away, in libvirt's migration of version 1.
type MigrationSource interface {
	// PerformMigration sends it where the target has said; flags are virDomainMigrateFlags.
	PerformMigration(ctx context.Context, uri string, flags uint64, name string) error
}

// Network is what is known of a virtual network at one moment.
type Network struct {
	UUID uuid.UUID
	Name string
	// Bridge is empty where there is none.
	Bridge                        string
	Active, Persistent, Autostart bool
}

// Networks are the virtual networks of a connection. All but Define and Undefine is answered from memory.
type Networks interface {
	// All returns them by name.
	All() []Network
	// ByName and ByUUID find one, or fail with NoNetwork.
	ByName(name string) (Network, error)
	ByUUID(id uuid.UUID) (Network, error)
	// XML describes one; flags are virNetworkXMLFlags.
	XML(id uuid.UUID, flags uint32) (string, error)
	// Define makes one or changes it.
	Define(ctx context.Context, xml string) (Network, error)
	// Undefine removes one.
	Undefine(ctx context.Context, id uuid.UUID) error
}

// Interface is what is known of a network interface of a host at one moment.
type Interface struct {
	Name, MAC string
	Active    bool
}

// Interfaces are the network interfaces of a connection's host. All is answered from memory.
type Interfaces interface {
	// All returns them by name.
	All() []Interface
	// ByName finds one, ByMAC all with an address without regard to case; none is NoInterface.
	ByName(name string) (Interface, error)
	ByMAC(mac string) ([]Interface, error)
	// XML describes one; flags are virInterfaceXMLFlags.
	XML(name string, flags uint32) (string, error)
}
