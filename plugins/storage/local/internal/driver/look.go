package driver

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lodgevirt/lodge/plugins/storage/local/internal/define"
	"github.com/lodgevirt/lodge/sdk/image"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
)

const (
	// blockUnit is the unit of st_blocks in bytes.
	blockUnit = 512
	// lookers is how many goroutines look at the files of one folder.
	lookers = 4
	// lookBatch is how many volumes are told at once.
	lookBatch = 256
)

// errNoVolume says that there is nothing at a name that could be a volume.
var errNoVolume = errors.New("not a volume")

// folder is a pool's folder, opened once: what is looked at lies in it whatever its path leads to meanwhile.
type folder struct {
	path string
	fd   int
}

func openFolder(path string) (*folder, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, storage.SystemError(err, "cannot open path '%s'", path)
	}
	return &folder{path, fd}, nil
}

func (f *folder) close() { _ = unix.Close(f.fd) }

// names lists what is in the folder, but for what work leaves behind, which it removes.
func (f *folder) names() ([]string, error) {
	dir, err := os.Open(f.path)
	if err != nil {
		return nil, storage.SystemError(err, "cannot open path '%s'", f.path)
	}
	defer func() { _ = dir.Close() }()
	all, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, storage.SystemError(err, "cannot read directory '%s'", f.path)
	}
	names := all[:0]
	for _, name := range all {
		switch {
		case strings.HasPrefix(name, workPrefix):
			f.sweep(name)
		case poolxml.CheckName(name) == nil:
			names = append(names, name)
		}
	}
	return names, nil
}

// look describes what has a name in the folder; errNoVolume says that it is no volume.
func (f *folder) look(name string) (*pb.Volume, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(f.fd, name, &st, 0); err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) {
			return nil, errNoVolume
		}
		return nil, storage.SystemError(err, "cannot stat file '%s'", filepath.Join(f.path, name))
	}
	path := filepath.Join(f.path, name)
	v := &pb.Volume{
		Name: name, Key: path, Path: path, Type: pb.VolumeType_VOLUME_TYPE_FILE, Format: poolxml.Raw,
		Capacity: uint64(st.Size), Physical: uint64(st.Size), Allocation: uint64(st.Blocks) * blockUnit,
		Permissions: &pb.Permissions{Mode: st.Mode & 0o7777, Owner: st.Uid, Group: st.Gid},
		Timestamps:  &pb.Timestamps{Accessed: stamp(st.Atim), Modified: stamp(st.Mtim), Changed: stamp(st.Ctim)},
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if st.Blocks > 0 { // a file without content is raw whatever its size, and need not be read
			f.read(name, v)
		}
	case unix.S_IFDIR:
		v.Type, v.Format = pb.VolumeType_VOLUME_TYPE_DIR, poolxml.Folder
		v.Capacity, v.Allocation, v.Physical = 0, 0, 0
	case unix.S_IFBLK:
		v.Type = pb.VolumeType_VOLUME_TYPE_BLOCK
		f.read(name, v)
	default:
		return nil, errNoVolume
	}
	return v, nil
}

func stamp(t unix.Timespec) *timestamppb.Timestamp {
	return &timestamppb.Timestamp{Seconds: t.Sec, Nanos: int32(t.Nsec)}
}

// read puts what the header says into a volume. One that cannot be read is told with what is known of it, and why.
func (f *folder) read(name string, v *pb.Volume) {
	fd, err := unix.Openat(f.fd, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		v.Format, v.Trouble = "", err.Error()
		return
	}
	file := os.NewFile(uintptr(fd), v.Path)
	defer func() { _ = file.Close() }()
	// The first page is read and nothing around it.
	_ = unix.Fadvise(fd, 0, 0, unix.FADV_RANDOM)
	if v.Type == pb.VolumeType_VOLUME_TYPE_BLOCK {
		if end, err := file.Seek(0, 2); err == nil {
			v.Capacity, v.Allocation, v.Physical = uint64(end), uint64(end), uint64(end)
		}
	}
	header, err := image.Parse(file)
	if err != nil {
		v.Trouble = err.Error()
		return
	}
	v.Format, v.Compat, v.ClusterSize = header.Format, header.Compat, header.ClusterSize
	if header.Size > 0 {
		v.Capacity = header.Size
	}
	v.Capacity -= min(header.Offset, v.Capacity)
	if header.LazyRefcounts {
		v.Features = append(v.Features, "lazy_refcounts")
	}
	if header.ExtendedL2 {
		v.Features = append(v.Features, "extended_l2")
	}
	if header.Backing != "" {
		v.Backing = &pb.Backing{Path: header.Backing, Format: header.BackingFormat}
		if !filepath.IsAbs(header.Backing) {
			v.Backing.Path = filepath.Join(filepath.Dir(v.Path), header.Backing)
		}
	}
	if header.Encrypted {
		v.Encryption = &pb.Encryption{Format: poolxml.LUKS}
	}
}

// Refresh implements storage.Driver.
func (d *Driver) Refresh(ctx context.Context, ref *pb.Pool, found func(...*pb.Volume) error) (*pb.PoolSize, error) {
	p, err := define.ParsePool(ref.GetXml())
	if err != nil {
		return nil, err
	}
	f, err := openFolder(p.Target.Path)
	if err != nil {
		return nil, err
	}
	defer f.close()
	names, err := f.names()
	if err != nil {
		return nil, err
	}
	if err := f.lookAll(ctx, names, found); err != nil {
		return nil, err
	}
	return f.size()
}

// lookAll looks at all names, a few at a time, and tells what it finds in batches.
func (f *folder) lookAll(ctx context.Context, names []string, found func(...*pb.Volume) error) error {
	var next atomic.Int64
	var all sync.WaitGroup
	batches := make(chan []*pb.Volume, lookers)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for range lookers {
		all.Go(func() {
			for ctx.Err() == nil {
				end := next.Add(lookBatch)
				begin := end - lookBatch
				if begin >= int64(len(names)) {
					return
				}
				batch := make([]*pb.Volume, 0, lookBatch)
				for _, name := range names[begin:min(end, int64(len(names)))] {
					if v, err := f.look(name); err == nil {
						batch = append(batch, v)
					}
				}
				select {
				case batches <- batch:
				case <-ctx.Done():
				}
			}
		})
	}
	go func() {
		all.Wait()
		close(batches)
	}()
	var err error
	for batch := range batches {
		if err == nil {
			if err = found(batch...); err != nil {
				cancel()
			}
		}
	}
	if err == nil {
		err = ctx.Err()
	}
	return err
}

// size asks the file system for its room.
func (f *folder) size() (*pb.PoolSize, error) {
	var room unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Fstatfs(f.fd, &room), unix.Fstat(f.fd, &st)); err != nil {
		return nil, storage.SystemError(err, "cannot statvfs path '%s'", f.path)
	}
	unit := uint64(room.Frsize)
	return &pb.PoolSize{
		Capacity: room.Blocks * unit, Allocation: (room.Blocks - room.Bfree) * unit, Available: room.Bavail * unit,
		Permissions: &pb.Permissions{Mode: st.Mode & 0o7777, Owner: st.Uid, Group: st.Gid},
	}, nil
}

// Look implements storage.Volumes.
func (d *Driver) Look(_ context.Context, ref *pb.Pool, name string) (*pb.Volume, error) {
	f, err := d.folder(ref)
	if err != nil {
		return nil, err
	}
	defer f.close()
	return f.volume(name)
}

// folder opens the folder of a pool.
func (d *Driver) folder(ref *pb.Pool) (*folder, error) {
	p, err := define.ParsePool(ref.GetXml())
	if err != nil {
		return nil, err
	}
	return openFolder(p.Target.Path)
}

// volume describes a volume, or fails with NoStorageVol.
func (f *folder) volume(name string) (*pb.Volume, error) {
	missing := storage.NoVolume(name)
	if poolxml.CheckName(name) != nil || strings.HasPrefix(name, workPrefix) {
		return nil, missing
	}
	v, err := f.look(name)
	if errors.Is(err, errNoVolume) || errors.Is(err, fs.ErrNotExist) {
		return nil, missing
	}
	return v, err
}
