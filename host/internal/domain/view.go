package domain

import (
	"github.com/google/uuid"
)

// State is libvirt's virDomainState.
type State int32

// States in libvirt's numbering.
const (
	NoState State = iota
	Running
	Blocked
	Paused
	ShuttingDown
	ShutOff
	Crashed
	PMSuspended
)

// View is what is known of a domain at one moment. It is a value: it never changes once handed out.
type View struct {
	// UUID never changes.
	UUID uuid.UUID
	// Name may change by Rename.
	Name string
	// ID is libvirt's domain id, or -1 for an inactive domain.
	ID int32
	// State is what the domain does now.
	State State
	// Reason is libvirt's reason for that state.
	Reason int32
	// Persistent says that there is a definition that outlives the guest.
	Persistent bool
	// Autostart says that the host starts it.
	Autostart bool
	// Updated says that the definition was changed while the guest ran.
	Updated bool
	// Unknown says that the driver could not tell what became of the guest; it is shown and not touched.
	Unknown bool
	// Title is the definition's short description.
	Title string
	// OSType is <os><type>.
	OSType string
	// MaxMemoryKiB is the largest memory.
	MaxMemoryKiB uint64
	// MemoryKiB is the present memory.
	MemoryKiB uint64
	// MaxVCPUs is the largest number of vCPUs.
	MaxVCPUs uint32
	// VCPUs is the present number of vCPUs.
	VCPUs uint32
	// Generation grows with each start, and is not used again for a domain that comes after one of the same UUID has gone.
	Generation uint64
	// Saved says that the next start goes on from the state that is in the managed file.
	Saved bool
	// Snapshots says that there are snapshots of it.
	Snapshots bool
	// PID is the guest's process on this machine, or 0.
	PID int32
}

// Active reports whether the guest is alive, paused ones included.
func (v View) Active() bool { return v.ID >= 0 }

// ListFlags is libvirt's virConnectListAllDomainsFlags.
type ListFlags uint32

// Flags of List; within a group any of the set bits must match, and a group without a set bit does not restrict.
const (
	ListActive        ListFlags = 1 << 0
	ListInactive      ListFlags = 1 << 1
	ListPersistent    ListFlags = 1 << 2
	ListTransient     ListFlags = 1 << 3
	ListRunning       ListFlags = 1 << 4
	ListPaused        ListFlags = 1 << 5
	ListShutOff       ListFlags = 1 << 6
	ListOther         ListFlags = 1 << 7
	ListManagedSave   ListFlags = 1 << 8
	ListNoManagedSave ListFlags = 1 << 9
	ListAutostart     ListFlags = 1 << 10
	ListNoAutostart   ListFlags = 1 << 11
	ListHasSnapshot   ListFlags = 1 << 12
	ListNoSnapshot    ListFlags = 1 << 13
	ListHasCheckpoint ListFlags = 1 << 14
	ListNoCheckpoint  ListFlags = 1 << 15
	ListKnown         ListFlags = 1<<16 - 1
)

// Match reports whether a view passes the filter.
func (f ListFlags) Match(v *View) bool {
	if f == 0 {
		return true
	}
	group := func(mask, have ListFlags) bool { return f&mask == 0 || f&have != 0 }
	pick := func(cond bool, yes, no ListFlags) ListFlags {
		if cond {
			return yes
		}
		return no
	}
	state := ListOther
	switch {
	case !v.Active():
		state = ListShutOff
	case v.State == Running:
		state = ListRunning
	case v.State == Paused:
		state = ListPaused
	}
	return group(ListActive|ListInactive, pick(v.Active(), ListActive, ListInactive)) &&
		group(ListPersistent|ListTransient, pick(v.Persistent, ListPersistent, ListTransient)) &&
		group(ListRunning|ListPaused|ListShutOff|ListOther, state) &&
		group(ListManagedSave|ListNoManagedSave, pick(v.Saved, ListManagedSave, ListNoManagedSave)) &&
		group(ListAutostart|ListNoAutostart, pick(v.Autostart, ListAutostart, ListNoAutostart)) &&
		group(ListHasSnapshot|ListNoSnapshot, pick(v.Snapshots, ListHasSnapshot, ListNoSnapshot)) &&
		group(ListHasCheckpoint|ListNoCheckpoint, ListNoCheckpoint)
}
