// Package storage is what the author of a storage driver implements: a type with the six methods of Driver, and as many of the
// optional interfaces (Builder, Finder, Volumes, Resizer, Wiper, Transfer) as the storage can honour. The SDK finds out by type
// assertion which ones a driver has, and registers just those services; all else is refused by the core with VIR_ERR_NO_SUPPORT.
//
// The story of a pool is told above the contract, in sdk/proto/lodge/storage/v1/storage.proto; the comment of each RPC there binds the
// method of the same name here. A driver keeps nothing that it cannot find again: each call brings the pool along.
//
// Calls for different pools arrive concurrently; for one pool at most one of Start, Stop, Build and Delete at a time, with Refresh and
// calls about volumes beside each other, at most one that changes a volume for a name. A context ends when the client gives up, the
// job is cancelled or the deadline of the contract is there: then the work stops and leaves nothing half made. Errors are made with
// package verr; a panic in a method is an internal error, and the process lives on.
package storage

import (
	"context"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
)

// Driver is required.
type Driver interface {
	// Capabilities tells what can be done on this host with each of the driver's pool types.
	Capabilities(ctx context.Context) ([]*pb.PoolType, error)
	// Validate checks and completes a definition, and keeps nothing.
	Validate(ctx context.Context, req *pb.ValidateRequest) (*pb.ValidateResponse, error)
	// Check tells whether a pool is usable.
	Check(ctx context.Context, pool *pb.Pool) (active bool, err error)
	// Start makes a pool usable, or leaves nothing behind.
	Start(ctx context.Context, pool *pb.Pool) error
	// Stop ends that; a pool that is not usable is a success.
	Stop(ctx context.Context, pool *pb.Pool) error
	// Refresh hands every volume to found, in batches of any size, and returns the pool's size. An error of found ends it.
	Refresh(ctx context.Context, pool *pb.Pool, found func(...*pb.Volume) error) (*pb.PoolSize, error)
}

// Progress takes how far some work is, in bytes or volumes; total is 0 if it is not known. It never blocks, and may be called as often
// as is convenient.
type Progress func(done, total uint64)

// Builder is optional: making and removing what pools lie on.
type Builder interface {
	// Build makes it; flags are virStoragePoolBuildFlags.
	Build(ctx context.Context, pool *pb.Pool, flags uint32, progress Progress) error
	// Delete removes it; flags are virStoragePoolDeleteFlags.
	Delete(ctx context.Context, pool *pb.Pool, flags uint32, progress Progress) error
}

// Finder is optional: looking for what pools could be made of.
type Finder interface {
	// FindSources returns libvirt's <sources> document.
	FindSources(ctx context.Context, req *pb.FindSourcesRequest) (sources string, err error)
}

// Volumes is optional: making and removing volumes.
type Volumes interface {
	// Create makes a volume, or leaves nothing behind.
	Create(ctx context.Context, req *pb.CreateRequest, progress Progress) (*pb.Volume, error)
	// Remove deletes a volume.
	Remove(ctx context.Context, req *pb.RemoveRequest) error
	// Look looks at one volume; none is verr.NoStorageVol.
	Look(ctx context.Context, pool *pb.Pool, name string) (*pb.Volume, error)
}

// Resizer is optional: changing the capacity of volumes.
type Resizer interface {
	// Resize sets the capacity and returns the volume as it is then.
	Resize(ctx context.Context, req *pb.ResizeRequest) (*pb.Volume, error)
}

// Wiper is optional: overwriting volumes.
type Wiper interface {
	// Wipe overwrites all of a volume by virStorageVolWipeAlgorithm.
	Wipe(ctx context.Context, req *pb.WipeRequest, progress Progress) error
}

// Transfer is optional: reading and writing what is in volumes.
type Transfer interface {
	// Download opens a volume to read a part of it.
	Download(ctx context.Context, req *pb.DownloadRequest) (Source, error)
	// Upload opens a volume to write a part of it.
	Upload(ctx context.Context, begin *pb.UploadBegin) (Sink, error)
}

// Source is a volume that is being read. It is used by one goroutine and closed by the SDK.
type Source interface {
	// Next returns the next bytes, at most 256 KiB and good until the next call, or the length of a hole; io.EOF at the end.
	Next(ctx context.Context) (data []byte, hole uint64, err error)
	// Close ends the reading.
	Close() error
}

// Sink is a volume that is being written. It is used by one goroutine and ended by the SDK with Finish or Abort, just once.
type Sink interface {
	// Write writes bytes where the last write ended.
	Write(ctx context.Context, data []byte) error
	// Hole makes bytes where the last write ended read as zeros, without room where the storage can do that.
	Hole(ctx context.Context, length uint64) error
	// Finish is called when everything was written. Whoever reads the volume after it has what was written; power loss may still take it.
	Finish(ctx context.Context) error
	// Abort is called in its place when the client has gone or failed.
	Abort()
}
