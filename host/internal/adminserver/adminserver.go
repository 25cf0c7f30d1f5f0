// Package adminserver serves libvirt's admin program, by which virt-admin shows and changes a running daemon: its servers with their
// clients, limits and workers, its log, and after how long without clients it ends.
//
// Program answers calls; it knows a daemon by the interfaces below and has no state of its own. Server is the socket before it, whose
// connections are package hub's: it accepts them from root and from the daemon's own user (SO_PEERCRED), and is itself one of the servers
// that the program shows. A client has one call at a time; one that is slow, stuck or hostile costs its own connection and nothing
// else. All methods are safe concurrently.
//
// Facts about the answers are from a real virtlockd 9.0.0, which a test asks the same questions.
package adminserver

import (
	"time"

	"github.com/lodgevirt/lodge/host/internal/logging"
)

// Service is one of a daemon's servers, as the program calls them: what accepts clients on some sockets.
type Service interface {
	// Name is what virt-admin's users call it.
	Name() string
	// Clients are those that are connected, in any order.
	Clients() []Client
	// Disconnect ends the connection of a client, and reports whether there was one of that number.
	Disconnect(id uint64) bool
	// Limits are those in force.
	Limits() Limits
	// SetLimits replaces both limits. Clients that are connected stay.
	SetLimits(clients, unauthenticated uint32)
}

// Pooled is a service whose calls are done by workers that can be changed. One without has none, as virtlockd.
type Pooled interface {
	Service
	// Workers are those of now.
	Workers() Workers
	// SetWorkers changes the least and the largest number of workers, and the number of those for urgent calls.
	SetWorkers(least, most, priority uint32) error
}

// TLSUser is a service that can read its certificates again.
type TLSUser interface {
	Service
	// UpdateTLS reads the certificates and keys for connections to come.
	UpdateTLS() error
}

// Log is what can be seen and changed of a daemon's log. No text means the default outputs and no filters.
type Log interface {
	Outputs() logging.Outputs
	Filters() logging.Filters
	SetOutputs(text string) error
	SetFilters(text string) error
}

// Timeout ends the daemon after a time without clients; 0 is never.
type Timeout interface {
	SetTimeout(after time.Duration)
}

// Client is one connection to a service.
type Client struct {
	// ID is its number; it is not given again while the daemon lives.
	ID uint64
	// Since is when it connected.
	Since time.Time
	// Transport is one of adminproto's.
	Transport uint32
	ReadOnly  bool
	// Peer is the process at the other end of a unix socket, nil for other transports.
	Peer *Peer
	// Address, SASLUser, TLSName and SELinuxContext are shown if they are known.
	Address, SASLUser, TLSName, SELinuxContext string
}

// Peer is a process, as the kernel has told.
type Peer struct {
	UID, GID uint32
	PID      int32
}

// Limits are a service's bounds, and how much of them is used.
type Limits struct {
	Clients, MaxClients                 uint32
	Unauthenticated, MaxUnauthenticated uint32
}

// Workers are a service's workers.
type Workers struct {
	Min, Max, Current, Free, Priority, Queue uint32
}
