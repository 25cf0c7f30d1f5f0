// Package initiator is what the driver needs of an iSCSI initiator in its own process: to find targets, to log in, and to read and write
// units. Package libiscsi has one; another can take its place.
//
// Every method ends soon after its context, and within the time-out of the login it belongs to, whatever the target does. An Initiator is
// safe concurrently; a Session and its Units are for one goroutine at a time. A session that has failed stays so, and is closed.
package initiator

import (
	"context"
	"errors"
	"time"

	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/scsi"
)

// Errors that say more than their text.
var (
	// ErrUnavailable says that the plugin was built without an initiator.
	ErrUnavailable = errors.New("this plugin was built without libiscsi")
	// ErrDenied says that the target does not let this initiator in: wrong user, password or name.
	ErrDenied = errors.New("login is denied")
	// ErrNoTarget says that the server has no such target.
	ErrNoTarget = errors.New("no such target")
	// ErrTimeout says that the target did not answer in time.
	ErrTimeout = errors.New("target does not answer")
	// ErrNotDisk says that a unit is a controller, a tape or something else that is no disk.
	ErrNotDisk = errors.New("not a disk")
	// ErrLost says that the connection is gone.
	ErrLost = errors.New("connection to the target failed")
)

// CheckError is what a unit has against a command.
type CheckError struct {
	// Command is its name.
	Command string
	// Status is that of SAM-5; Key and Code are those of its sense data, where it is CHECK CONDITION.
	Status, Key, Code int
	// Words are what the library says.
	Words string
}

// Error implements error.
func (e *CheckError) Error() string { return e.Command + ": " + e.Words }

// Login is where to log in, and as whom.
type Login struct {
	// Portal is host:port.
	Portal string
	// Initiator is the name to log in with.
	Initiator string
	// Target is the name of the target; empty to look for targets.
	Target string
	// User and Password are for CHAP; empty for none.
	User     string
	Password []byte
	// Timeout bounds each step of the session.
	Timeout time.Duration
}

// Target is what a server has told of.
type Target struct {
	// Name of the target.
	Name string
	// Portals that it is reached at, "address:port,group".
	Portals []string
}

// Initiator makes sessions.
type Initiator interface {
	// Available says whether sessions can be made here, with ErrUnavailable if not.
	Available() error
	// Discover asks a server for its targets.
	Discover(ctx context.Context, login Login) ([]Target, error)
	// Open logs in.
	Open(ctx context.Context, login Login) (Session, error)
}

// Session is a login at a target.
type Session interface {
	// LUNs are the numbers of the target's units, ascending.
	LUNs(ctx context.Context) ([]int, error)
	// Unit waits until a unit is ready, and opens it; one that is no disk is ErrNotDisk.
	Unit(ctx context.Context, lun int) (Unit, error)
	// Close logs out. It is quick, also when the target does not answer.
	Close()
}

// Unit is a disk.
type Unit interface {
	// Capacity is its size.
	Capacity() scsi.Capacity
	// Read fills a buffer of whole blocks, at most MaxPiece bytes, from a block on.
	Read(ctx context.Context, block uint64, data []byte) error
	// Write writes whole blocks, at most MaxPiece bytes, from a block on.
	Write(ctx context.Context, block uint64, data []byte) error
	// Flush waits until what was written survives power loss.
	Flush(ctx context.Context) error
}

// MaxPiece is the most that is read or written at once, in bytes; a multiple of every block size.
const MaxPiece = 1 << 20
