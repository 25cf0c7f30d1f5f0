//go:build cgo && pacific

package librados

import (
	"errors"

	"github.com/ceph/go-ceph/rbd"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/ceph"
)

// Names implements ceph.Images.
func (p *pool) Names() ([]string, error) {
	names, err := rbd.GetImageNames(p.io)
	return names, mend(err)
}

// Open implements ceph.Images.
func (p *pool) Open(name string, readOnly bool) (ceph.Image, error) {
	open := rbd.OpenImage
	if readOnly {
		open = rbd.OpenImageReadOnly
	}
	i, err := open(p.io, name, rbd.NoSnapshot)
	if err != nil {
		return nil, mend(err)
	}
	return &image{i}, nil
}

// Create implements ceph.Images.
func (p *pool) Create(name string, size uint64) error {
	options := rbd.NewRbdImageOptions()
	defer options.Destroy()
	return mend(rbd.CreateImage(p.io, name, size, options))
}

// Clone implements ceph.Images.
func (p *pool) Clone(parent, snapshot, name string) error {
	options := rbd.NewRbdImageOptions()
	defer options.Destroy()
	return mend(rbd.CloneImage(p.io, parent, snapshot, p.io, name, options))
}

// Rename implements ceph.Images.
func (p *pool) Rename(from, to string) error { return mend(rbd.GetImage(p.io, from).Rename(to)) }

// Remove implements ceph.Images.
func (p *pool) Remove(name string) error { return mend(rbd.RemoveImage(p.io, name)) }

// image implements ceph.Image.
type image struct{ *rbd.Image }

// ReadAt implements ceph.Content.
func (i *image) ReadAt(data []byte, at int64) (int, error) {
	n, err := i.Image.ReadAt(data, at)
	return n, mend(err)
}

// WriteAt implements ceph.Content.
func (i *image) WriteAt(data []byte, at int64) (int, error) {
	n, err := i.Image.WriteAt(data, at)
	return n, mend(err)
}

// Discard implements ceph.Content.
func (i *image) Discard(at, length uint64) error {
	_, err := i.Image.Discard(at, length)
	return mend(err)
}

// Sync implements ceph.Content.
func (i *image) Sync() error { return mend(i.Flush()) }

// Extents implements ceph.Content.
func (i *image) Extents(at, length uint64, parent bool) ([]ceph.Extent, error) {
	var all []ceph.Extent
	with := rbd.ExcludeParent
	if parent {
		with = rbd.IncludeParent
	}
	err := i.DiffIterate(rbd.DiffIterateConfig{
		SnapName: rbd.NoSnapshot, Offset: at, Length: length, IncludeParent: with, WholeObject: rbd.EnableWholeObject,
		Callback: func(at, length uint64, exists int, _ any) int {
			if exists == 0 {
				return 0
			}
			if last := len(all) - 1; last >= 0 && all[last].At+all[last].Length == at {
				all[last].Length += length
				return 0
			}
			all = append(all, ceph.Extent{At: at, Length: length})
			return 0
		},
	})
	return all, mend(err)
}

// Size implements ceph.Image.
func (i *image) Size() (uint64, error) {
	size, err := i.GetSize()
	return size, mend(err)
}

// Resize implements ceph.Image.
func (i *image) Resize(size uint64) error { return mend(i.Image.Resize(size)) }

// Watchers implements ceph.Image.
func (i *image) Watchers() ([]string, error) {
	all, err := i.ListWatchers()
	addrs := make([]string, len(all))
	for n, w := range all {
		addrs[n] = w.Addr
	}
	return addrs, mend(err)
}

// Close implements ceph.Image.
func (i *image) Close() error { return mend(i.Image.Close()) }

// Snapshots implements ceph.Snapshots.
func (i *image) Snapshots() ([]string, error) {
	all, err := i.GetSnapshotNames()
	names := make([]string, len(all))
	for n, s := range all {
		names[n] = s.Name
	}
	return names, mend(err)
}

// Snapshot implements ceph.Snapshots.
func (i *image) Snapshot(name string) error {
	s, err := i.CreateSnapshot(name)
	if err != nil {
		return mend(err)
	}
	return mend(s.Protect())
}

// DropSnapshot implements ceph.Snapshots.
func (i *image) DropSnapshot(name string) error {
	s := i.GetSnapshot(name)
	is, err := s.IsProtected()
	if err == nil && is {
		err = s.Unprotect()
	}
	if err == nil {
		err = s.Remove()
	}
	return mend(err)
}

// errChanged ends a comparison at its first difference.
const errChanged = -int(unix.EXFULL)

// Changed implements ceph.Snapshots.
func (i *image) Changed(snapshot string) (bool, error) {
	if is, err := i.GetSnapshot(snapshot).IsProtected(); err != nil || !is {
		return true, mend(err)
	}
	size, err := i.GetSize()
	if err != nil {
		return true, mend(err)
	}
	err = mend(i.DiffIterate(rbd.DiffIterateConfig{
		SnapName: snapshot, Length: size, IncludeParent: rbd.ExcludeParent, WholeObject: rbd.EnableWholeObject,
		Callback: func(uint64, uint64, int, any) int { return errChanged },
	}))
	if errors.Is(err, unix.Errno(-errChanged)) {
		return true, nil
	}
	return false, err
}

// Children implements ceph.Snapshots.
func (i *image) Children() ([]string, error) {
	pools, images, err := i.ListChildren()
	var all []string
	for n := range min(len(pools), len(images)) {
		all = append(all, pools[n]+"/"+images[n])
	}
	return all, mend(err)
}
