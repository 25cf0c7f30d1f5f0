package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/guest"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/stream"
	"github.com/lodgevirt/lodge/sdk/hypervisor"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

var _ hypervisor.Saver = (*Driver)(nil)

const (
	// goOnTime bounds letting a guest go on whose save has failed.
	goOnTime = 15 * time.Second
	// copyEndTime is how long a copy may go on that nobody wants any more.
	copyEndTime = 2 * time.Second
	// pipeSize is what a pipe holds where the kernel allows it, in bytes.
	pipeSize = 1 << 20
)

// saves keeps two saves of one guest apart, and lets AbortSave break into one.
type saves struct {
	mu  sync.Mutex // guards now
	now *save
}

// save is a save that is under way.
type save struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
}

// errGivenUp is why a save ends that AbortSave has broken into.
var errGivenUp = verr.New(verr.OperationAborted, "the save was given up")

// begin keeps a second save away until the function that it returns is called. The context ends when AbortSave breaks in.
func (s *saves) begin(ctx context.Context) (context.Context, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now != nil {
		return nil, nil, verr.New(verr.OperationInvalid, "domain is being saved")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	now := &save{cancel: cancel, done: make(chan struct{})}
	s.now = now
	return ctx, func() {
		cancel(nil)
		s.mu.Lock()
		s.now = nil
		s.mu.Unlock()
		close(now.done)
	}, nil
}

// end breaks into a save that is under way, and returns when it has ended.
func (s *saves) end(ctx context.Context) error {
	s.mu.Lock()
	now := s.now
	s.mu.Unlock()
	if now == nil {
		return nil
	}
	now.cancel(errGivenUp)
	select {
	case <-now.done:
		return nil
	case <-ctx.Done():
		return verr.New(verr.OperationTimeout, "save of the domain does not end: %w", ctx.Err())
	}
}

// Save implements hypervisor.Saver. QEMU writes into a pipe and this process from there into the file: so a disk that is full or slow is
// its matter and not QEMU's, and when it ends, QEMU's part of the save fails.
func (d *Driver) Save(ctx context.Context, req *pb.SaveRequest, tell func(*pb.SaveResponse) error) error {
	l, g, err := d.living(req.GetGuest())
	if err != nil {
		return err
	}
	config, err := d.config()
	if err == nil {
		err = checkFormat(config.SaveImageFormat)
	}
	if err != nil {
		return err
	}
	ctx, finish, err := l.saves.begin(ctx)
	if err != nil {
		return err
	}
	defer finish()
	file, err := d.core.TakeFile(ctx, req.GetToken())
	if err != nil {
		return verr.New(verr.Internal, "file to save to did not arrive: %w", err)
	}
	defer file.Close()
	stopped, ran, err := g.Stand(ctx)
	if err == nil {
		s := &saver{guest: g, tell: tell, copy: stream.Copy{Format: config.saveFormat(), Direct: req.GetBypassCache()}}
		err = s.run(ctx, stopped, file)
	}
	if err != nil {
		d.goOn(l, g, ran)
	}
	return err
}

// goOn lets a guest go on whose save has failed, and tells everybody.
func (d *Driver) goOn(l *life, g *guest.Guest, ran bool) {
	ctx, cancel := context.WithTimeout(context.Background(), goOnTime)
	defer cancel()
	change, err := g.GoOn(ctx, ran)
	if err != nil {
		l.log.Warn("guest does not go on after a save that failed", "error", err)
		return
	}
	if len(change.GetEvents()) > 0 {
		d.publish(l, change)
	}
}

// saver writes one guest's state.
type saver struct {
	guest *guest.Guest
	tell  func(*pb.SaveResponse) error
	copy  stream.Copy
}

func (s *saver) run(ctx context.Context, stopped *pb.Change, file *os.File) error {
	if err := s.tell(&pb.SaveResponse{Message: &pb.SaveResponse_Stopped{Stopped: stopped}}); err != nil {
		return fmt.Errorf("tell that the guest stands: %w", err)
	}
	if err := s.write(ctx, file); err != nil {
		return err
	}
	saved := &pb.Saved{Format: s.copy.Format}
	if err := s.tell(&pb.SaveResponse{Message: &pb.SaveResponse_Saved{Saved: saved}}); err != nil {
		return fmt.Errorf("tell that the guest is saved: %w", err)
	}
	return nil
}

// write has QEMU write and copies what it writes. It returns when the file is synced, and not before the copy has ended.
func (s *saver) write(ctx context.Context, file *os.File) error {
	ours, theirs, err := pipe(false)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	copied := move(ours, stop, func() error { return s.copy.Save(file, ours) })
	err = s.guest.SaveTo(ctx, theirs, s.look)
	_ = theirs.Close() // QEMU has its own
	if err != nil {
		// QEMU may still have the pipe open: end the copy from this side.
		_ = ours.Close()
	}
	return verdict(ctx, err, await(ctx, copied, err == nil))
}

// move runs a copy. When it has ended, so does QEMU's part.
func move(ours *os.File, stop context.CancelCauseFunc, run func() error) <-chan error {
	copied := make(chan error, 1)
	go func() {
		err := run()
		_ = ours.Close() // QEMU must not wait for a copy that has given up
		if err != nil {
			stop(err)
		}
		copied <- err
	}()
	return copied
}

// await returns how a copy has ended. Once nobody wants it any more, it is waited for only so long: a disk that is stuck must not keep the
// guest. Its goroutine then ends with the disk.
func await(ctx context.Context, copied <-chan error, wanted bool) error {
	if wanted {
		select {
		case err := <-copied:
			return err
		case <-ctx.Done():
		}
	}
	select {
	case err := <-copied:
		return err
	case <-time.After(copyEndTime):
		return errStuck
	}
}

// errStuck is a copy that does not end.
var errStuck = errors.New("reading or writing the file does not end")

// look tells how far QEMU is.
func (s *saver) look(m *guest.Migration) {
	progress := &pb.SaveProgress{
		TotalBytes: m.RAM.Total, ProcessedBytes: max(m.RAM.Transferred, s.copy.Moved()), RemainingBytes: m.RAM.Remaining,
	}
	// A caller that has gone is noticed by the context.
	_ = s.tell(&pb.SaveResponse{Message: &pb.SaveResponse_Progress{Progress: progress}})
}

// verdict is the error of a move of which QEMU and the copy say each its own: a disk that is full counts more than a pipe that broke
// because of it.
func verdict(ctx context.Context, qemu, copied error) error {
	switch {
	case errors.Is(context.Cause(ctx), errGivenUp):
		return errGivenUp
	case errors.Is(copied, stream.ErrDirect):
		return verr.New(verr.ArgumentUnsupported, "%w", copied)
	case copied != nil && !errors.Is(copied, os.ErrClosed) && !errors.Is(copied, errStuck):
		return verr.New(verr.OperationFailed, "%w", copied)
	case qemu != nil:
		return qemu
	case copied != nil:
		return verr.New(verr.OperationFailed, "%w", errors.Join(context.Cause(ctx), copied))
	}
	return nil
}

// pipe makes a pipe, and returns our end of it and QEMU's. A read or write of ours ends when our end is closed.
func pipe(weWrite bool) (ours, theirs *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("make pipe for the state of a guest: %w", err)
	}
	if weWrite {
		fds[0], fds[1] = fds[1], fds[0]
	}
	// A smaller pipe does as well.
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize)
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make pipe for the state of a guest: %w", err), unix.Close(fds[0]), unix.Close(fds[1]))
	}
	return os.NewFile(uintptr(fds[0]), "state"), os.NewFile(uintptr(fds[1]), "state for qemu"), nil
}

// AbortSave implements hypervisor.Saver.
func (d *Driver) AbortSave(ctx context.Context, req *pb.AbortSaveRequest) (*pb.AbortSaveResponse, error) {
	l, g, err := d.living(req.GetGuest())
	if err != nil {
		return nil, err
	}
	if err := l.saves.end(ctx); err != nil {
		return nil, err
	}
	change, err := g.GoOn(ctx, req.GetRunning())
	if err != nil {
		return nil, err
	}
	return &pb.AbortSaveResponse{Change: change}, nil
}

// checkFormat refuses a format that cannot be written.
func checkFormat(format string) error {
	if format == "" || stream.Known(format) {
		return nil
	}
	return verr.New(verr.ConfigUnsupported, "save_image_format is %q, and can be one of %s", format, strings.Join(stream.Formats(), ", "))
}

// saveFormat is the format that guests are saved in.
func (c Config) saveFormat() string {
	if c.SaveImageFormat == "" {
		return stream.Raw
	}
	return c.SaveImageFormat
}
