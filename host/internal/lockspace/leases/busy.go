package leases

import (
	"errors"
	"fmt"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
)

// BusyError says that a lock conflicts with another.
type BusyError struct {
	// Resource is what was asked for.
	Resource lockspace.Resource
	// Holder is the owner that has it, or nil if it is none of the table's.
	Holder *Owner
	// PID is the holder's process, or 0 if it has none or is not known.
	PID int
}

// Error is a sentence that names the disk or file and the holder.
func (e *BusyError) Error() string {
	switch {
	case e.Holder != nil && e.Holder.Unknown:
		return fmt.Sprintf("the lock on %q is held for an unknown owner (file %q)", e.Resource, e.Resource.Path())
	case e.Holder != nil && e.Holder.Classic:
		return fmt.Sprintf("the lock on %q is held by %q (%s, process %d)", e.Resource, e.Holder.Name, e.Holder.UUID, e.PID)
	case e.Holder != nil && e.PID > 0:
		return fmt.Sprintf("the lock on %q is held by guest %q (%s, process %d)", e.Resource, e.Holder.Name, e.Holder.UUID, e.PID)
	case e.Holder != nil:
		return fmt.Sprintf("the lock on %q is held by guest %q (%s)", e.Resource, e.Holder.Name, e.Holder.UUID)
	case e.PID > 0:
		return fmt.Sprintf("the lock on %q is held by process %d (file %q)", e.Resource, e.PID, e.Resource.Path())
	}
	return fmt.Sprintf("the lock on %q is held by another process (file %q)", e.Resource, e.Resource.Path())
}

// heldBy is the refusal on account of a lease.
func heldBy(r lockspace.Resource, l *lease) *BusyError {
	holder := l.Owner
	return &BusyError{Resource: r, Holder: &holder, PID: int(holder.Process.PID)}
}

// name puts the holder into the kernel's refusal, if it is one of the table's owners: another path may lead to the same file.
func (t *Table) name(err error) error {
	var busy *lockspace.BusyError
	if !errors.As(err, &busy) {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.index.files[busy.File]; l != nil {
		return heldBy(busy.Resource, l)
	}
	return &BusyError{Resource: busy.Resource, PID: busy.PID}
}
