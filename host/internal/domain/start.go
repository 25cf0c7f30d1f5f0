package domain

import (
	"context"
	"errors"
	"fmt"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Start starts a persistent domain, from its managed save image if it has one, unless a boot is forced; flags are virDomainCreateFlags. It
// returns when the guest runs, or is paused if asked.
func (d *Domain) Start(ctx context.Context, flags uint32) error {
	if err := checkCreateFlags(flags); err != nil {
		return err
	}
	j, err := d.begin(ctx, "start")
	if err != nil {
		return err
	}
	defer j.end()
	s := *d.state.Load()
	if s.phase != catalog.Inactive {
		return verr.New(verr.OperationInvalid, "domain is already running")
	}
	if s.Saved && flags&createForceBoot == 0 {
		return j.startManaged(&s, flags)
	}
	xml, err := d.inv.cfg.Catalog.Config(d.inv.cfg.URI, d.uuid)
	if err != nil {
		return verr.New(verr.OperationFailed, "cannot read definition of domain '%s': %w", s.Name, err)
	}
	return j.start(&s, xml, flags)
}

// start brings the guest of a definition to life: intent on disk, locks, driver, handle on disk, events. s is the state before it,
// with the definition's summary in it.
func (j *job) start(s *state, xml string, flags uint32) error { return j.startFrom(s, xml, flags, nil) }

// startFrom is start with the state that is in a file, nil for a boot.
func (j *job) startFrom(s *state, xml string, flags uint32, from *image) error {
	i := j.d.inv
	o, wants, err := j.openAll(xml)
	if err != nil {
		return err
	}
	s.Generation++
	s.reservedID = i.takeID()
	s.phase, s.paused, s.handle, s.PID, s.lockState = catalog.Starting, flags&createPaused != 0, nil, 0, nil
	s.volumes = o.volumes
	if s.restoring, s.resume = nil, false; from != nil {
		s.restoring, s.paused = &from.intent, !from.intent.Run
	}
	if err := j.save(s, func(tx *catalog.Tx) error { return j.intend(tx, s, xml) }); err != nil {
		return err
	}
	j.d.claim.Store(&claim{j.d.owner(s), wants})
	defer j.d.claim.Store(nil)
	prepared, err := j.lease(s, wants)
	if err != nil {
		return errors.Join(err, j.abandon(s))
	}
	rsp, err := j.bringUp(s, xml, &pb.Resolved{
		Cgroup: i.cgroup(s), Disks: o.disks, Registrations: prepared.Registrations, Claim: prepared.Claim,
	}, from)
	switch {
	case err == nil:
		j.d.recovered = i.cfg.Incarnation()
		err = j.started(s, &started{rsp.Handle, rsp.Change, rsp.LiveXml})
	case outcomeOf(err) == refused:
		i.cfg.Log.Debug("start failed", "guest", s.Name, "gen", s.Generation, "error", err)
		return errors.Join(err, j.abandon(s))
	default:
		i.cfg.Log.Debug("start failed", "guest", s.Name, "gen", s.Generation, "outcome", outcomeOf(err), "error", err)
		err = j.resolveStart(s, err)
	}
	if err != nil {
		return err
	}
	return j.run()
}

// openAll finds out what a driver needs to open the disks of a definition, and what of them is to be locked.
func (j *job) openAll(xml string) (*opening, Wants, error) {
	def, err := domxml.Parse(xml)
	if err != nil {
		return nil, Wants{}, err
	}
	o, err := j.d.inv.open(j.ctx, def, nil)
	if err != nil {
		return nil, Wants{}, err
	}
	wants, err := wantsIn(xml, def)
	return o, wants, err
}

// maxHandings bounds how often a start follows a driver that is restarted under it.
const maxHandings = 3

// bringUp hands the driver the locks and has it start the guest. A process that took the descriptors and died before it was told to start
// has a successor without them, which refuses: it is given them in its turn.
func (j *job) bringUp(s *state, xml string, with *pb.Resolved, from *image) (rsp *pb.StartResponse, err error) {
	i := j.d.inv
	for range maxHandings {
		incarnation := i.cfg.Incarnation()
		if with.Leases, err = j.hand(j.d.leases); err != nil {
			continue
		}
		rsp, err = j.call(&pb.StartRequest{
			Guest: s.guest(i.cfg.Connection), Xml: xml, Id: s.reservedID, Paused: s.paused, Resolved: with,
		}, from)
		if err == nil || outcomeOf(err) != refused || incarnation == i.cfg.Incarnation() {
			break
		}
	}
	return rsp, err
}

// call has the driver boot the guest, or restore it.
func (j *job) call(req *pb.StartRequest, from *image) (*pb.StartResponse, error) {
	if from != nil {
		return j.restore(req, from)
	}
	return j.d.inv.driver.Start(j.ctx, req)
}

// intend writes the definition that a start is about to use; a transient domain has no other.
func (j *job) intend(tx *catalog.Tx, s *state, xml string) error {
	uri := j.d.inv.cfg.URI
	if !s.Persistent {
		if err := tx.PutConfig(uri, j.d.uuid, xml); err != nil {
			return err
		}
	}
	return tx.PutLive(uri, j.d.uuid, xml)
}

// started is what is known of a guest that came to life.
type started struct {
	handle  *pb.Handle
	change  *pb.Change
	liveXML string
}

// started records a guest that came to life, and tells of it. One whose record cannot be written goes on in memory: ending it would be
// worse than having to find it again by its intent. A restored one has not run yet, and is ended then: its file is still good.
func (j *job) started(s *state, st *started) error {
	i, before := j.d.inv, *s
	s.phase, s.ID, s.handle = catalog.Active, s.reservedID, st.handle
	s.PID, s.Unknown = st.handle.GetPid(), false
	change := st.change
	if s.restoring != nil {
		change = s.restored()
		s.resume = s.restoring.Run
	}
	drop := s.Saved
	s.Saved, s.restoring = false, nil
	s.State, s.Reason = State(change.GetState()), change.GetReason()
	if s.State == NoState {
		s.State = Running
	}
	ctx, cancel := detached(j.ctx)
	defer cancel()
	j.settleLeases(ctx, s)
	live := j.d.keepOwn(st.liveXML)
	err := j.save(s, func(tx *catalog.Tx) error { return tx.PutLive(i.cfg.URI, j.d.uuid, live) })
	switch {
	case err != nil && before.restoring != nil:
		_, serr := j.stop(s)
		return errors.Join(err, serr, j.abandon(&before))
	case err != nil:
		i.cfg.Log.Error("running guest could not be recorded", "guest", s.Name, "gen", s.Generation, "error", err)
		j.d.show(s)
	case drop:
		j.d.dropManaged()
	}
	for _, e := range change.GetEvents() {
		i.publish(s.View, e)
	}
	return nil
}

// abandon takes back an intent after which nothing lives.
func (j *job) abandon(s *state) error {
	j.unlease(s)
	s.phase, s.ID, s.State, s.handle, s.PID = catalog.Inactive, inactiveID, ShutOff, nil, 0
	s.Reason, s.Unknown, s.restoring, s.volumes = shutOffFailed, false, nil, nil
	if !s.Persistent {
		return j.remove()
	}
	return j.save(s, func(tx *catalog.Tx) error { return tx.DeleteLive(j.d.inv.cfg.URI, j.d.uuid) })
}

// shutOffFailed is VIR_DOMAIN_SHUTOFF_FAILED.
const shutOffFailed = 6

// resolveStart finds out what became of a start whose answer was lost. A driver that lives and is slow is told to stop the guest, so
// that it cannot come to life later; a driver that died is asked what it left.
func (j *job) resolveStart(s *state, cause error) error {
	ctx, cancel := detached(j.ctx)
	defer cancel()
	if outcomeOf(cause) == slow {
		_, err := j.d.inv.driver.Stop(ctx, &pb.StopRequest{Guest: s.guest(j.d.inv.cfg.Connection)})
		if err == nil {
			return errors.Join(cause, j.abandon(s))
		}
		j.doubt(s, err)
		return verr.New(verr.OperationFailed, "start of domain '%s': %w; what became of it is not known yet", s.Name, cause)
	}
	rsp, err := j.d.inv.driver.Recover(ctx, j.d.recoverRequest(s))
	if err != nil {
		j.doubt(s, err)
		return verr.New(verr.OperationFailed, "start of domain '%s': %w; what became of it is not known yet", s.Name, cause)
	}
	j.d.recovered = j.d.inv.cfg.Incarnation()
	j.d.inv.cfg.Log.Debug("driver was asked for a lost start", "guest", s.Name, "gen", s.Generation, "verdict", rsp.Verdict)
	switch rsp.Verdict {
	case pb.Verdict_VERDICT_RUNNING:
		return j.started(s, &started{rsp.Handle, rsp.Change, rsp.LiveXml})
	case pb.Verdict_VERDICT_NOT_STARTED, pb.Verdict_VERDICT_GONE:
		return errors.Join(cause, j.abandon(s))
	case pb.Verdict_VERDICT_FOREIGN, pb.Verdict_VERDICT_UNSPECIFIED:
	}
	j.doubt(s, cause)
	return verr.New(verr.OperationFailed, "domain '%s' is run by somebody else: %w", s.Name, cause)
}

// doubt marks a domain of which nobody knows whether it lives.
func (j *job) doubt(s *state, cause error) {
	j.d.inv.cfg.Log.Warn("state of guest is not known", "guest", s.Name, "gen", s.Generation, "error", cause)
	s.Unknown = true
	j.d.show(s)
}

// cgroup is the deterministic name of a guest's control group.
func (i *Inventory) cgroup(s *state) string {
	return fmt.Sprintf("lodge-%s-%s-%d", i.cfg.Driver, s.UUID, s.Generation)
}

func (d *Domain) recoverRequest(s *state) *pb.RecoverRequest {
	xml, err := d.inv.cfg.Catalog.Live(d.inv.cfg.URI, d.uuid)
	if err != nil {
		d.inv.cfg.Log.Warn("definition cannot be read", "guest", s.Name, "error", err)
	}
	volumes := make([]*pb.Disk, len(s.volumes))
	for n := range s.volumes {
		volumes[n] = diskOf(&s.volumes[n])
	}
	return &pb.RecoverRequest{
		Guest: s.guest(d.inv.cfg.Connection), Handle: s.handle, Xml: xml, Id: s.reservedID, Volumes: volumes,
	}
}
