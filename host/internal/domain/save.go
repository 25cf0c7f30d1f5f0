package domain

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/host/internal/saveimage"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Bits of virDomainSaveRestoreFlags.
const (
	saveBypassCache = 1 << 0
	saveRunning     = 1 << 1
	savePaused      = 1 << 2
	saveResetNVRAM  = 1 << 3
)

// States, reasons and events of a guest that is saved, in libvirt's numbers.
const (
	pausedSave   = 3
	shutOffSaved = 5
	stoppedSaved = 4
)

// Save writes the state of a guest into a file and ends the guest; a definition other than "" is the one that the guest is to be restored
// with. flags are virDomainSaveRestoreFlags. When Save fails, the guest goes on as it was, and there is no file.
func (d *Domain) Save(ctx context.Context, path, xml string, flags uint32) error {
	if err := checkSaveFlags(flags); err != nil {
		return err
	}
	target, err := saveTarget(path)
	if err != nil {
		return err
	}
	return d.save(ctx, &saveOrder{path: target, xml: xml, flags: flags})
}

// ManagedSave is Save to a file of the core's, from which the next start goes on.
func (d *Domain) ManagedSave(ctx context.Context, xml string, flags uint32) error {
	if err := checkSaveFlags(flags); err != nil {
		return err
	}
	return d.save(ctx, &saveOrder{path: d.managedPath(), managed: true, xml: xml, flags: flags})
}

// checkSaveFlags refuses what makes no sense, and what cannot be done by name.
func checkSaveFlags(flags uint32) error {
	switch {
	case flags&^(saveBypassCache|saveRunning|savePaused|saveResetNVRAM) != 0:
		return unknownFlags(flags &^ (saveBypassCache | saveRunning | savePaused | saveResetNVRAM))
	case flags&saveRunning != 0 && flags&savePaused != 0:
		return verr.New(verr.InvalidArg, "running and paused exclude each other")
	case flags&saveResetNVRAM != 0:
		return verr.New(verr.ArgumentUnsupported, "resetting NVRAM is not supported")
	}
	return nil
}

// saveOrder is what to save to and how.
type saveOrder struct {
	path    string
	managed bool
	xml     string
	flags   uint32
}

// runs says whether the guest is to run when it is restored.
func (o *saveOrder) runs(now State) bool {
	if o.flags&(saveRunning|savePaused) != 0 {
		return o.flags&saveRunning != 0
	}
	return now == Running
}

func (d *Domain) save(ctx context.Context, o *saveOrder) error {
	j, err := d.begin(ctx, "save")
	if err != nil {
		return err
	}
	defer j.end()
	now, err := j.living(d.inv.driver)
	if err != nil {
		return err
	}
	s := *now
	if o.managed {
		if !s.Persistent {
			return verr.New(verr.OperationInvalid, "cannot do managed save for transient domain")
		}
		if err := os.MkdirAll(d.inv.cfg.SaveDir, 0o700); err != nil {
			return systemError(err, "create", d.inv.cfg.SaveDir)
		}
	}
	xml, err := j.savedDefinition(&s, o.xml)
	if err != nil {
		return err
	}
	return j.saveGuest(&s, o, xml)
}

// savedDefinition is the definition that a restore starts the guest with: that of the living guest, as it would be defined.
func (j *job) savedDefinition(s *state, wanted string) (string, error) {
	live, err := j.d.text(s, true)
	if err != nil {
		return "", err
	}
	rsp, _, err := j.d.inv.validate(j.ctx, live, false)
	if err != nil || wanted == "" {
		return rsp.GetXml(), err
	}
	return j.d.inv.likeSaved(j.ctx, rsp.Xml, wanted)
}

// likeSaved completes a definition that is to take the place of a saved one.
func (i *Inventory) likeSaved(ctx context.Context, saved, wanted string) (string, error) {
	rsp, _, err := i.validate(ctx, wanted, false)
	if err != nil {
		return "", err
	}
	return rsp.Xml, domxml.CheckStable(saved, rsp.Xml)
}

// saveGuest writes the intent down, has the file written, and ends the guest when the file has its name. Until that moment the guest can go
// on, from that moment it is never let go on.
func (j *job) saveGuest(s *state, o *saveOrder, xml string) error {
	s.saving = newSaving(o.path, o.managed, s.State == Running)
	if err := j.save(s, nil); err != nil {
		return err
	}
	f, err := saveimage.Create(s.saving.Part, &saveimage.Header{
		ID: s.saving.ID, Driver: j.d.inv.cfg.Driver, Running: o.runs(s.State), Saved: time.Now(), XML: xml,
	})
	if err != nil {
		return errors.Join(systemError(err, "create", o.path), j.forgetSave(s))
	}
	defer f.Close()
	ctx, cancel := context.WithCancelCause(j.ctx)
	defer cancel(nil)
	w, done := j.d.beginWork(OperationSave, cancel)
	err = j.writeImage(ctx, cancel, w, f, o.flags&saveBypassCache != 0)
	done(err == nil)
	now := *j.d.state.Load()
	if err != nil {
		return errors.Join(j.explainSave(&now, err), j.abandonSave(&now))
	}
	j.d.inv.publish(now.View, jobCompleted(j.d.LastJob(true)))
	return j.endSaved(&now)
}

// explainSave says why a save has failed, in words for the client.
func (j *job) explainSave(s *state, err error) error {
	switch cause := context.Cause(j.ctx); {
	case errors.Is(cause, errDestroyed):
		return verr.New(verr.OperationAborted, "save of domain '%s': %w", s.Name, cause)
	case outcomeOf(err) == orphaned:
		return verr.New(verr.OperationFailed, "save of domain '%s': its driver ended in the middle: %w", s.Name, err)
	}
	if e := verr.From(err); e.Code == verr.OperationFailed {
		return verr.New(e.Code, "domain '%s' cannot be saved to '%s': %w", s.Name, s.saving.Path, e)
	}
	return err
}

// writeImage has the driver write the state, completes the file and gives it its name.
func (j *job) writeImage(ctx context.Context, cancel context.CancelCauseFunc, w *work, f *saveimage.File, bypass bool) error {
	s := j.d.state.Load().saving
	format, err := j.writeState(ctx, cancel, w, f.Writer(), bypass)
	if err != nil {
		return err
	}
	if err := bounded(ctx, noProgress, func() error { return f.Finish(format) }); err != nil {
		return verr.New(verr.OperationFailed, "cannot complete '%s': %w", s.Path, err)
	}
	if err := os.Rename(s.Part, s.Path); err != nil {
		return systemError(err, "create", s.Path)
	}
	if err := bounded(context.WithoutCancel(ctx), noProgress, func() error { return syncFolder(filepath.Dir(s.Path)) }); err != nil {
		j.d.inv.cfg.Log.Warn("name of a saved guest may not survive a loss of power", "guest", j.d.View().Name, "error", err)
	}
	return nil
}

// writeState has the driver write the guest's state into a file, and returns the format.
func (j *job) writeState(ctx context.Context, cancel context.CancelCauseFunc, w *work, file *os.File, bypass bool) (format string, err error) {
	i, s := j.d.inv, j.d.state.Load()
	token, err := j.sendFile(ctx, file)
	if err != nil {
		return "", err
	}
	stream, err := pb.NewSaveServiceClient(i.cfg.Plugin).Save(ctx, &pb.SaveRequest{
		Guest: s.guest(i.cfg.Connection), Handle: s.handle, Token: token, BypassCache: bypass,
	})
	if err != nil {
		return "", err
	}
	var applied error
	err = follow(ctx, cancel, w, stream, func(m *pb.SaveResponse) bool {
		if c := m.GetStopped(); c != nil && len(c.GetEvents()) > 0 {
			applied = j.apply(c, "")
		}
		format = m.GetSaved().GetFormat()
		return m.GetSaved() != nil
	})
	return format, errors.Join(err, applied)
}

// sendFile hands the driver a descriptor, and returns the token to name it by.
func (j *job) sendFile(ctx context.Context, file *os.File) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, handWait)
	defer cancel()
	token := newToken()
	if err := j.d.inv.cfg.Files.SendFile(ctx, token, file); err != nil {
		return nil, fmt.Errorf("hand file to driver: %w", err)
	}
	return token, nil
}

// endSaved ends a guest whose file has its name.
func (j *job) endSaved(s *state) error {
	ctx, cancel := detached(j.ctx)
	defer cancel()
	rsp, err := j.d.inv.driver.Stop(ctx, &pb.StopRequest{Guest: s.guest(j.d.inv.cfg.Connection), Handle: s.handle})
	if err == nil && !ended(rsp.GetChange().GetState()) {
		err = verr.New(verr.OperationFailed, "driver %s says that it has not", j.d.inv.cfg.Driver)
	}
	if err != nil {
		j.doubt(s, err)
		return verr.New(verr.OperationFailed, "domain '%s' is saved to '%s' and has not ended yet: %w", s.Name, s.saving.Path, err)
	}
	return j.finish(s, saved())
}

// saved is the end of a guest whose state is in a file.
func saved() *pb.Change {
	return &pb.Change{
		State: pb.State_STATE_SHUTOFF, Reason: shutOffSaved, Events: []*pb.Event{lifecycle(eventStopped, stoppedSaved)},
	}
}

// abandonSave lets a guest go on whose save has failed, and removes what there is of the file. A guest of which that is not certain stays in
// doubt, with its intent, and is asked for again.
func (j *job) abandonSave(s *state) error {
	err := j.giveUpSave(s)
	switch {
	case err == nil:
		return nil
	case verr.From(err).Code == verr.NoSupport && outcomeOf(err) == refused: // so nothing has happened
		return j.forgetSave(s)
	case errors.Is(context.Cause(j.ctx), errDestroyed): // whoever does it settles the save, too
		return nil
	}
	return j.recover(j.d.inv.driver)
}

// giveUpSave has the driver let the guest go on.
func (j *job) giveUpSave(s *state) error {
	ctx, cancel := detached(j.ctx)
	defer cancel()
	i := j.d.inv
	rsp, err := pb.NewSaveServiceClient(i.cfg.Plugin).AbortSave(ctx, &pb.AbortSaveRequest{
		Guest: s.guest(i.cfg.Connection), Handle: s.handle, Running: s.saving.Ran,
	})
	if err != nil {
		return err
	}
	if err := j.forgetSave(s); err != nil {
		return err
	}
	return j.apply(rsp.GetChange(), "")
}

// forgetSave ends the intent to save.
func (j *job) forgetSave(s *state) error {
	j.dropPart(s.saving)
	now := *s
	now.saving = nil
	return j.save(&now, nil)
}

// dropPart removes a file that was not completed.
func (j *job) dropPart(s *catalog.Saving) {
	if err := os.Remove(s.Part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		j.d.inv.cfg.Log.Warn("unfinished save image could not be removed", "guest", j.d.View().Name, "path", s.Part, "error", err)
	}
}

// settleSave says how a guest has ended of which a save was under way: it is saved if the file has its name, whatever ended it after that.
func (j *job) settleSave(s *state, c *pb.Change) *pb.Change {
	if s.saving == nil {
		return c
	}
	done, err := isSaved(s.saving)
	switch {
	case err != nil:
		j.d.inv.cfg.Log.Error("whether an ended guest was saved is not known", "guest", s.Name, "path", s.saving.Path, "error", err)
	case done:
		s.Saved = s.Saved || s.saving.Managed
		c = saved()
	default:
		j.dropPart(s.saving)
	}
	s.saving = nil
	return c
}

// jobCompleted is the event about a save that has come to its end.
func jobCompleted(info JobInfo) *pb.Event {
	return &pb.Event{Event: &pb.Event_JobCompleted{JobCompleted: &pb.JobCompletedEvent{
		Operation: info.Operation, ElapsedMs: uint64(info.Elapsed.Milliseconds()),
		TotalBytes: info.Total, ProcessedBytes: info.Processed,
	}}}
}

// bounded waits for something that the disk may keep for ever, at most for a time. What is not waited for any longer ends with the disk.
func bounded(ctx context.Context, limit time.Duration, do func() error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errStill)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// syncFolder makes the names in a folder durable.
func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
