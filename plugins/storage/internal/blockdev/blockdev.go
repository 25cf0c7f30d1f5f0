// Package blockdev is what drivers of pools have in common whose volumes are block devices: what a device's node tells, waiting for it,
// and its content.
//
// Functions keep nothing and are safe concurrently; none makes a node, and none follows where there is none. Errors are verr errors of
// the storage driver.
package blockdev

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lodgevirt/lodge/plugins/storage/internal/command"
	"github.com/lodgevirt/lodge/plugins/storage/internal/fileio"
	"github.com/lodgevirt/lodge/plugins/storage/internal/wipe"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// nodeWait is how long a device's node may take to appear.
	nodeWait = 10 * time.Second
	// nodePoll is how often it is looked for.
	nodePoll = 10 * time.Millisecond
	// nodeMode is what a node has where a volume's definition does not say.
	nodeMode = 0o600
	// copyPiece is how much is copied at once, in bytes.
	copyPiece = 1 << 20
)

// Describe puts into a volume what its node tells: permissions and times; one without a node is in trouble.
func Describe(v *pb.Volume) {
	var st unix.Stat_t
	if err := unix.Stat(v.GetPath(), &st); err != nil {
		v.Trouble = "its device cannot be found: " + err.Error()
		return
	}
	v.Permissions = &pb.Permissions{Mode: st.Mode & 0o7777, Owner: st.Uid, Group: st.Gid}
	v.Timestamps = &pb.Timestamps{Accessed: stamp(st.Atim), Modified: stamp(st.Mtim), Changed: stamp(st.Ctim)}
}

func stamp(t unix.Timespec) *timestamppb.Timestamp {
	return &timestamppb.Timestamp{Seconds: t.Sec, Nanos: int32(t.Nsec)}
}

// Wait waits until there is a node of a device of at least size bytes.
func Wait(ctx context.Context, path string, size uint64) error {
	ctx, cancel := context.WithTimeout(ctx, nodeWait)
	defer cancel()
	tick := time.NewTicker(nodePoll)
	defer tick.Stop()
	for {
		if has, err := sizeOf(path); err == nil && has >= size {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return storage.Failed("device '%s' of %d bytes did not appear: %w", path, size, ctx.Err())
		}
	}
}

func sizeOf(path string) (uint64, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	return fileio.Size(f)
}

// Own gives a node the permissions that a volume's definition states, if it states some.
func Own(path string, p *poolxml.Permissions) error {
	if p == nil {
		return nil
	}
	mode, owner, group := p.Values(nodeMode)
	if err := os.Chown(path, owner, group); err != nil {
		return storage.SystemError(err, "cannot chown '%s' to (%d, %d)", path, owner, group)
	}
	if p.Mode == "" {
		return nil
	}
	if err := unix.Chmod(path, mode); err != nil {
		return storage.SystemError(err, "cannot set mode of '%s' to %04o", path, mode)
	}
	return nil
}

// Check refuses what is no block device.
func Check(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return storage.SystemError(err, "cannot find device '%s'", path)
	}
	if st.Mode()&fs.ModeDevice == 0 || st.Mode()&fs.ModeCharDevice != 0 {
		return storage.Failed("'%s' is not a block device", path)
	}
	return nil
}

// Signatures are the kinds of content that wipefs(8) finds on a device: file systems, members of arrays and groups, partition tables.
func Signatures(ctx context.Context, path string) ([]string, error) {
	text, err := command.Output(ctx, "wipefs", "--no-act", "--noheadings", "--output", "TYPE", "--", path)
	if err != nil {
		return nil, storage.Failed("cannot look for what is on device '%s': %w", path, err)
	}
	found := strings.Fields(text)
	slices.Sort(found)
	return slices.Compact(found), nil
}

// Open opens a volume's device.
func Open(v *pb.Volume, flags int) (*os.File, error) {
	f, err := os.OpenFile(v.GetPath(), flags|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, storage.SystemError(err, "volume '%s' has no device '%s'", v.GetName(), v.GetPath())
	}
	if err != nil {
		return nil, storage.SystemError(err, "cannot open volume '%s'", v.GetPath())
	}
	return f, nil
}

// Download begins to read a volume, as storage.Transfer does.
func Download(req *pb.DownloadRequest) (storage.Source, error) {
	f, err := Open(req.GetVolume(), os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return fileio.Open(f, req.GetOffset(), req.GetLength(), req.GetSparse())
}

// Upload begins to write a volume, as storage.Transfer does.
func Upload(begin *pb.UploadBegin) (storage.Sink, error) {
	f, err := Open(begin.GetVolume(), os.O_RDWR)
	if err != nil {
		return nil, err
	}
	return fileio.Create(f, begin.GetOffset(), begin.GetLength())
}

// Wipe overwrites a volume, as storage.Wiper does.
func Wipe(ctx context.Context, v *pb.Volume, algorithm uint32, progress storage.Progress) error {
	f, err := Open(v, os.O_RDWR)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	size, err := fileio.Size(f)
	if err == nil {
		err = wipe.File(ctx, f, size, algorithm, progress)
	}
	if ctx.Err() != nil {
		return verr.New(verr.OperationAborted, "wiping volume '%s' was given up: %w", v.GetName(), ctx.Err()).In(verr.FromStorage)
	}
	if err != nil {
		return storage.SystemError(err, "cannot wipe volume '%s'", v.GetPath())
	}
	return nil
}

// Copy copies the content of a device, all of it, to a place of another one, and fills what is left of length with zeros. What was there
// before shows nowhere.
func Copy(ctx context.Context, in, out *os.File, at, length int64, progress storage.Progress) error {
	buf := make([]byte, copyPiece)
	for done := int64(0); done < length; {
		if err := ctx.Err(); err != nil {
			return verr.New(verr.OperationAborted, "copying '%s' was given up: %w", in.Name(), err).In(verr.FromStorage)
		}
		part := buf[:min(int64(len(buf)), length-done)]
		n, err := in.ReadAt(part, done)
		if err != nil && !errors.Is(err, io.EOF) {
			return storage.SystemError(err, "cannot read '%s'", in.Name())
		}
		clear(part[n:])
		if _, err := out.WriteAt(part, at+done); err != nil {
			return storage.SystemError(err, "cannot write '%s'", out.Name())
		}
		done += int64(len(part))
		progress(uint64(done), uint64(length))
	}
	if err := out.Sync(); err != nil {
		return storage.SystemError(err, "cannot write '%s'", out.Name())
	}
	return nil
}
