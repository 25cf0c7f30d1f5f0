// Package lockproto is what the lock daemon and its clients say to each other: the program of libvirt's virtlockd, and a program
// of our own beside it on the same socket, both framed by package rpc and encoded by package xdr.
//
// The package holds numbers and types; it owns nothing, nothing but decoding fails, and all of it is safe concurrently. Every
// string and every count is bounded by its tag, so that decoding bounds what a client can make the daemon hold.
//
// The facts about virtlockd's program are those of libvirt's public wire protocol (lock_protocol of libvirt 9.0.0).
package lockproto

import (
	"fmt"

	"github.com/lodgevirt/lodge/host/internal/xdr"
)

// maxText is the longest string of virtlockd's program, as the tags of its arguments say too.
const maxText = 65536

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

// Decode reads the arguments, as xdr.Unmarshal does in a quarter of the time: nearly all calls have these.
func (a *ResourceArgs) Decode(b []byte) (err error) {
	if a.Path, b, err = xdr.StringAt(b, maxText); err != nil {
		return fmt.Errorf("field Path: %w", err)
	}
	if a.Name, b, err = xdr.StringAt(b, maxText); err != nil {
		return fmt.Errorf("field Name: %w", err)
	}
	if a.Flags, _, err = xdr.Uint32At(b); err != nil {
		return fmt.Errorf("field Flags: %w", err)
	}
	return nil
}

// CreateLockspaceArgs adds a lockspace unless it is there.
type CreateLockspaceArgs struct {
	Path string `xdr:"max=65536"`
}
