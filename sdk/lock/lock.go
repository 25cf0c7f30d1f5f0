// Package lock is what the author of a lock manager implements: a type with the methods of Manager. What the core asks of it, and
// when, is told above the contract in sdk/proto/lodge/lock/v1/lock.proto; the comment of each RPC there binds the method of the same
// name here.
//
// A manager keeps two guests, on one host or on many, from using one disk. It may be killed at any moment; what it must not lose it
// keeps in the core's State, or where the locks are. Calls for different owners arrive concurrently, for one owner one at a time.
// Errors are made with package verr: verr.ResourceBusy for a lock that somebody else has, verr.ConfigUnsupported for what the
// manager cannot do. A panic in a method is an internal error, and the process lives on.
package lock

import (
	"context"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

// Manager is a lock manager.
type Manager interface {
	// Prepare checks and makes what the resources need, and takes no lock.
	Prepare(ctx context.Context, req *pb.PrepareRequest) (*pb.PrepareResponse, error)
	// Acquire takes all resources or none, and does not wait for a lock.
	Acquire(ctx context.Context, req *pb.AcquireRequest) (*pb.AcquireResponse, error)
	// Release ends locks; those that are not held are a success.
	Release(ctx context.Context, req *pb.ReleaseRequest) (*pb.ReleaseResponse, error)
	// Recover tells what became of the locks of a guest that lives, and takes charge of them.
	Recover(ctx context.Context, req *pb.RecoverRequest) (*pb.RecoverResponse, error)
	// List tells all locks of this host.
	List(ctx context.Context) ([]*pb.Lease, error)
	// Watch calls send with each change that no call has asked for, until the context ends or send fails. A Feed does it.
	Watch(ctx context.Context, send func(*pb.WatchResponse) error) error
}
