package domain

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/host/internal/saveimage"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Reasons and details of a guest that was restored, in libvirt's numbers.
const (
	runningRestored   = 3
	pausedUser        = 1
	pausedStartingUp  = 11
	eventStarted      = 2
	startedRestored   = 2
	suspendedPaused   = 0
	suspendedRestored = 4
)

// image is what a guest is started from.
type image struct {
	file   *saveimage.File
	intent catalog.Restoring
	bypass bool
}

// Restore starts a guest from a file that it was saved to; a definition other than "" takes the place of the one in the file. flags are
// virDomainSaveRestoreFlags. A domain that is not defined is transient then.
func (i *Inventory) Restore(ctx context.Context, path, xml string, flags uint32) error {
	if err := checkSaveFlags(flags); err != nil {
		return err
	}
	f, err := i.openImage(path, saveimage.Open)
	if err != nil {
		return err
	}
	defer f.Close()
	from, err := newImage(f, flags)
	if err != nil {
		return err
	}
	text := f.Header.XML
	if xml != "" {
		if text, err = i.likeSaved(ctx, text, xml); err != nil {
			return err
		}
	}
	rsp, id, err := i.validate(ctx, text, false)
	if err != nil {
		return err
	}
	j, err := i.claim(ctx, id, rsp.Summary.Name, "restore")
	if err != nil {
		return err
	}
	defer j.end()
	s := *j.d.state.Load()
	switch {
	case s.phase != catalog.Inactive:
		return verr.New(verr.OperationInvalid, "domain '%s' is already active", s.Name)
	case s.Saved:
		return savedElsewhere(s.Name)
	}
	s.hidden = false
	s.describe(rsp.Summary)
	if err := j.startFrom(&s, rsp.Xml, 0, from); err != nil {
		if j.d.state.Load().hidden {
			j.d.forget()
		}
		return err
	}
	return nil
}

// savedElsewhere refuses to start a guest from something else while its own state waits in the managed file: what runs would change the
// disks under that state.
func savedElsewhere(name string) error {
	return verr.New(verr.OperationInvalid, "domain '%s' has a managed save image: start it, or remove the image first (managedsave-remove)", name)
}

// newImage says how a guest is to be started from a file; flags are virDomainSaveRestoreFlags.
func newImage(f *saveimage.File, flags uint32) (*image, error) {
	if flags&saveBypassCache != 0 && !f.Aligned() {
		return nil, verr.New(verr.ArgumentUnsupported, "an image of libvirt's cannot be read past the page cache")
	}
	run := f.Header.Running
	if flags&(saveRunning|savePaused) != 0 {
		run = flags&saveRunning != 0
	}
	return &image{
		file: f, bypass: flags&saveBypassCache != 0, intent: catalog.Restoring{Run: run, Wish: flags&savePaused != 0},
	}, nil
}

// startManaged starts a domain from its managed save image; flags are virDomainCreateFlags.
func (j *job) startManaged(s *state, flags uint32) error {
	i := j.d.inv
	f, err := i.openImage(j.d.managedPath(), saveimage.Open)
	if err != nil {
		return verr.New(verr.From(err).Code, "%w; to boot the domain, force it (start --force-boot) or remove the image (managedsave-remove)", err)
	}
	defer f.Close()
	as := uint32(0)
	if flags&createPaused != 0 {
		as |= savePaused
	}
	if flags&createBypassCache != 0 {
		as |= saveBypassCache
	}
	from, err := newImage(f, as)
	if err != nil {
		return err
	}
	from.intent.Managed = true
	rsp, id, err := i.validate(j.ctx, f.Header.XML, false)
	if err != nil {
		return err
	}
	if id != j.d.uuid || rsp.Summary.Name != s.Name {
		return verr.New(verr.OperationFailed, "managed save image is of domain '%s' with uuid %s", rsp.Summary.Name, id)
	}
	s.describe(rsp.Summary)
	return j.startFrom(s, rsp.Xml, flags, from)
}

// restore has the driver bring the guest to life. The file may be read by more than one process of the driver, one after another.
func (j *job) restore(req *pb.StartRequest, from *image) (*pb.StartResponse, error) {
	file, err := from.file.Stream()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	ctx, cancel := context.WithCancelCause(j.ctx)
	defer cancel(nil)
	token, err := j.sendFile(ctx, file)
	if err != nil {
		return nil, err
	}
	w, done := j.d.beginWork(OperationRestore, nil)
	defer done(false)
	stream, err := pb.NewSaveServiceClient(j.d.inv.cfg.Plugin).Restore(ctx, &pb.RestoreRequest{
		Start: req, Token: token, Format: from.file.Header.Format, BypassCache: from.bypass,
	})
	if err != nil {
		return nil, err
	}
	var rsp *pb.StartResponse
	err = follow(ctx, cancel, w, stream, func(m *pb.RestoreResponse) bool {
		rsp = m.GetStarted()
		return rsp != nil
	})
	return rsp, err
}

// restored is the change by which a guest has come to life from a file, as clients see it.
func (s *state) restored() *pb.Change {
	c := &pb.Change{
		State: pb.State_STATE_PAUSED, Reason: pausedStartingUp, Events: []*pb.Event{lifecycle(eventStarted, startedRestored)},
	}
	if s.restoring.Run {
		return c // it is told that it runs when it does
	}
	c.Reason = pausedUser
	detail := int32(suspendedRestored)
	if s.restoring.Wish {
		detail = suspendedPaused
	}
	c.Events = append(c.Events, lifecycle(eventSuspended, detail))
	return c
}

// settleStart gives the managed file up if a guest has come to life without it, and reports whether it is to be removed once that is on
// disk: what has run has changed the disks.
func (j *job) settleStart(s *state) (dropped bool) {
	dropped = s.phase == catalog.Starting && s.Saved && s.restoring == nil
	s.Saved = s.Saved && !dropped
	s.restoring, s.resume = nil, false
	return dropped
}

// dropManaged removes the managed file, which the record does not know any more.
func (d *Domain) dropManaged() {
	if err := os.Remove(d.managedPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.inv.cfg.Log.Warn("managed save image could not be removed", "guest", d.View().Name, "error", err)
	}
}

// letRun resumes a guest that was restored, and forgets that it was to be.
func (j *job) letRun(s *state) error {
	i := j.d.inv
	if s.State != Paused {
		return j.forgetResume()
	}
	rsp, err := pb.NewLifecycleServiceClient(i.cfg.Plugin).Resume(j.ctx, &pb.ResumeRequest{
		Guest: s.guest(i.cfg.Connection), Handle: s.handle, Reason: runningRestored,
	})
	if err != nil {
		return err
	}
	if err := j.forgetResume(); err != nil {
		return err
	}
	return j.apply(rsp.GetChange(), "")
}

func (j *job) forgetResume() error {
	now := *j.d.state.Load()
	now.resume = false
	return j.save(&now, nil)
}

// run lets a guest run that was just restored. A driver that is lost meanwhile is asked what became of it.
func (j *job) run() error {
	s := j.d.state.Load()
	if s.phase != catalog.Active || !s.resume {
		return nil
	}
	err := j.letRun(s)
	if err == nil {
		return nil
	}
	name := s.Name
	if outcomeOf(err) == refused {
		err = errors.Join(err, j.forgetResume())
	} else if rerr := j.recover(j.d.inv.driver); rerr == nil && !j.d.state.Load().resume {
		return nil
	}
	return verr.New(verr.OperationFailed, "domain '%s' was restored and is paused: %w", name, err)
}

// behind reports whether something is left to be done for a guest that only a driver in service can do.
func (s *state) behind() bool {
	return s.phase != catalog.Inactive && (s.saving != nil || s.restoring != nil || s.resume)
}

// catchUp does what was left to do for a guest that lives when the core or its driver was lost: a save is given up, a restored guest is let
// run.
func (j *job) catchUp() error {
	s := *j.d.state.Load()
	if s.phase != catalog.Active {
		return nil
	}
	var err error
	switch {
	case s.saving != nil:
		err = j.giveUpSave(&s)
	case s.resume:
		err = j.letRun(&s)
	}
	if err != nil {
		now := *j.d.state.Load()
		j.doubt(&now, err)
	}
	return err
}

// newToken names a descriptor.
func newToken() []byte {
	token := make([]byte, 16)
	rand.Read(token) // never fails
	return token
}
