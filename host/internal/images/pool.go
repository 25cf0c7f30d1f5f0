package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// Pool is one folder.
type Pool struct {
	// Name is the folder's, with more to it if two folders have one name.
	Name string
	// UUID follows from the path.
	UUID uuid.UUID
	// Path of the folder.
	Path string

	all, own *semaphore.Weighted
	used     uint64 // when it was used last, by the clock of Pools
}

// State is libvirt's virStoragePoolState.
type State uint8

// The states that a folder can have.
const (
	// Running: the folder is there.
	Running State = 2
	// Inaccessible: it is not, or may not be read.
	Inaccessible State = 4
)

// PoolInfo is the room on a folder's file system, in bytes.
type PoolInfo struct {
	State                           State
	Capacity, Allocation, Available uint64
	// Mode, Owner and Group are the folder's.
	Mode, Owner, Group uint32
}

// Info asks the file system for its room. A folder that is gone is Inaccessible, and no error.
func (p *Pool) Info(ctx context.Context) (PoolInfo, error) {
	return look(ctx, p.all, p.own, p.Path, func() (PoolInfo, error) { return room(p.Path), nil })
}

func room(path string) PoolInfo {
	var fsys unix.Statfs_t
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR || unix.Statfs(path, &fsys) != nil {
		return PoolInfo{State: Inaccessible}
	}
	block := uint64(fsys.Frsize)
	return PoolInfo{
		State: Running, Capacity: fsys.Blocks * block, Allocation: (fsys.Blocks - fsys.Bfree) * block, Available: fsys.Bavail * block,
		Mode: st.Mode & 0o7777, Owner: st.Uid, Group: st.Gid,
	}
}

// Volumes returns the names of the folder's files and block devices, sorted. A folder that is gone has none; one with more than
// 65,536 entries fails with OperationFailed.
func (p *Pool) Volumes(ctx context.Context) ([]string, error) {
	return look(ctx, p.all, p.own, p.Path, func() ([]string, error) { return volumeNames(p.Path) })
}

func volumeNames(path string) ([]string, error) {
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, storageError(verr.SystemError, "cannot read folder '%s': %w", path, err)
	}
	defer func() { _ = dir.Close() }()
	entries, err := dir.ReadDir(maxEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, storageError(verr.SystemError, "cannot read folder '%s': %w", path, err)
	}
	if len(entries) > maxEntries {
		return nil, storageError(verr.OperationFailed, "folder '%s' has more than %d entries", path, maxEntries)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if printable(e.Name()) && isVolume(path, e) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// PathOf returns the path, and so the key, that a volume of a name has.
func (p *Pool) PathOf(name string) string { return filepath.Join(p.Path, name) }

// isVolume follows symbolic links, since images are often linked into a folder.
func isVolume(folder string, e fs.DirEntry) bool {
	mode := e.Type()
	if mode&fs.ModeSymlink != 0 {
		info, err := os.Stat(filepath.Join(folder, e.Name()))
		if err != nil {
			return false
		}
		mode = info.Mode()
	}
	return mode.IsRegular() || mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0
}

// Volume finds a volume by its name, or fails with NoStorageVol.
func (p *Pool) Volume(ctx context.Context, name string) (*Volume, error) {
	missing := storageError(verr.NoStorageVol, "no storage vol with matching name '%s'", name)
	if !printable(name) || strings.Contains(name, "/") || name == "." || name == ".." {
		return nil, missing
	}
	return p.named(ctx, name, missing)
}

func (p *Pool) named(ctx context.Context, name string, missing error) (*Volume, error) {
	v, err := look(ctx, p.all, p.own, p.Path, func() (*Volume, error) { return inspect(p.PathOf(name)) })
	if err != nil {
		return nil, notVolume(err, missing)
	}
	v.Pool = p
	return v, nil
}

// errNoVolume says that there is neither a file nor a block device at a path.
var errNoVolume = errors.New("not a volume")

// wrapSystem tells what could not be done with a path.
func wrapSystem(verb, path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENAMETOOLONG) {
		return fmt.Errorf("%s %q: %w", verb, path, errNoVolume)
	}
	return storageError(verr.SystemError, "cannot %s '%s': %w", verb, path, err)
}
