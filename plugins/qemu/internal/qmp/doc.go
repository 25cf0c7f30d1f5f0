// Package qmp speaks QEMU's machine protocol with one QEMU over one stream socket.
//
// A Client owns its connection and three goroutines (reader, writer, event pump), which end with Close. All methods are safe
// concurrently; commands of concurrent callers are pipelined, and each caller gets the reply to its own command by id.
//
// Nothing waits longer than its context: a QEMU that is stopped or stuck fills the queue of the writer, and callers leave with
// their context's error while the connection stays in order. An error of a command that was given up says whether it may have
// reached QEMU: if it wraps ErrNotSent, it has not. When QEMU goes away or breaks the protocol the client is done: every call
// under way and every later one fails with the reason that Err returns.
//
// Events are delivered in QEMU's order through a bounded queue. A reader that falls behind loses the oldest events, and learns
// how many from the next one it reads; it then asks QEMU for its state instead.
//
// The protocol is public: https://www.qemu.org/docs/master/interop/qmp-spec.html
package qmp

import (
	"errors"
	"fmt"
)

// Bounds of what a QEMU may send or a caller may ask, in bytes unless they say otherwise.
const (
	// MaxReply bounds a reply.
	MaxReply = 64 << 20
	// MaxEvent bounds an event.
	MaxEvent = 1 << 20
	// MaxCommand bounds a command with its arguments.
	MaxCommand = 1 << 20
	// MaxBatch bounds the number of commands in one batch.
	MaxBatch = 1024

	maxQueuedEvents     = 4096
	maxQueuedEventBytes = 16 << 20
	maxQueuedBatches    = 64
	maxPending          = 4096
)

var (
	// ErrClosed ends calls on a client that its owner has closed.
	ErrClosed = errors.New("monitor closed")
	// ErrGone ends calls when QEMU has closed the connection.
	ErrGone = errors.New("qemu closed its monitor")
	// ErrProtocol ends calls when QEMU has sent what no QEMU sends, or more than the bounds allow.
	ErrProtocol = errors.New("monitor protocol violated")
	// ErrNotSent marks a command that has surely not reached QEMU.
	ErrNotSent = errors.New("command not sent")
	// ErrBusy refuses a command while too many others wait for QEMU's answer.
	ErrBusy = errors.New("too many commands wait for the monitor")
)

// Error is QEMU's answer to a command that it refused or failed.
type Error struct {
	// Class is GenericError, CommandNotFound, DeviceNotActive, DeviceNotFound or KVMMissingCap.
	Class string `json:"class"`
	// Desc is a sentence for people; it may change between versions of QEMU.
	Desc string `json:"desc"`
}

// Error returns QEMU's sentence.
func (e *Error) Error() string { return e.Desc }

// IsClass reports whether err is or wraps QEMU's answer of that class.
func IsClass(err error, class string) bool {
	var e *Error
	return errors.As(err, &e) && e.Class == class
}

func protocolError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}
