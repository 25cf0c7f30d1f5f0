package driver

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/storage/internal/qemuimg"
	"github.com/lodgevirt/lodge/plugins/storage/internal/wipe"
	"github.com/lodgevirt/lodge/plugins/storage/local/internal/define"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// workPrefix begins the name of what is being made.
	workPrefix = ".lodge-making-"
	// volumeMode and volumeFolderMode are what volumes have where their definitions do not say.
	volumeMode       = 0o600
	volumeFolderMode = 0o711
	// reflink is the flag of virStorageVolCreateFlags for copies that share their content.
	reflink = 1 << 1
)

// sweep removes what a process that is gone was making. Whoever makes something has it locked.
func (f *folder) sweep(name string) {
	fd, err := unix.Openat(f.fd, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(fd) }()
	if unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) != nil {
		return
	}
	if unix.Unlinkat(f.fd, name, 0) != nil {
		_ = unix.Unlinkat(f.fd, name, unix.AT_REMOVEDIR)
	}
}

// making is a file that will be a volume.
type making struct {
	folder *folder
	name   string
	file   *os.File
	// written says that there is content, which must be on the disk before the name is. Sizes are put there before names by the file
	// system itself.
	written, done bool
}

// begin makes an empty file that no client sees.
func (f *folder) begin() (*making, error) {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	m := &making{folder: f, name: workPrefix + hex.EncodeToString(id[:])}
	fd, err := unix.Openat(f.fd, m.name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, volumeMode)
	if err != nil {
		return nil, storage.SystemError(err, "cannot create file in '%s'", f.path)
	}
	m.file = os.NewFile(uintptr(fd), m.path())
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		m.end()
		return nil, storage.SystemError(err, "cannot lock file in '%s'", f.path)
	}
	return m, nil
}

func (m *making) path() string { return filepath.Join(m.folder.path, m.name) }

// publish gives the file its permissions and then its name, unless there is one of that name.
func (m *making) publish(name string, p *poolxml.Permissions) error {
	mode, owner, group := p.Values(volumeMode)
	if err := m.file.Chown(owner, group); err != nil {
		return storage.SystemError(err, "cannot chown volume '%s' to (%d, %d)", name, owner, group)
	}
	if err := unix.Fchmod(int(m.file.Fd()), mode); err != nil {
		return storage.SystemError(err, "cannot set mode of volume '%s' to %04o", name, mode)
	}
	if m.written {
		if err := m.file.Sync(); err != nil {
			return storage.SystemError(err, "cannot write volume '%s'", name)
		}
	}
	err := unix.Renameat2(m.folder.fd, m.name, m.folder.fd, name, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // network file systems
		if err = unix.Linkat(m.folder.fd, m.name, m.folder.fd, name, 0); err == nil {
			err = unix.Unlinkat(m.folder.fd, m.name, 0)
		}
	}
	if errors.Is(err, unix.EEXIST) {
		return exists(name)
	}
	if err != nil {
		return storage.SystemError(err, "cannot name volume '%s'", name)
	}
	m.done = true
	return nil
}

func exists(name string) error {
	return verr.New(verr.StorageVolExist, "volume target path '%s' already exists", name).In(verr.FromStorage)
}

// end removes the file unless it became a volume.
func (m *making) end() {
	if !m.done {
		_ = unix.Unlinkat(m.folder.fd, m.name, 0)
	}
	_ = m.file.Close()
}

// Create implements storage.Volumes.
func (d *Driver) Create(ctx context.Context, req *pb.CreateRequest, progress storage.Progress) (*pb.Volume, error) {
	var size *uint64
	if req.GetFrom() != nil {
		size = &req.GetFrom().Capacity
	}
	def, err := define.ParseVolume(req.GetXml(), size)
	if err != nil {
		return nil, err
	}
	f, err := d.folder(req.GetPool())
	if err != nil {
		return nil, err
	}
	defer f.close()
	if err := unix.Faccessat(f.fd, def.Name, unix.F_OK, unix.AT_SYMLINK_NOFOLLOW); err == nil {
		return nil, exists(def.Name)
	}
	if def.Target.Format.Type == poolxml.Folder {
		return f.makeFolder(def)
	}
	m, err := f.begin()
	if err != nil {
		return nil, err
	}
	defer m.end()
	if err := d.fill(ctx, m, def, req, progress); err != nil {
		return nil, err
	}
	if err := m.publish(def.Name, def.Target.Permissions); err != nil {
		return nil, err
	}
	return f.volume(def.Name)
}

// makeFolder makes a volume that is a folder.
func (f *folder) makeFolder(def *poolxml.Volume) (*pb.Volume, error) {
	mode, owner, group := def.Target.Permissions.Values(volumeFolderMode)
	if err := unix.Mkdirat(f.fd, def.Name, 0o700); err != nil {
		return nil, storage.SystemError(err, "cannot create path '%s'", filepath.Join(f.path, def.Name))
	}
	err := errors.Join(unix.Fchownat(f.fd, def.Name, owner, group, unix.AT_SYMLINK_NOFOLLOW), unix.Fchmodat(f.fd, def.Name, mode, 0))
	if err != nil {
		return nil, errors.Join(storage.SystemError(err, "cannot set permissions of '%s'", filepath.Join(f.path, def.Name)),
			unix.Unlinkat(f.fd, def.Name, unix.AT_REMOVEDIR))
	}
	return f.volume(def.Name)
}

// fill makes the content of a volume.
func (d *Driver) fill(ctx context.Context, m *making, def *poolxml.Volume, req *pb.CreateRequest, progress storage.Progress) error {
	format, from := def.Target.Format.Type, req.GetFrom()
	plain := (format == poolxml.Raw || format == "iso") && def.Target.Encryption == nil
	switch {
	case from != nil && from.GetEncryption() != nil, from != nil && def.Target.Encryption != nil:
		return verr.New(verr.ConfigUnsupported, "encrypted volumes cannot be copied").In(verr.FromStorage)
	case from != nil && from.GetType() == pb.VolumeType_VOLUME_TYPE_DIR:
		return verr.New(verr.ConfigUnsupported, "volume '%s' is a folder, which cannot be copied", from.GetName()).In(verr.FromStorage)
	case from != nil && plain && from.GetFormat() == poolxml.Raw:
		m.written = true
		return m.copy(ctx, from, def, req.GetFlags()&reflink != 0, progress)
	case req.GetFlags()&reflink != 0:
		return verr.New(verr.ConfigUnsupported, "only raw volumes can be copied as references").In(verr.FromStorage)
	case plain && from == nil:
		return m.grow(def)
	}
	m.written = true
	if err := m.image(ctx, def, req); err != nil {
		if ctx.Err() != nil {
			return verr.New(verr.OperationAborted, "making volume '%s' was given up: %w", def.Name, err).In(verr.FromStorage)
		}
		return storage.Failed("cannot make volume '%s': %w", def.Name, err)
	}
	return nil
}

// grow makes a raw volume: its size, and room for as much of it as is wanted.
func (m *making) grow(def *poolxml.Volume) error {
	fd := int(m.file.Fd())
	if err := unix.Ftruncate(fd, int64(def.CapacityBytes)); err != nil {
		return storage.SystemError(err, "cannot extend file '%s'", def.Name)
	}
	room := min(def.AllocationBytes, def.CapacityBytes)
	if room == 0 {
		return nil
	}
	if err := unix.Fallocate(fd, 0, 0, int64(room)); err != nil {
		return storage.SystemError(err, "cannot allocate %d bytes in file '%s'", room, def.Name)
	}
	return nil
}

// image has qemu-img make the content.
func (m *making) image(ctx context.Context, def *poolxml.Volume, req *pb.CreateRequest) error {
	i := qemuimg.Image{Path: m.path(), Format: def.Target.Format.Type, Size: def.CapacityBytes}
	t := &def.Target
	if t.Encryption != nil {
		if len(req.GetSecrets()) == 0 {
			return errors.New("the value of its secret did not come along")
		}
		i.Passphrase = req.GetSecrets()[0].GetValue()
		if i.Format == poolxml.Raw {
			i.Format = poolxml.LUKS
		}
	}
	if i.Format == "iso" {
		i.Format = poolxml.Raw
	}
	if i.Format == poolxml.QCOW2 {
		i.Options = qcow2Options(t, req.GetFlags(), def)
	}
	if def.Backing != nil {
		if _, err := os.Stat(def.Backing.Path); err != nil {
			return fmt.Errorf("backing store: %w", err)
		}
		i.Backing, i.BackingFormat = def.Backing.Path, def.Backing.Format.Type
	}
	from := req.GetFrom()
	if from == nil {
		return qemuimg.Create(ctx, i)
	}
	if err := qemuimg.Convert(ctx, from.GetPath(), from.GetFormat(), i); err != nil {
		return err
	}
	if def.CapacityBytes <= from.GetCapacity() {
		return nil
	}
	return qemuimg.Resize(ctx, i.Path, i.Format, def.CapacityBytes, false, false)
}

// qcow2Options are those that a definition and the flags of a call ask for.
func qcow2Options(t *poolxml.VolumeTarget, flags uint32, def *poolxml.Volume) []string {
	const preallocMetadata = 1 << 0
	compat := t.Compat
	if compat == "" {
		compat = "1.1"
	}
	opts := []string{"compat=" + compat}
	if flags&preallocMetadata != 0 && def.Backing == nil {
		opts = append(opts, "preallocation=metadata")
	}
	if t.Cluster > 0 {
		opts = append(opts, "cluster_size="+strconv.FormatUint(t.Cluster, 10))
	}
	if f := t.Features; f != nil && f.LazyRefcounts != nil {
		opts = append(opts, "lazy_refcounts=on")
	}
	if f := t.Features; f != nil && f.ExtendedL2 != nil {
		opts = append(opts, "extended_l2=on")
	}
	if t.NoCOW != nil {
		opts = append(opts, "nocow=on")
	}
	return opts
}

// Remove implements storage.Volumes.
func (d *Driver) Remove(_ context.Context, req *pb.RemoveRequest) error {
	if req.GetFlags() != 0 {
		return verr.New(verr.InvalidArg, "unsupported flags (0x%x) for a volume that is a file", req.GetFlags()).In(verr.FromStorage)
	}
	f, err := d.folder(req.GetPool())
	if err != nil {
		return err
	}
	defer f.close()
	name := req.GetVolume().GetName()
	if err := poolxml.CheckName(name); err != nil {
		return err
	}
	how := 0
	if req.GetVolume().GetType() == pb.VolumeType_VOLUME_TYPE_DIR {
		how = unix.AT_REMOVEDIR
	}
	err = unix.Unlinkat(f.fd, name, how)
	if errors.Is(err, fs.ErrNotExist) {
		return storage.NoVolume(name)
	}
	if err != nil {
		return storage.SystemError(err, "cannot unlink file '%s'", filepath.Join(f.path, name))
	}
	return nil
}

// open opens the file of a volume, which must not be a link that leads out of the folder.
func (f *folder) open(v *pb.Volume, flags int) (*os.File, error) {
	if err := poolxml.CheckName(v.GetName()); err != nil {
		return nil, err
	}
	fd, err := unix.Openat(f.fd, v.GetName(), flags|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, storage.NoVolume(v.GetName())
	}
	if err != nil {
		return nil, storage.SystemError(err, "cannot open volume '%s'", v.GetPath())
	}
	return os.NewFile(uintptr(fd), v.GetPath()), nil
}

// Resize implements storage.Resizer.
func (d *Driver) Resize(ctx context.Context, req *pb.ResizeRequest) (*pb.Volume, error) {
	const allocate, shrink = 1 << 0, 1 << 2
	f, err := d.folder(req.GetPool())
	if err != nil {
		return nil, err
	}
	defer f.close()
	v, size := req.GetVolume(), int64(req.GetCapacity())
	if size < 0 {
		return nil, verr.New(verr.Overflow, "capacity %d is too big", req.GetCapacity()).In(verr.FromStorage)
	}
	if v.GetFormat() != poolxml.Raw && v.GetFormat() != "iso" {
		if req.GetFlags()&allocate != 0 && v.GetFormat() != poolxml.QCOW2 {
			return nil, verr.New(verr.OperationInvalid, "preallocation is only supported for raw and qcow2 volumes").In(verr.FromStorage)
		}
		err := qemuimg.Resize(ctx, v.GetPath(), v.GetFormat(), req.GetCapacity(), req.GetFlags()&shrink != 0, req.GetFlags()&allocate != 0)
		if err != nil {
			return nil, storage.Failed("cannot resize volume '%s': %w", v.GetPath(), err)
		}
		return f.volume(v.GetName())
	}
	file, err := f.open(v, unix.O_RDWR)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	if err := unix.Ftruncate(int(file.Fd()), size); err != nil {
		return nil, storage.SystemError(err, "failed to truncate file '%s'", v.GetPath())
	}
	if req.GetFlags()&allocate != 0 && size > 0 {
		if err := unix.Fallocate(int(file.Fd()), 0, 0, size); err != nil {
			return nil, errors.Join(storage.SystemError(err, "failed to pre-allocate space for file '%s'", v.GetPath()),
				unix.Ftruncate(int(file.Fd()), int64(v.GetCapacity())))
		}
	}
	return f.volume(v.GetName())
}

// Wipe implements storage.Wiper.
func (d *Driver) Wipe(ctx context.Context, req *pb.WipeRequest, progress storage.Progress) error {
	f, err := d.folder(req.GetPool())
	if err != nil {
		return err
	}
	defer f.close()
	v := req.GetVolume()
	if v.GetType() == pb.VolumeType_VOLUME_TYPE_DIR {
		return verr.New(verr.NoSupport, "volume '%s' is a folder, which cannot be wiped", v.GetName()).In(verr.FromStorage)
	}
	file, err := f.open(v, unix.O_RDWR)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	size, err := file.Seek(0, 2)
	if err != nil {
		return storage.SystemError(err, "failed to find the size of volume '%s'", v.GetPath())
	}
	if req.GetAlgorithm() == wipe.Zero && sparse(file) {
		// What has no room on the disk holds nothing to overwrite.
		if err := errors.Join(unix.Ftruncate(int(file.Fd()), 0), unix.Ftruncate(int(file.Fd()), size)); err != nil {
			return storage.SystemError(err, "failed to truncate volume '%s'", v.GetPath())
		}
		return nil
	}
	if err := wipe.File(ctx, file, uint64(size), req.GetAlgorithm(), progress); err != nil {
		if ctx.Err() != nil {
			return verr.New(verr.OperationAborted, "wiping volume '%s' was given up: %w", v.GetName(), err).In(verr.FromStorage)
		}
		return storage.SystemError(err, "cannot wipe volume '%s'", v.GetPath())
	}
	return nil
}

// sparse reports whether a file has holes.
func sparse(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Blocks < st.Size/blockUnit
}
