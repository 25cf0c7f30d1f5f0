package driver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/lodgevirt/lodge/plugins/test/internal/fault"
	"github.com/lodgevirt/lodge/plugins/test/internal/record"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// saveFormat is the only one: a savedGuest as JSON.
	saveFormat = "record"
	// maxSaved bounds a saved guest that is read, in bytes.
	maxSaved = 2 << 20
)

// savedGuest is what there is to a guest whose state is in a file.
type savedGuest struct {
	Record record.Record `json:"record"`
	// Age is the time from its start to the save.
	Age time.Duration `json:"age"`
}

// saving is a save that is under way.
type saving struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
}

// errGivenUp is why a save ends that AbortSave has broken into.
var errGivenUp = verr.New(verr.OperationAborted, "the save was given up")

// Save writes the guest's record. A guest that ran stands from then on, and goes on if the save fails. Bypassing the page cache means
// nothing to a guest of this size.
func (d *Driver) Save(ctx context.Context, req *pb.SaveRequest, tell func(*pb.SaveResponse) error) error {
	g, err := d.find(req.GetGuest())
	if err != nil {
		return err
	}
	ctx, finish, err := g.beginSave(ctx)
	if err != nil {
		return err
	}
	defer finish()
	if err := d.pass(ctx, g, "save"); err != nil {
		return err
	}
	file, err := d.core.TakeFile(ctx, req.GetToken())
	if err != nil {
		return verr.New(verr.OperationFailed, "take file to save to: %w", reason(ctx, err))
	}
	defer func() { _ = file.Close() }()
	ran := g.snapshot().State == pb.State_STATE_RUNNING
	if err := d.save(ctx, g, file, tell); err != nil {
		d.goOn(g, ran)
		return err
	}
	return nil
}

// beginSave keeps a second save of the guest away. The context that it returns ends when AbortSave breaks in.
func (g *guest) beginSave(ctx context.Context) (context.Context, func(), error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.saving != nil {
		return nil, nil, verr.New(verr.OperationInvalid, "domain '%s' is being saved", g.identity.GetName())
	}
	ctx, cancel := context.WithCancelCause(ctx)
	s := &saving{cancel: cancel, done: make(chan struct{})}
	g.saving = s
	return ctx, func() {
		cancel(nil)
		g.mu.Lock()
		g.saving = nil
		g.mu.Unlock()
		close(s.done)
	}, nil
}

// save stops the guest and writes it.
func (d *Driver) save(ctx context.Context, g *guest, file io.Writer, tell func(*pb.SaveResponse) error) error {
	r := g.snapshot()
	stopped, err := d.stand(g, &r)
	if err != nil {
		return err
	}
	if err := tell(&pb.SaveResponse{Message: &pb.SaveResponse_Stopped{Stopped: stopped}}); err != nil {
		return err
	}
	text, err := json.Marshal(savedGuest{Record: r, Age: time.Since(r.Started)})
	if err != nil {
		return fmt.Errorf("save guest %q: %w", r.Name, err)
	}
	half := len(text) / 2
	for from, to := 0, half; from < len(text); from, to = to, len(text) {
		if _, err := file.Write(text[from:to]); err != nil {
			return verr.New(verr.OperationFailed, "save domain '%s': %w", r.Name, err)
		}
		progress := &pb.SaveProgress{
			TotalBytes: uint64(len(text)), ProcessedBytes: uint64(to), RemainingBytes: uint64(len(text) - to),
		}
		if err := tell(&pb.SaveResponse{Message: &pb.SaveResponse_Progress{Progress: progress}}); err != nil {
			return err
		}
		if to == half {
			if err := d.pass(ctx, g, "save.write"); err != nil {
				return err
			}
		}
	}
	if err := d.pass(ctx, g, "save.done"); err != nil {
		return err
	}
	return tell(&pb.SaveResponse{Message: &pb.SaveResponse_Saved{Saved: &pb.Saved{Format: saveFormat}}})
}

// stand stops a guest that runs.
func (d *Driver) stand(g *guest, r *record.Record) (*pb.Change, error) {
	if r.State == pb.State_STATE_RUNNING {
		return d.become(g, r, pb.State_STATE_PAUSED, pausedBySave, lifecycle(eventSuspended, suspendedPaused))
	}
	return &pb.Change{State: r.State, Reason: r.Reason}, nil
}

// goOn lets a guest run again whose save has failed, and tells everybody.
func (d *Driver) goOn(g *guest, ran bool) {
	change, err := d.endSave(g, ran)
	if err != nil {
		d.log.Warn("guest does not go on after a save that failed", "guest", g.identity.GetName(), "error", err)
		return
	}
	if len(change.GetEvents()) > 0 {
		d.core.Publish(&pb.WatchEvent{Guest: g.identity, Change: change})
	}
}

// endSave makes a guest that a save has stopped run again.
func (d *Driver) endSave(g *guest, ran bool) (*pb.Change, error) {
	r := g.snapshot()
	if !ran || r.State != pb.State_STATE_PAUSED {
		return &pb.Change{State: r.State, Reason: r.Reason}, nil
	}
	return d.become(g, &r, pb.State_STATE_RUNNING, runningSaveCancelled, lifecycle(eventResumed, resumedUnpaused))
}

// AbortSave ends a save that is under way, and lets the guest go on.
func (d *Driver) AbortSave(ctx context.Context, req *pb.AbortSaveRequest) (*pb.AbortSaveResponse, error) {
	g, err := d.find(req.GetGuest())
	if err != nil {
		return nil, err
	}
	if err := d.pass(ctx, g, "abort-save"); err != nil {
		return nil, err
	}
	if err := g.giveUpSave(ctx); err != nil {
		return nil, err
	}
	change, err := d.endSave(g, req.GetRunning())
	return &pb.AbortSaveResponse{Change: change}, err
}

// giveUpSave breaks into a save that is under way, and returns when it has ended.
func (g *guest) giveUpSave(ctx context.Context) error {
	g.mu.Lock()
	s := g.saving
	g.mu.Unlock()
	if s == nil {
		return nil
	}
	s.cancel(errGivenUp)
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return verr.New(verr.OperationTimeout, "save of the domain does not end: %w", ctx.Err())
	}
}

// Restore starts a guest with the record that was saved.
func (d *Driver) Restore(ctx context.Context, req *pb.RestoreRequest, tell func(*pb.SaveProgress)) (*pb.StartResponse, error) {
	if req.GetFormat() != saveFormat {
		return nil, verr.New(verr.ConfigUnsupported, "format '%s' of a saved domain is not known", req.GetFormat())
	}
	file, err := d.core.TakeFile(ctx, req.GetToken())
	if err != nil {
		return nil, verr.New(verr.OperationFailed, "take file to restore from: %w", reason(ctx, err))
	}
	defer func() { _ = file.Close() }()
	rsp, r, err := d.bringUp(ctx, req.GetStart(), "restore", func(r *record.Record) error {
		size, err := readSaved(file, r, req.GetStart().GetPaused())
		tell(&pb.SaveProgress{TotalBytes: size, ProcessedBytes: size})
		return err
	})
	if err != nil {
		return nil, err
	}
	rsp.Change = &pb.Change{State: r.State, Reason: r.Reason}
	return rsp, nil
}

// readSaved makes a new record go on where a saved one stood, and returns how much was read.
func readSaved(file *os.File, r *record.Record, paused bool) (uint64, error) {
	text, err := io.ReadAll(io.LimitReader(file, maxSaved+1))
	if err != nil {
		return 0, verr.New(verr.OperationFailed, "read saved domain '%s': %w", r.Name, err)
	}
	var saved savedGuest
	if err := json.Unmarshal(text, &saved); err != nil || len(text) > maxSaved {
		return 0, verr.New(verr.OperationFailed, "%d bytes are no saved domain '%s': %w", len(text), r.Name, err)
	}
	if saved.Record.UUID != r.UUID {
		return 0, verr.New(verr.OperationFailed, "what was saved is domain %s, not %s", saved.Record.UUID, r.UUID)
	}
	r.Started = r.Started.Add(-saved.Age)
	r.Ran, r.RunningSince = saved.Record.Ran, time.Time{}
	r.Acts = slices.DeleteFunc(r.Acts, func(a fault.Act) bool { return time.Duration(a.After)*time.Millisecond <= saved.Age })
	r.State, r.Reason = pb.State_STATE_PAUSED, pausedStartingUp
	if paused {
		r.Reason = pausedByUser
	}
	return uint64(len(text)), nil
}
