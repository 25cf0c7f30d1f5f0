package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/storage/internal/fileio"
	"github.com/lodgevirt/lodge/plugins/storage/internal/wipe"
	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/define"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// settle is how long udev may take to make links for new devices.
	settle = 5 * time.Second
	// settleStep is the time between two looks for them.
	settleStep = 50 * time.Millisecond
)

// session finds a pool's session, which has to be there and well.
func (p *Pools) session(ctx context.Context, pool *define.Pool) (*session, error) {
	s, err := p.find(ctx, pool)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return nil, storage.Failed("there is no session with iSCSI target '%s' at %s", pool.Target(), pool.Portal())
	}
	return s, s.healthy(pool)
}

// Refresh has the kernel look for new units, and tells all.
func (p *Pools) Refresh(ctx context.Context, pool *define.Pool, _ []*pb.Secret, found func(...*pb.Volume) error) (*pb.PoolSize, error) {
	s, err := p.session(ctx, pool)
	if err != nil {
		return nil, err
	}
	if n, err := p.node(ctx, pool); err == nil {
		n.remove()
	}
	if err := p.run(ctx, "--mode", "session", "--sid", s.id, "--rescan"); err != nil {
		return nil, failed(pool, "look for new units", err)
	}
	size := &pb.PoolSize{}
	for _, v := range p.volumes(ctx, pool, s) {
		size.Capacity += v.Capacity
		size.Allocation += v.Allocation
		if err := found(v); err != nil {
			return nil, err
		}
	}
	return size, nil
}

// volumes describes the disks of a session. It waits a little for those whose devices have no link yet.
func (p *Pools) volumes(ctx context.Context, pool *define.Pool, s *session) []*pb.Volume {
	deadline := time.Now().Add(settle)
	for {
		var all []*pb.Volume
		complete := true
		for _, d := range s.disks() {
			v := p.volume(pool, d)
			complete = complete && v.Trouble == ""
			all = append(all, v)
		}
		if complete || time.Now().After(deadline) {
			return all
		}
		select {
		case <-ctx.Done():
			return all
		case <-time.After(settleStep):
		}
	}
}

// volume describes a disk.
func (p *Pools) volume(pool *define.Pool, d disk) *pb.Volume {
	v := &pb.Volume{
		Name: fmt.Sprintf("unit:%d:%d:%d", d.bus, d.target, d.lun), Key: d.serial, Type: pb.VolumeType_VOLUME_TYPE_BLOCK, Format: poolxml.Raw,
		Capacity: d.size, Allocation: d.size, Physical: d.size,
	}
	if d.name == "" {
		v.Trouble = "the kernel has made no block device of it"
	} else if link, ok := p.link(pool, d); ok {
		v.Path = link
	} else {
		v.Path, v.Trouble = filepath.Join(p.dev(), d.name), fmt.Sprintf("its device has no name in %s that stays", pool.Folder())
	}
	if v.Key == "" {
		v.Key = pool.Link(d.lun)
	}
	return v
}

// link is the name of a disk's device in the pool's folder. There the one that udev makes of portal, target and unit goes before others.
func (p *Pools) link(pool *define.Pool, d disk) (string, bool) {
	folder, device := pool.Folder(), filepath.Join(p.dev(), d.name)
	if folder == p.dev() {
		return device, true
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return "", false
	}
	other, suffix := "", fmt.Sprintf("-lun-%d", d.lun)
	for _, e := range entries {
		name := filepath.Join(folder, e.Name())
		if e.Type() != fs.ModeSymlink {
			continue
		}
		if to, err := filepath.EvalSymlinks(name); err != nil || to != device {
			continue
		}
		if strings.HasSuffix(name, "-iscsi-"+pool.Target()+suffix) {
			return name, true
		}
		if other == "" {
			other = name
		}
	}
	return other, other != ""
}

// look describes the disk that a volume's name says.
func (p *Pools) look(ctx context.Context, pool *define.Pool, name string) (*pb.Volume, error) {
	s, err := p.session(ctx, pool)
	if err != nil {
		return nil, err
	}
	for _, d := range s.disks() {
		if v := p.volume(pool, d); v.Name == name {
			return v, nil
		}
	}
	return nil, storage.NoVolume(name)
}

// open opens the device of a volume as it is now. One that is to be written must not be mounted.
func (p *Pools) open(ctx context.Context, pool *define.Pool, name string, flags int) (*os.File, error) {
	v, err := p.look(ctx, pool, name)
	if err != nil {
		return nil, err
	}
	if v.Path == "" {
		return nil, storage.Failed("volume '%s': %s", name, v.Trouble)
	}
	f, err := os.OpenFile(v.Path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, verr.New(verr.ResourceBusy, "volume '%s' is in use on this host, as a file system or otherwise", name).In(verr.FromStorage)
	}
	if err != nil {
		return nil, storage.SystemError(err, "cannot open volume '%s'", v.Path)
	}
	return f, nil
}

const toWrite = os.O_RDWR | unix.O_EXCL

// Wipe overwrites a volume.
func (p *Pools) Wipe(ctx context.Context, pool *define.Pool, _ []*pb.Secret, v *pb.Volume, algorithm uint32, progress storage.Progress) error {
	f, err := p.open(ctx, pool, v.GetName(), toWrite)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	size, err := fileio.Size(f)
	if err == nil {
		err = wipe.File(ctx, f, size, algorithm, progress)
	}
	if err != nil && ctx.Err() != nil {
		return verr.New(verr.OperationAborted, "wiping volume '%s' was given up: %w", v.GetName(), err).In(verr.FromStorage)
	}
	if err != nil {
		return storage.SystemError(err, "cannot wipe volume '%s'", v.GetName())
	}
	return nil
}

// Download opens a volume to read a part of it.
func (p *Pools) Download(ctx context.Context, pool *define.Pool, req *pb.DownloadRequest) (storage.Source, error) {
	f, err := p.open(ctx, pool, req.GetVolume().GetName(), os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return fileio.Open(f, req.GetOffset(), req.GetLength(), req.GetSparse())
}

// Upload opens a volume to write a part of it.
func (p *Pools) Upload(ctx context.Context, pool *define.Pool, begin *pb.UploadBegin) (storage.Sink, error) {
	f, err := p.open(ctx, pool, begin.GetVolume().GetName(), toWrite)
	if err != nil {
		return nil, err
	}
	return fileio.Create(f, begin.GetOffset(), begin.GetLength())
}
