package driver

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/storage/internal/command"
	"github.com/lodgevirt/lodge/plugins/storage/local/internal/define"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Flags of Build, virStoragePoolBuildFlags.
const (
	buildNoOverwrite = 1 << 2
	buildOverwrite   = 1 << 3
)

// folderMode is what a pool's folder has where its definition does not say, as libvirt has it.
const folderMode = 0o711

// Build implements storage.Builder: the folder, and with a word about overwriting the file system of a device.
func (d *Driver) Build(ctx context.Context, ref *pb.Pool, flags uint32, _ storage.Progress) error {
	p, err := define.ParsePool(ref.GetXml())
	if err != nil {
		return err
	}
	known := uint32(0)
	if p.Type == define.FS {
		known = buildNoOverwrite | buildOverwrite
	}
	if flags&^known != 0 {
		return verr.New(verr.InvalidArg, "unsupported flags (0x%x) for a pool of type '%s'", flags&^known, p.Type).In(verr.FromStorage)
	}
	if flags != 0 {
		if err := makeFileSystem(ctx, p, flags&buildOverwrite != 0); err != nil {
			return err
		}
	}
	return makeFolder(p)
}

// makeFolder makes the pool's folder with its parents, and gives it its permissions.
func makeFolder(p *define.Pool) error {
	path := p.Target.Path
	mode, owner, group := p.Target.Permissions.Values(folderMode)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return storage.SystemError(err, "cannot create path '%s'", path)
	}
	// Opened once, so that it is the same folder that is changed.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return storage.SystemError(err, "cannot open directory '%s'", path)
	}
	defer func() { _ = f.Close() }()
	if err := f.Chown(owner, group); err != nil {
		return storage.SystemError(err, "cannot chown '%s' to (%d, %d)", path, owner, group)
	}
	if err := unix.Fchmod(int(f.Fd()), mode); err != nil {
		return storage.SystemError(err, "cannot set mode of '%s' to %04o", path, mode)
	}
	return nil
}

// makeFileSystem formats the pool's device.
func makeFileSystem(ctx context.Context, p *define.Pool, overwrite bool) error {
	device := p.Source.Devices[0].Path
	st, err := os.Stat(device)
	if err != nil {
		return storage.SystemError(err, "cannot find device '%s'", device)
	}
	if st.Mode()&fs.ModeDevice == 0 || st.Mode()&fs.ModeCharDevice != 0 {
		return storage.Failed("'%s' is not a block device", device)
	}
	format := p.Source.Format.Type
	if format == "auto" {
		return verr.New(verr.OperationInvalid, "pool '%s' needs a source format to make a file system", p.Name).In(verr.FromStorage)
	}
	if !overwrite {
		if err := mustBeEmpty(ctx, device); err != nil {
			return err
		}
	}
	args := []string{"-t", format}
	switch format {
	case "xfs", "btrfs":
		args = append(args, "-f")
	case "ext2", "ext3", "ext4":
		args = append(args, "-F", "-q")
	}
	if err := command.Run(ctx, "mkfs", append(args, device)...); err != nil {
		return storage.Failed("failed to make filesystem of type '%s' on device '%s': %w", format, device, err)
	}
	return nil
}

// mustBeEmpty refuses a device on which blkid(8) finds anything.
func mustBeEmpty(ctx context.Context, device string) error {
	found, err := command.Output(ctx, "blkid", "-p", "-o", "value", "-s", "TYPE", "-s", "PTTYPE", "--", device)
	if err == nil && strings.TrimSpace(found) != "" {
		return verr.New(verr.OperationInvalid, "existing %s found on device '%s'", strings.Join(strings.Fields(found), " and "), device).
			In(verr.FromStorage)
	}
	return nil // it ends with a status for what it finds nothing on
}

// Delete implements storage.Builder: the folder goes if it is empty.
func (d *Driver) Delete(_ context.Context, ref *pb.Pool, flags uint32, _ storage.Progress) error {
	p, err := define.ParsePool(ref.GetXml())
	if err != nil {
		return err
	}
	if flags != 0 {
		return verr.New(verr.InvalidArg, "unsupported flags (0x%x) for a pool of type '%s'", flags, p.Type).In(verr.FromStorage)
	}
	err = unix.Rmdir(p.Target.Path)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return storage.SystemError(err, "failed to remove pool '%s'", p.Target.Path)
	}
	return nil
}
