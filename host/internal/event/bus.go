// Package event carries what happens to objects from where it happens to whoever listens: clients of libvirt's protocol through
// the door, and clients of our own API with resume by sequence number.
//
// Every event gets the next sequence number of the host, which goes on ascending over restarts. Publish never blocks and never
// waits for a listener: each subscription has a bounded queue, and one that overflows is closed with Lost set, so that its
// owner resynchronises. Events of one object arrive in the order in which they were published.
package event

import (
	"time"

	"github.com/google/uuid"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// Event is one thing that happened to an object: a domain, a storage pool, a secret or a virtual network.
type Event struct {
	// Seq is the event's number on this host.
	Seq uint64
	// Time is when it happened.
	Time time.Time
	// URI is the connection that the object belongs to, for example "qemu:///system".
	URI string
	// Name, UUID and ID are the domain's identity at the time of the event; ID is -1 once it has stopped.
	Name string
	UUID uuid.UUID
	ID   int32
	// Domain is what happened to a domain, in the contract's terms.
	Domain *pb.Event
	// Pool is what happened to a storage pool.
	Pool *Pool
	// Secret is what happened to a secret; its Name is its usage.
	Secret *Secret
	// Network is what happened to a virtual network.
	Network *Network
}

// Pool is an event of a storage pool. One of this machine's pools belongs to no connection.
type Pool struct {
	// Refreshed says that its volumes were looked at; else Lifecycle counts.
	Refreshed bool
	// Lifecycle is virStoragePoolEventLifecycleType.
	Lifecycle int32
}

// Secret is an event of a secret, which belongs to no connection.
type Secret struct {
	// Changed says that its value is another one; else Lifecycle counts.
	Changed bool
	// Lifecycle is virSecretEventLifecycleType: 0 defined, 1 undefined.
	Lifecycle int32
	// UsageType is virSecretUsageType.
	UsageType int32
}

// Network is an event of a virtual network.
type Network struct {
	// Lifecycle is virNetworkEventLifecycleType: 0 defined, 1 undefined, 2 started, 3 stopped.
	Lifecycle int32
}
