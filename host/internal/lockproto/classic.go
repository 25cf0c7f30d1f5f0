// Package lockproto is what the lock daemon and its clients say to each other: the program of libvirt's virtlockd, and a program
// of our own beside it on the same socket, both framed by package rpc and encoded by package xdr.
//
// The package holds numbers and types only; it owns nothing, nothing in it fails, and all of it is safe concurrently. Every
// string and every count is bounded by its tag, so that decoding bounds what a client can make the daemon hold.
//
// The facts about virtlockd's program are those of libvirt's public wire protocol (lock_protocol of libvirt 9.0.0).
package lockproto

// virtlockd's program.
const (
	// ClassicProgram is its number.
	ClassicProgram uint32 = 0x0EA7BEEF
	// ClassicVersion is its version.
	ClassicVersion uint32 = 1
)

// Procedures of virtlockd's program. None returns anything.
const (
	ClassicRegister        int32 = 1
	ClassicRestrict        int32 = 2
	ClassicNew             int32 = 3
	ClassicCreateResource  int32 = 4
	ClassicDeleteResource  int32 = 5
	ClassicAcquireResource int32 = 6
	ClassicReleaseResource int32 = 7
	ClassicCreateLockspace int32 = 8
)

// Flags of ClassicAcquireResource.
const (
	// ClassicShared asks for a shared lock.
	ClassicShared uint32 = 1
	// ClassicAutocreate makes the file if it is missing, and removes it with the last lock.
	ClassicAutocreate uint32 = 2
)

// RegisterArgs says for whom a connection acts.
type RegisterArgs struct {
	UUID  [16]byte
	Name  string `xdr:"max=65536"`
	ID    uint32
	PID   uint32
	Flags uint32
}

// RestrictArgs gives up all rights of a connection.
type RestrictArgs struct {
	Flags uint32
}

// NewArgs adds a lockspace.
type NewArgs struct {
	Path  string `xdr:"max=65536"`
	Flags uint32
}

// ResourceArgs are those of the four procedures about one resource.
type ResourceArgs struct {
	Path  string `xdr:"max=65536"`
	Name  string `xdr:"max=65536"`
	Flags uint32
}

// CreateLockspaceArgs adds a lockspace unless it is there.
type CreateLockspaceArgs struct {
	Path string `xdr:"max=65536"`
}
