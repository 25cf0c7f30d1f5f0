package leases

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/journal"
	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

// ErrSpaceExists says that a lockspace is known already.
var ErrSpaceExists = errors.New("lockspace exists already")

// AddSpace makes a lockspace known, and its folder if it is missing (0700, with its parents). Returns ErrSpaceExists if the table knows
// it, which most callers ignore.
func (t *Table) AddSpace(path string) error {
	probe := lockspace.Resource{Lockspace: path, Name: "probe"}
	if err := probe.Check(); path == "" || err != nil {
		return fmt.Errorf("add lockspace %q: %w", path, lockspace.ErrName)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("add lockspace: %w", err)
	}
	if err := t.join(); err != nil {
		return err
	}
	defer t.quit()
	if t.HasSpace(path) {
		return fmt.Errorf("add lockspace %q: %w", path, ErrSpaceExists)
	}
	if err := t.journal.Append(journal.Record{Op: journal.Space, Space: path}); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.spaces[path] = true
	return nil
}

// HasSpace reports whether a lockspace is known; the empty one always is.
func (t *Table) HasSpace(path string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return path == "" || t.spaces[path]
}

// Spaces returns the known lockspaces, sorted, without the empty one.
func (t *Table) Spaces() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Sorted(maps.Keys(t.spaces))
}

// Create makes the file of a resource, empty with mode 0600, if it is missing. Returns *BusyError if the resource is leased.
func (t *Table) Create(r lockspace.Resource) error {
	if err := t.free(r); err != nil {
		return err
	}
	if err := t.join(); err != nil {
		return err
	}
	defer t.quit()
	f, err := os.OpenFile(r.Path(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("create resource: %w", err)
	}
	return lockspace.CloseFile(f)
}

// Delete removes the file of a resource; a missing one is no error. Returns *BusyError if it is locked by anybody.
func (t *Table) Delete(r lockspace.Resource) error {
	if err := t.free(r); err != nil {
		return err
	}
	if err := t.join(); err != nil {
		return err
	}
	defer t.quit()
	r.Mode, r.Temporary = lockspace.Exclusive, false
	lock, err := lockspace.Take(r)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return t.name(err)
	}
	defer lock.Close()
	if err := os.Remove(r.Path()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("delete resource: %w", err)
	}
	return nil
}

// free returns a *BusyError if the resource has a lease.
func (t *Table) free(r lockspace.Resource) error {
	if err := r.Check(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.conflict(r.Path(), lockspace.Exclusive); l != nil {
		return heldBy(r, l)
	}
	return nil
}

// Holder returns the process of an owner that has leases, or zero.
func (t *Table) Holder(owner Owner) process.ID {
	t.mu.Lock()
	defer t.mu.Unlock()
	if g := t.groups[keyOf(owner)]; g != nil && len(g.leases) > 0 && g.process != nil {
		return g.process.ID()
	}
	return process.ID{}
}
