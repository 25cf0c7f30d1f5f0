// Package inventory is what the author of a driver implements whose hypervisor keeps its objects itself (guests, storage pools, networks,
// interfaces), somewhere else most of the time: a type with the two methods of Driver, and as many of the optional interfaces as the
// hypervisor can honour (Guests, Tuning, Snapshots, Migration, Natives, Networks, Storage; of package hypervisor Lifecycle, Screenshooter,
// Stats and Capabilities). The SDK finds out by type assertion which ones a driver has, and registers just those services; all else is
// refused by the core with VIR_ERR_NO_SUPPORT.
//
// The story is told above the contract, in sdk/proto/lodge/inventory/v1/inventory.proto; the comment of each RPC there binds the
// method of the same name here. In short: the driver keeps a Feed for each connection and puts into it whatever it learns of its
// hypervisor; the SDK tells the core. A method that changes something waits with Feed.Await until the feed shows the change, and answers
// with the sequence number that Await returned.
//
// Calls for different guests arrive concurrently. For one guest at most one call that changes it is under way, except Stop. Every
// context ends at the deadline that the contract declares. Errors are made with package verr; a panic in a method is reported to the
// client as an internal error and logged, and the process lives on.
package inventory

import (
	"context"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
)

// Driver is required.
type Driver interface {
	// Open finds the connection that a URI means, without waiting for the hypervisor.
	Open(ctx context.Context, req *pb.OpenRequest) (*pb.OpenResponse, error)
	// Follow returns the feed of a connection that Open has named, here or in an earlier process. The SDK calls done when the core follows
	// it no longer; a connection that nobody follows may be closed after a while.
	Follow(ctx context.Context, connection string) (feed *Feed, done func(), err error)
}

// Guests is optional: making, starting and ending guests.
type Guests interface {
	// Describe reads a guest's definition and puts it into the feed too.
	Describe(ctx context.Context, req *pb.DescribeRequest) (*pb.DescribeResponse, error)
	// Define makes a guest or changes it.
	Define(ctx context.Context, req *pb.DefineRequest) (*pb.DefineResponse, error)
	// Undefine takes a guest out of the inventory; its disks stay.
	Undefine(ctx context.Context, req *pb.UndefineRequest) (*pb.UndefineResponse, error)
	// Start powers a guest on.
	Start(ctx context.Context, req *pb.StartRequest) (*pb.StartResponse, error)
	// Stop powers a guest off at once.
	Stop(ctx context.Context, req *pb.StopRequest) (*pb.StopResponse, error)
	// SetAutostart says whether the guest's host starts it.
	SetAutostart(ctx context.Context, req *pb.SetAutostartRequest) (*pb.SetAutostartResponse, error)
}

// Tuning is optional: changing what a guest is given.
type Tuning interface {
	// SetVCPUs changes the number of vCPUs.
	SetVCPUs(ctx context.Context, req *pb.SetVCPUsRequest) (*pb.SetVCPUsResponse, error)
	// SetMemory changes the memory.
	SetMemory(ctx context.Context, req *pb.SetMemoryRequest) (*pb.SetMemoryResponse, error)
	// SetScheduler changes the scheduler's parameters that are named.
	SetScheduler(ctx context.Context, req *pb.SetSchedulerRequest) (*pb.SetSchedulerResponse, error)
}

// Snapshots is optional: making, reverting to and removing snapshots.
type Snapshots interface {
	// CreateSnapshot makes one below the current one.
	CreateSnapshot(ctx context.Context, req *pb.CreateSnapshotRequest) (*pb.CreateSnapshotResponse, error)
	// RevertToSnapshot makes the guest what it was.
	RevertToSnapshot(ctx context.Context, req *pb.RevertToSnapshotRequest) (*pb.RevertToSnapshotResponse, error)
	// DeleteSnapshot removes one.
	DeleteSnapshot(ctx context.Context, req *pb.DeleteSnapshotRequest) (*pb.DeleteSnapshotResponse, error)
}

// Migration is optional: moving guests between two connections of the driver.
type Migration interface {
	// PrepareMigration asks the target where it wants the guest.
	PrepareMigration(ctx context.Context, req *pb.PrepareMigrationRequest) (*pb.PrepareMigrationResponse, error)
	// PerformMigration sends it there.
	PerformMigration(ctx context.Context, req *pb.PerformMigrationRequest) (*pb.PerformMigrationResponse, error)
	// FinishMigration asks the target for it.
	FinishMigration(ctx context.Context, req *pb.FinishMigrationRequest) (*pb.FinishMigrationResponse, error)
}

// Natives is optional: translating definitions.
type Natives interface {
	// FromNative reads a definition in a format of the hypervisor's.
	FromNative(ctx context.Context, req *pb.FromNativeRequest) (*pb.FromNativeResponse, error)
	// ToNative writes one.
	ToNative(ctx context.Context, req *pb.ToNativeRequest) (*pb.ToNativeResponse, error)
}

// Networks is optional: making, changing and removing networks.
type Networks interface {
	// DefineNetwork makes a network or changes it.
	DefineNetwork(ctx context.Context, req *pb.DefineNetworkRequest) (*pb.DefineNetworkResponse, error)
	// UndefineNetwork removes one.
	UndefineNetwork(ctx context.Context, req *pb.UndefineNetworkRequest) (*pb.UndefineNetworkResponse, error)
}

// Storage is optional: what can be done with the pools that the feed tells of.
type Storage interface {
	// Storage returns the driver of the pools, with the optional interfaces that it honours. Its pools name their connection. The core
	// calls Refresh, and what is done with volumes; it neither starts nor stops a pool, nor makes one.
	Storage() storage.Driver
}
