package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/guest"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/process"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/stream"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// lastWordsTime is how long a QEMU may take to say why it cannot read a state.
const lastWordsTime = 5 * time.Second

// restore is where a start gets the guest's state from.
type restore struct {
	file *os.File
	copy stream.Copy
	tell func(*pb.SaveProgress)
	size int64
}

// Restore implements hypervisor.Saver. The guest has executed nothing when it returns: until its first Resume, Recover puts it away unless its
// last state says that it was loaded.
func (d *Driver) Restore(ctx context.Context, req *pb.RestoreRequest, tell func(*pb.SaveProgress)) (*pb.StartResponse, error) {
	if !stream.Known(req.GetFormat()) {
		return nil, verr.New(verr.ConfigUnsupported, "saved domain is in format '%s', which cannot be read", req.GetFormat())
	}
	file, err := d.core.TakeFile(ctx, req.GetToken())
	if err != nil {
		return nil, verr.New(verr.Internal, "file to restore from did not arrive: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("look at saved guest: %w", err)
	}
	return d.start(ctx, req.GetStart(), &restore{
		file: file, copy: stream.Copy{Format: req.GetFormat(), Direct: req.GetBypassCache()}, tell: tell, size: info.Size(),
	})
}

// mark makes a start one that Recover knows for a restore.
func (r *restore) mark(s *start) error {
	s.cmd.Args = append(s.cmd.Args, "-incoming", "defer")
	// The balloon is as the state says.
	s.cmd.BalloonKiB = 0
	return s.life.folder.write(restoreName, nil)
}

// load has QEMU read the state.
func (r *restore) load(ctx context.Context, s *start) (*pb.Change, error) {
	ours, theirs, err := pipe(true)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	copied := move(ours, stop, func() error { return r.copy.Restore(ours, r.file) })
	err = s.guest.RestoreFrom(ctx, theirs, func(*guest.Migration) { r.look() })
	_ = theirs.Close() // QEMU has its own
	if err != nil {
		_ = ours.Close()
	}
	if err := r.verdict(ctx, s, err, await(ctx, copied, err == nil)); err != nil {
		return nil, err
	}
	r.look()
	return s.guest.Stay(ctx, s.req.GetPaused())
}

// look tells how much was read.
func (r *restore) look() {
	moved := r.copy.Moved()
	total := max(uint64(r.size), moved)
	r.tell(&pb.SaveProgress{TotalBytes: total, ProcessedBytes: moved, RemainingBytes: total - moved})
}

// verdict is the error of a load. QEMU's own words about a state that it cannot read are in its log.
func (r *restore) verdict(ctx context.Context, s *start, qemu, copied error) error {
	switch {
	case qemu == nil && (copied == nil || errors.Is(copied, os.ErrClosed)):
		return nil
	case errors.Is(copied, stream.ErrDirect):
		return verr.New(verr.ArgumentUnsupported, "%w", copied)
	case copied != nil && !errors.Is(copied, os.ErrClosed) && !errors.Is(copied, errStuck):
		return verr.New(verr.OperationFailed, "%w", copied)
	case ctx.Err() != nil:
		return fmt.Errorf("restore guest: %w", context.Cause(ctx))
	}
	select { // a QEMU that cannot read a state says why, and ends
	case <-s.process.Done():
	case <-time.After(lastWordsTime):
	case <-ctx.Done():
	}
	if words := process.Tail(s.log, s.said, maxWords); words != "" {
		return verr.New(verr.OperationFailed, "QEMU cannot read the saved state: %s", words)
	}
	return verr.New(verr.OperationFailed, "QEMU cannot read the saved state: %w", qemu)
}
