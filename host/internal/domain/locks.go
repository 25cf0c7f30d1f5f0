package domain

import (
	"context"
	"os"

	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/sdk/domxml"
	lockv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

// Locks keeps two guests from using one disk: the lock daemon, or another lock manager. A lock belongs to one life of a guest, told by
// UUID and generation. Every call may be repeated.
type Locks interface {
	// Prepare checks that the locks can be had, and takes none. What cannot be locked is an error of code ConfigUnsupported.
	Prepare(ctx context.Context, owner Owner, wants Wants) (Prepared, error)
	// Acquire takes all locks or none. One that somebody else holds is an error of code ResourceBusy that names the holder. It is not
	// called for an owner without a process where Prepare has asked for a claim.
	Acquire(ctx context.Context, owner Owner, wants Wants) ([]HeldLock, error)
	// Claim says which process holds the locks from now on, so that its end frees them, and takes those that need one.
	Claim(ctx context.Context, owner Owner, wants Wants) error
	// Reaffirm tells a lock manager that has come back of a guest that lives, with the descriptors that are held for one without a
	// process. It returns duplicates that are to be held from now on, or nil to keep those, and the locks that are lost.
	Reaffirm(ctx context.Context, owner Owner, wants Wants, held []HeldLock) (again []HeldLock, lost []LostLock, err error)
	// Release frees locks of one life; freeing none is a success. It returns what Acquire wants when a suspended guest goes on.
	Release(ctx context.Context, owner Owner, what Release) (state []byte, err error)
}

// Owner is one life of a guest.
type Owner struct {
	UUID       uuid.UUID
	Name       string
	ID         int32
	Generation uint64
	// PID and StartTime are its process on this machine, or zero.
	PID       int32
	StartTime uint64
	// URI is the connection.
	URI string
}

// Wants is what a guest needs locked.
type Wants struct {
	Disks  []LockedDisk
	Leases []NamedLease
	// OnFailure is what happens to the guest when one of them is lost.
	OnFailure lockv1.Action
	// State is what Release returned when the guest was suspended.
	State []byte
}

// none reports that there is nothing to lock.
func (w Wants) none() bool { return len(w.Disks)+len(w.Leases) == 0 }

// LockedDisk is a disk that a guest must not share with a stranger.
type LockedDisk struct {
	// Target is the disk's name in the guest: "vda".
	Target string
	// Path of the image or device.
	Path string
	// Shared: other guests that also say so may have it too.
	Shared bool
}

// NamedLease is a <lease> of the definition.
type NamedLease struct {
	Lockspace, Key, Path string
	// Offset in bytes.
	Offset uint64
}

// Prepared says how a guest is to be started.
type Prepared struct {
	// Registrations are connections that its process must make first.
	Registrations []*lockv1.Registration
	// Claim: its process must be claimed before it opens anything.
	Claim bool
}

// Release says which locks end, and whether the guest will want them again.
type Release struct {
	// Only are the ones, nil for all.
	Only *Wants
	// Suspend: the guest is suspended.
	Suspend bool
}

// HeldLock is a lock with a duplicate of its descriptor, which the caller closes.
type HeldLock struct {
	Lockspace, Resource string
	Shared              bool
	// Disk is the image that the lock stands for.
	Disk string
	// File is nil where the lock has no descriptor.
	File *os.File
}

// LostLock is a lock that is not held any more.
type LostLock struct {
	// Path is the image, or the file of a lease.
	Path string
	// Detail says why, and who has it.
	Detail string
}

// FileSender hands a descriptor to the driver under a token of 16 bytes.
type FileSender interface {
	SendFile(ctx context.Context, token []byte, file *os.File) error
}

func (d *Domain) owner(s *state) Owner {
	return Owner{
		UUID: d.uuid, Name: s.Name, ID: s.reservedID, Generation: s.Generation, PID: s.PID,
		StartTime: s.handle.GetStartTime(), URI: d.inv.cfg.URI,
	}
}

// wantsOf lists what a definition needs locked whose volumes are known.
func wantsOf(xml string, known []catalog.DiskVolume) (Wants, error) {
	def, err := domxml.Parse(xml)
	if err != nil {
		return Wants{}, err
	}
	placeVolumes(def, known)
	return wantsIn(xml, def)
}

// wantsIn is wantsOf for a definition that was read and whose disks were opened.
func wantsIn(xml string, def *libvirtxml.Domain) (Wants, error) {
	action, err := domxml.OnLockFailure(xml)
	if err != nil {
		return Wants{}, err
	}
	w := lockedBy(def)
	w.OnFailure = lockActions[action]
	return w, nil
}

// lockedBy lists what the devices of a definition need locked.
func lockedBy(def *libvirtxml.Domain) Wants {
	var w Wants
	for _, d := range domxml.WritableDisks(def) {
		w.Disks = append(w.Disks, LockedDisk{Target: d.Target, Path: d.Path, Shared: d.Shareable})
	}
	if def.Devices == nil {
		return w
	}
	for _, l := range def.Devices.Leases {
		named := NamedLease{Lockspace: l.Lockspace, Key: l.Key}
		if l.Target != nil {
			named.Path, named.Offset = l.Target.Path, l.Target.Offset
		}
		w.Leases = append(w.Leases, named)
	}
	return w
}

// lockActions are the values of <on_lockfailure>.
var lockActions = map[string]lockv1.Action{
	"poweroff": lockv1.Action_ACTION_POWEROFF, "restart": lockv1.Action_ACTION_RESTART,
	"pause": lockv1.Action_ACTION_PAUSE, "ignore": lockv1.Action_ACTION_IGNORE,
}
