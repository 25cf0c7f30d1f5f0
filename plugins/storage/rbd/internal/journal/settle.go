package journal

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/ceph"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/layout"
)

// maxID is more than an image's id has, with its length.
const maxID = 256

// settle finishes or takes back an entry's work, whatever step it had come to, and removes the entry.
func (j *Journal) settle(e *Entry) error {
	var err error
	if e.Kind == Shrink {
		err = j.shrink(e)
	} else {
		err = j.clear(e)
	}
	if err != nil {
		return err
	}
	if err := j.pool.RemoveValues(Object, e.key()); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// shrink finishes: what lay beyond the new end may be gone already.
func (j *Journal) shrink(e *Entry) error {
	id, err := ImageID(j.pool, e.Name)
	if err != nil {
		return err
	}
	if id != e.ID {
		return nil // another image has the name by now
	}
	image, err := j.pool.Open(e.Name, false)
	if err != nil {
		return err
	}
	size, err := image.Size()
	if err == nil && size > e.Size {
		err = image.Resize(e.Size)
	}
	return errors.Join(err, image.Close())
}

// clear removes the hidden image, and what half a renaming has left. librbd renames in three steps: it writes the new name's object
// with the id, changes the directory, and removes the old name's object. The directory decides.
func (j *Journal) clear(e *Entry) error {
	listed, err := j.listed(e.Hidden)
	if err != nil {
		return err
	}
	if listed == "" {
		// The image was not begun, or has its name, or has it still: no name's object but one may be left.
		if err := j.pool.Delete(layout.IDObject + e.Hidden); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove a name of image %q: %w", e.Name, err)
		}
		return j.dropSnapshot(e)
	}
	id, err := ImageID(j.pool, e.Name)
	if err != nil {
		return err
	}
	if id == listed {
		if err := j.pool.Delete(layout.IDObject + e.Name); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove a name of image %q: %w", e.Name, err)
		}
	}
	if err := Destroy(j.pool, e); err != nil {
		return err
	}
	return j.dropSnapshot(e)
}

// listed returns the id that the pool's directory has for a name, or "".
func (j *Journal) listed(name string) (string, error) {
	key := layout.NamePrefix + name
	values, err := j.pool.Values(layout.Directory, key)
	if errors.Is(err, unix.ENOENT) || err == nil && values[key] == nil {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read directory of images: %w", err)
	}
	return layout.String(values[key])
}

// ImageID returns the id of the image that a name leads to, or "".
func ImageID(pool ceph.Objects, name string) (string, error) {
	data, err := pool.Read(layout.IDObject+name, maxID)
	if errors.Is(err, unix.ENOENT) || err == nil && len(data) == 0 {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read id of image %q: %w", name, err)
	}
	return layout.String(data)
}

// Destroy removes the hidden image of an entry with its snapshots, and overwrites it before if that is wanted.
func Destroy(pool ceph.Pool, e *Entry) error {
	image, err := pool.Open(e.Hidden, false)
	switch {
	case err == nil:
		err = strip(image, e.Zero)
		if err = errors.Join(err, image.Close()); err != nil {
			return err
		}
	case !errors.Is(err, unix.ENOENT): // half an image cannot be opened, and is removed all the same
		return fmt.Errorf("open image %q: %w", e.Hidden, err)
	}
	if err := pool.Remove(e.Hidden); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove image %q: %w", e.Hidden, err)
	}
	return nil
}

// strip removes an image's snapshots, and overwrites what is in it.
func strip(image ceph.Image, zero bool) error {
	names, err := image.Snapshots()
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	for _, name := range names {
		if err := image.DropSnapshot(name); err != nil {
			return fmt.Errorf("remove snapshot %q: %w", name, err)
		}
	}
	if !zero {
		return nil
	}
	return Zero(image, func(uint64, uint64) error { return nil })
}

const (
	// zeroWindow is how much of an image is asked for its extents at once, and zeroPiece how much is written.
	zeroWindow, zeroPiece = 1 << 30, 4 << 20
)

// Zero writes zeros wherever an image may have data, and tells how far it is; an error of told ends it.
func Zero(image ceph.Image, told func(done, total uint64) error) error {
	size, err := image.Size()
	if err != nil {
		return err
	}
	zeros := make([]byte, zeroPiece)
	for at := uint64(0); at < size; at += zeroWindow {
		extents, err := image.Extents(at, min(zeroWindow, size-at), true)
		if err != nil {
			return fmt.Errorf("find data: %w", err)
		}
		for _, x := range extents {
			for n := uint64(0); n < x.Length; n += zeroPiece {
				if err := told(x.At+n, size); err != nil {
					return err
				}
				if _, err := image.WriteAt(zeros[:min(zeroPiece, x.Length-n)], int64(x.At+n)); err != nil {
					return fmt.Errorf("write zeros: %w", err)
				}
			}
		}
	}
	return image.Sync()
}

// dropSnapshot removes the snapshot that a clone was to be made of, unless it was made.
func (j *Journal) dropSnapshot(e *Entry) error {
	if e.Snapshot == "" {
		return nil
	}
	if made, err := j.listed(e.Name); err != nil || made != "" {
		return err
	}
	image, err := j.pool.Open(e.Parent, false)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open image %q: %w", e.Parent, err)
	}
	err = image.DropSnapshot(e.Snapshot)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EBUSY) {
		err = nil // it was not made, or somebody uses it
	}
	return errors.Join(err, image.Close())
}
