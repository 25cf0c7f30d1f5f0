package domain

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// Locks keeps two guests from writing one disk. A lock belongs to one life of a guest: (UUID, generation).
type Locks interface {
	// Acquire takes all locks or none. A lock that somebody else holds is an error of code ResourceBusy that names the holder.
	Acquire(ctx context.Context, owner Owner, disks []LockedDisk) ([]HeldLock, error)
	// SetProcess says which process holds the locks from now on, so that its end frees them.
	SetProcess(ctx context.Context, owner Owner, pid int32, startTime uint64) error
	// Adopt tells a lock daemon that has come back of locks that are still held by these descriptors, or by nobody.
	Adopt(ctx context.Context, owner Owner, held []HeldLock) error
	// Release frees the locks of one life; freeing none is a success.
	Release(ctx context.Context, owner Owner) error
}

// Owner is one life of a guest.
type Owner struct {
	UUID       uuid.UUID
	Name       string
	ID         int32
	Generation uint64
}

// LockedDisk is a disk that a guest must not share with a stranger.
type LockedDisk struct {
	// Target is the disk's name in the guest: "vda".
	Target string
	// Path of the image or device.
	Path string
	// Shared: other guests that also say so may have it too.
	Shared bool
}

// HeldLock is a lock with a duplicate of its descriptor, which the caller closes.
type HeldLock struct {
	Lockspace, Resource string
	Shared              bool
	// Disk is the image that the lock stands for.
	Disk string
	File *os.File
}

// FileSender hands a descriptor to the driver under a token of 16 bytes.
type FileSender interface {
	SendFile(ctx context.Context, token []byte, file *os.File) error
}

func (d *Domain) owner(s *state) Owner {
	return Owner{UUID: d.uuid, Name: s.Name, ID: s.reservedID, Generation: s.Generation}
}

// lease takes the locks of a guest's disks.
func (j *job) lease(s *state, disks []LockedDisk) error {
	if len(disks) == 0 {
		return nil
	}
	held, err := j.d.inv.cfg.Locks.Acquire(j.ctx, j.d.owner(s), disks)
	if err != nil {
		return err
	}
	j.d.leases = held
	return nil
}

// handWait bounds the wait for a driver that is to take descriptors.
const handWait = 20 * time.Second

// hand gives the driver's present process the descriptors of the guest's locks.
func (j *job) hand() ([]*pb.Lease, error) {
	ctx, cancel := context.WithTimeout(j.ctx, handWait)
	defer cancel()
	leases := make([]*pb.Lease, len(j.d.leases))
	for n, h := range j.d.leases {
		leases[n] = &pb.Lease{Lockspace: h.Lockspace, Resource: h.Resource, Shared: h.Shared}
		if h.File == nil {
			continue
		}
		leases[n].Token = make([]byte, 16)
		rand.Read(leases[n].Token) // never fails
		if err := j.d.inv.cfg.Files.SendFile(ctx, leases[n].Token, h.File); err != nil {
			return nil, fmt.Errorf("hand lock of %q to driver: %w", h.Resource, err)
		}
	}
	return leases, nil
}

// settleLeases gives the locks to the guest's process, or keeps duplicates for a guest without one.
func (j *job) settleLeases(ctx context.Context, s *state) {
	if len(j.d.leases) == 0 || s.PID == 0 {
		return
	}
	if err := j.d.inv.cfg.Locks.SetProcess(ctx, j.d.owner(s), s.PID, s.handle.GetStartTime()); err != nil {
		j.d.inv.cfg.Log.Warn("lock daemon was not told of the guest's process", "guest", s.Name, "error", err)
		return
	}
	j.closeLeases()
}

// reaffirmWait is how long a job under way may keep its guest's locks from being reaffirmed.
const reaffirmWait = 2 * time.Second

// Reaffirm tells a lock daemon that has come back which processes hold the locks of the connection's guests, and hands it the
// descriptors of guests without one.
func (i *Inventory) Reaffirm(ctx context.Context) {
	var g errgroup.Group
	g.SetLimit(recoverers)
	for _, d := range i.all() {
		if d.state.Load().phase == catalog.Inactive {
			continue
		}
		g.Go(func() error {
			wait, cancel := context.WithTimeout(ctx, reaffirmWait)
			defer cancel()
			j, err := d.begin(wait, "lock")
			if err != nil {
				return nil // gone, or its own job tells the daemon
			}
			defer j.end()
			j.reaffirm(ctx)
			return nil
		})
	}
	_ = g.Wait()
}

func (j *job) reaffirm(ctx context.Context) {
	s := j.d.state.Load()
	var err error
	switch {
	case s.phase != catalog.Active:
	case s.PID != 0:
		err = j.d.inv.cfg.Locks.SetProcess(ctx, j.d.owner(s), s.PID, s.handle.GetStartTime())
	case len(j.d.leases) > 0:
		err = j.d.inv.cfg.Locks.Adopt(ctx, j.d.owner(s), j.d.leases)
	default:
		err = j.relet(ctx, s)
	}
	if err != nil {
		j.d.inv.cfg.Log.Warn("lock daemon was not told of the guest", "guest", s.Name, "error", err)
	}
}

// relet gets duplicates of the locks of a guest without a process, which a core that was restarted does not have: should the lock daemon
// die next, they are what keeps the locks.
func (j *job) relet(ctx context.Context, s *state) error {
	xml, err := j.d.text(s, true)
	if err != nil {
		return err
	}
	disks, err := lockedDisks(xml)
	if err != nil || len(disks) == 0 {
		return err
	}
	j.d.leases, err = j.d.inv.cfg.Locks.Acquire(ctx, j.d.owner(s), disks)
	return err
}

// unlease frees the locks of one life. A lock daemon that is away frees them when it is back and asks what is still in use.
func (j *job) unlease(s *state) {
	j.closeLeases()
	ctx, cancel := detached(j.ctx)
	defer cancel()
	if err := j.d.inv.cfg.Locks.Release(ctx, j.d.owner(s)); err != nil {
		j.d.inv.cfg.Log.Warn("locks of an ended guest are still held", "guest", s.Name, "gen", s.Generation, "error", err)
	}
}

func (j *job) closeLeases() {
	for _, h := range j.d.leases {
		if h.File != nil {
			h.File.Close()
		}
	}
	j.d.leases = nil
}

// lockedDisks lists the disks of a definition that need a lock.
func lockedDisks(xml string) ([]LockedDisk, error) {
	def, err := domxml.Parse(xml)
	if err != nil {
		return nil, err
	}
	var disks []LockedDisk
	for _, d := range domxml.WritableDisks(def) {
		disks = append(disks, LockedDisk{Target: d.Target, Path: d.Path, Shared: d.Shareable})
	}
	return disks, nil
}

// resolved tells the driver the images of the disks.
func resolved(disks []LockedDisk) []*pb.Disk {
	out := make([]*pb.Disk, len(disks))
	for n, d := range disks {
		out[n] = &pb.Disk{Target: d.Target, Path: d.Path}
	}
	return out
}
