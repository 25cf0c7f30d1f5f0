package conformance

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// runningRestored and pausedStartingUp are reasons of virDomainRunningReason and virDomainPausedReason.
const (
	runningRestored  = 3
	pausedStartingUp = 11
)

// streamOffset is where the core lets a guest's state begin in a file.
const streamOffset = 4096

func (b *bench) saver() pb.SaveServiceClient { return pb.NewSaveServiceClient(b.host.Conn) }

// stateFile makes a file for a guest's state, at the place where the core lets it begin.
func (b *bench) stateFile() *os.File {
	b.Helper()
	file, err := os.Create(filepath.Join(b.TempDir(), "state"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = file.Close() })
	if _, err := file.Seek(streamOffset, io.SeekStart); err != nil {
		b.Fatal(err)
	}
	return file
}

// openSave begins to save a guest to a file, and returns when the guest stands.
func (b *bench) openSave(ctx context.Context, g *guest, file *os.File) (saveStream, error) {
	b.Helper()
	stream, err := b.saver().Save(ctx, &pb.SaveRequest{Guest: g.Guest, Handle: g.handle, Token: b.host.SendFile(b.T, file)})
	if err != nil {
		return nil, err
	}
	first, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	if first.GetStopped() == nil {
		return nil, errors.New("the first message of a save is not stopped")
	}
	return stream, nil
}

// saveStream is what a save tells.
type saveStream interface {
	Recv() (*pb.SaveResponse, error)
}

// finishSave waits for the end of a save, and returns the format that it was written in.
func finishSave(stream saveStream) (string, error) {
	format, saved := "", false
	for {
		rsp, err := stream.Recv()
		if errors.Is(err, io.EOF) && saved {
			return format, nil
		}
		if err != nil {
			return "", err
		}
		if saved {
			return "", errors.New("a save goes on after its last message")
		}
		if s := rsp.GetSaved(); s != nil {
			format, saved = s.GetFormat(), true
		}
	}
}

// save saves a guest, which must succeed. It stands then.
func (b *bench) save(g *guest, file *os.File) (format string) {
	b.Helper()
	stream, err := b.openSave(b.ctx(), g, file)
	if err == nil {
		format, err = finishSave(stream)
	}
	if err != nil {
		b.Fatalf("save guest %q: %v", g.Name, err)
	}
	if info, err := file.Stat(); err != nil || info.Size() <= streamOffset {
		b.Errorf("the file of the saved guest %q is empty: %v", g.Name, err)
	}
	b.wantState(g, pb.State_STATE_PAUSED)
	return format
}

// restore starts a new life of a guest from a file.
func (b *bench) restore(g *guest, path, format string) error {
	b.Helper()
	file, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if _, err := file.Seek(streamOffset, io.SeekStart); err != nil {
		b.Fatal(err)
	}
	g.Generation++
	g.handle = nil
	stream, err := b.saver().Restore(b.ctx(), &pb.RestoreRequest{
		Start: b.startRequest(g), Token: b.host.SendFile(b.T, file), Format: format,
	})
	if err != nil {
		return err
	}
	for {
		rsp, err := stream.Recv()
		if err != nil {
			return err
		}
		if s := rsp.GetStarted(); s != nil {
			g.handle = s.GetHandle()
			if c := s.GetChange(); c.GetState() != pb.State_STATE_PAUSED || c.GetReason() != pausedStartingUp {
				b.Errorf("a restored guest is %v, want paused because it is starting up", c)
			}
			return nil
		}
	}
}

// letGo lets a restored guest run.
func (b *bench) letGo(g *guest) {
	b.Helper()
	rsp, err := b.lifecycle().Resume(b.ctx(), &pb.ResumeRequest{Guest: g.Guest, Handle: g.handle, Reason: runningRestored})
	if err != nil {
		b.Fatalf("resume restored guest: %v", err)
	}
	if c := rsp.GetChange(); c.GetState() != pb.State_STATE_RUNNING || c.GetReason() != runningRestored || !tells(c, eventResumed) {
		b.Errorf("change %v does not tell that the guest runs because it was restored", c)
	}
}

// abortSave gives a save up.
func (b *bench) abortSave(g *guest, running bool) *pb.Change {
	b.Helper()
	rsp, err := b.saver().AbortSave(b.ctx(), &pb.AbortSaveRequest{Guest: g.Guest, Handle: g.handle, Running: running})
	if err != nil {
		b.Fatalf("abort save of guest %q: %v", g.Name, err)
	}
	return rsp.GetChange()
}

func savedGuestIsRestored(b *bench) {
	b.need("SaveService")
	g := b.started("conformance")
	file := b.stateFile()
	format := b.save(g, file)
	b.stop(g)
	for range 2 { // a state may be restored more than once
		if err := b.restore(g, file.Name(), format); err != nil {
			b.Fatalf("restore: %v", err)
		}
		b.wantState(g, pb.State_STATE_PAUSED)
		b.letGo(g)
		b.wantState(g, pb.State_STATE_RUNNING)
		b.stop(g)
	}
}

func givenUpSaveLetsTheGuestGoOn(b *bench) {
	b.need("SaveService")
	g := b.started("conformance")
	if c := b.abortSave(g, true); c.GetState() != pb.State_STATE_RUNNING || len(c.GetEvents()) != 0 {
		b.Errorf("with no save to give up, the change is %v", c)
	}
	b.save(g, b.stateFile())
	if c := b.abortSave(g, true); c.GetState() != pb.State_STATE_RUNNING || !tells(c, eventResumed) {
		b.Errorf("a complete save is given up: change %v does not tell that the guest runs again", c)
	}
	b.wantState(g, pb.State_STATE_RUNNING)
	b.suspend(g)
	b.save(g, b.stateFile())
	b.abortSave(g, false)
	b.wantState(g, pb.State_STATE_PAUSED)
	b.resume(g)
	b.stop(g)
	_, err := b.saver().AbortSave(b.ctx(), &pb.AbortSaveRequest{Guest: g.Guest, Handle: g.handle, Running: true})
	b.wantCode("abort save of a guest that is gone", err, verr.OperationInvalid)
}

// saveOfALostCallerIsGivenUp ends the caller when the guest stands, or after that; whoever was faster, the guest goes on.
func saveOfALostCallerIsGivenUp(b *bench) {
	b.need("SaveService")
	g := b.started("conformance")
	ctx, cancel := context.WithCancel(b.ctx())
	stream, err := b.openSave(ctx, g, b.stateFile())
	if err != nil {
		b.Fatalf("save: %v", err)
	}
	cancel()
	for err == nil {
		_, err = stream.Recv()
	}
	b.abortSave(g, true)
	b.wantState(g, pb.State_STATE_RUNNING)
	b.save(g, b.stateFile())
}

func saveThatFailsLetsTheGuestGoOn(b *bench) {
	b.need("SaveService")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		b.Skipf("nothing that is always full: %v", err)
	}
	defer func() { _ = full.Close() }()
	g := b.started("conformance")
	stream, err := b.openSave(b.ctx(), g, full)
	if err == nil {
		_, err = finishSave(stream)
	}
	b.wantCode("save to a full disk", err, verr.OperationFailed)
	b.wantState(g, pb.State_STATE_RUNNING)
	b.save(g, b.stateFile())
}

func standingGuestSurvivesARestart(b *bench) {
	b.need("SaveService")
	var g *guest
	var format string
	file := b.stateFile()
	b.restarted(
		func() {
			g = b.started("conformance")
			format = b.save(g, file)
		},
		func() {
			b.wantRunning("a saved guest that stands", g, g.handle, pb.State_STATE_PAUSED)
			b.abortSave(g, true)
			b.wantState(g, pb.State_STATE_RUNNING)
			format = b.save(g, b.stateFile())
			b.stop(g)
			if err := b.restore(g, file.Name(), format); err != nil {
				b.Errorf("restore: %v", err)
			}
			b.wantRunning("a restored guest whose start was lost", g, nil, pb.State_STATE_PAUSED)
		})
}

func badStateIsRefused(b *bench) {
	b.need("SaveService")
	g := b.started("conformance")
	file := b.stateFile()
	format := b.save(g, file)
	info, err := file.Stat()
	if err != nil {
		b.Fatal(err)
	}
	b.stop(g)
	b.wantCode("a format that nobody knows", b.restore(g, file.Name(), "unheard-of"), verr.ConfigUnsupported)
	if err := file.Truncate(streamOffset + (info.Size()-streamOffset)/2); err != nil {
		b.Fatal(err)
	}
	b.wantCode("half of a state", b.restore(g, file.Name(), format), verr.OperationFailed)
	if v := b.recover(g, nil).GetVerdict(); v != pb.Verdict_VERDICT_NOT_STARTED {
		b.Errorf("after a restore that failed: verdict %v, want not started", v)
	}
	b.start(g) // nothing of it is left
}
