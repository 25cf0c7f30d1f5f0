package domain

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// recoverers is how many guests are asked for at once.
const recoverers = 16

// Recover asks a driver process that has just become ready, through a connection of its own, what became of every guest that should
// live. A guest with a job under way is recovered right after that job, which may itself be waiting for the driver, and one that was being
// saved or restored as soon as the driver is in service. The first error is returned when all were asked; the guests concerned are marked unknown.
func (i *Inventory) Recover(ctx context.Context, driver pb.DriverServiceClient) error {
	var g errgroup.Group
	g.SetLimit(recoverers)
	for _, d := range i.all() {
		if d.state.Load().phase == catalog.Inactive {
			continue
		}
		g.Go(func() error {
			if d.state.Load().behind() { // which takes more than this connection
				d.postpone()
				return nil
			}
			j, free := d.try(ctx, "recover")
			if !free {
				d.postpone()
				return nil
			}
			defer j.end()
			return j.recover(driver)
		})
	}
	return g.Wait()
}

// postpone has the guest recovered by whoever empties its inbox, when the job under way has ended.
func (d *Domain) postpone() {
	d.mu.Lock()
	d.overdue = true
	idle := !d.busy
	d.busy = true
	d.mu.Unlock()
	if idle {
		go d.drain()
	}
}

// Mend asks again for guests whose state is not known, so that nobody has to do anything by hand once the driver can tell. A guest with
// a job under way is left alone.
func (i *Inventory) Mend(ctx context.Context) {
	for _, d := range i.all() {
		if !d.state.Load().Unknown {
			continue
		}
		j, free := d.try(ctx, "recover")
		if !free {
			continue
		}
		if err := j.recover(i.driver); err != nil {
			i.cfg.Log.Debug("state of guest is still not known", "error", err)
		}
		j.end()
	}
}

// recover asks the driver what became of the guest, and makes the answer true. In doubt the guest is marked unknown.
func (j *job) recover(driver pb.DriverServiceClient) error {
	d := j.d
	s := *d.state.Load()
	if s.phase == catalog.Inactive {
		return nil
	}
	if s.saving != nil {
		done, err := isSaved(s.saving)
		if err != nil {
			j.doubt(&s, err)
			return fmt.Errorf("recover guest %q, which was being saved: %w", s.Name, err)
		}
		if done {
			return j.endSaved(&s)
		}
	}
	incarnation := d.inv.cfg.Incarnation()
	req := d.recoverRequest(&s)
	rsp, err := driver.Recover(j.ctx, req)
	if err != nil {
		j.doubt(&s, err)
		return fmt.Errorf("recover guest %q: %w", s.Name, err)
	}
	d.recovered = incarnation
	d.inv.cfg.Log.Debug("driver was asked for guest", "guest", s.Name, "gen", s.Generation, "phase", s.phase, "verdict", rsp.Verdict)
	switch rsp.Verdict {
	case pb.Verdict_VERDICT_RUNNING:
		if err := j.found(&s, rsp, req.Xml); err != nil {
			return err
		}
		return j.catchUp()
	case pb.Verdict_VERDICT_NOT_STARTED:
		if s.phase == catalog.Starting {
			return j.abandon(&s)
		}
		return j.finish(&s, &pb.Change{State: pb.State_STATE_SHUTOFF, Events: []*pb.Event{lifecycle(eventStopped, stoppedFailed)}})
	case pb.Verdict_VERDICT_GONE:
		change := rsp.Change
		if !ended(change.GetState()) {
			change = &pb.Change{State: pb.State_STATE_SHUTOFF, Events: []*pb.Event{lifecycle(eventStopped, stoppedFailed)}}
		}
		return j.finish(&s, change)
	case pb.Verdict_VERDICT_FOREIGN, pb.Verdict_VERDICT_UNSPECIFIED:
	}
	j.doubt(&s, fmt.Errorf("driver answers %s", rsp.Verdict))
	return nil
}

// stoppedFailed is VIR_DOMAIN_EVENT_STOPPED_FAILED.
const stoppedFailed = 5

// found takes a guest back that lives. A live definition that is known to the disk is not written again: with thousands of guests
// those writes would be most of a recovery.
func (j *job) found(s *state, rsp *pb.RecoverResponse, known string) error {
	if s.phase == catalog.Starting {
		return j.started(s, &started{rsp.Handle, rsp.Change, rsp.LiveXml})
	}
	changed := rsp.Handle != nil && rsp.Handle.String() != s.handle.String()
	if changed {
		s.handle, s.PID = rsp.Handle, rsp.Handle.Pid
	}
	if s.Unknown || changed {
		s.Unknown = false
		if err := j.save(s, nil); err != nil {
			return err
		}
	}
	liveXML := rsp.LiveXml
	if j.d.keepOwn(liveXML) == known {
		liveXML = ""
	}
	return j.apply(tellDevices(rsp.Change, known, liveXML), liveXML)
}

// Lives lists the guests that live or may live, for the lock daemon to know whose locks are still needed.
func (i *Inventory) Lives() []Owner {
	var lives []Owner
	for _, d := range i.all() {
		s := d.state.Load()
		if s.phase == catalog.Inactive {
			continue
		}
		lives = append(lives, d.owner(s))
	}
	return lives
}
