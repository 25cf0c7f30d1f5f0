package domain

import (
	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// eventStopped is VIR_DOMAIN_EVENT_STOPPED: from here on the domain has no id.
const eventStopped = 5

// apply makes a change that a driver reported true: state, live XML, events in order. A guest that has ended is cleared away.
func (j *job) apply(c *pb.Change, liveXML string) error { return j.applyWith(c, liveXML, nil) }

// applyWith also makes another definition the one that outlives the guest, in the same moment. Locks of devices that have gone are freed.
func (j *job) applyWith(c *pb.Change, liveXML string, config *newConfig) error {
	s := *j.d.state.Load()
	if s.phase == catalog.Inactive {
		return nil
	}
	if ended(c.GetState()) {
		return j.finish(&s, c)
	}
	if c.GetState() != pb.State_STATE_UNSPECIFIED {
		s.State, s.Reason = State(c.State), c.Reason
	}
	for _, e := range c.GetEvents() {
		if b := e.GetBalloonChange(); b != nil {
			s.MemoryKiB = b.ActualKib
		}
	}
	if err := j.keep(&s, liveXML, config); err != nil {
		return err
	}
	j.tidy(&s) // before anybody hears that a device is gone, and uses its image elsewhere
	for _, e := range c.GetEvents() {
		j.d.inv.publish(s.View, e)
	}
	return nil
}

// keep makes a state of a living guest true, with definitions that are new. What a guest does is asked of its driver after a restart, so
// it need not be on disk.
func (j *job) keep(s *state, liveXML string, config *newConfig) error {
	if liveXML == "" && config == nil {
		j.d.show(s)
		return nil
	}
	if liveXML != "" {
		liveXML = j.d.keepOwn(liveXML)
		if err := j.loosen(s, liveXML); err != nil {
			return err
		}
	}
	config.describe(s)
	return j.save(s, func(tx *catalog.Tx) error {
		if liveXML != "" {
			if err := tx.PutLive(j.d.inv.cfg.URI, j.d.uuid, liveXML); err != nil {
				return err
			}
		}
		return config.put(tx, j.d)
	})
}

// ended reports whether no guest lives in a state.
func ended(s pb.State) bool { return s == pb.State_STATE_SHUTOFF || s == pb.State_STATE_CRASHED }

// finish clears away a guest that has ended: locks, record, id. Events before the end carry its id, those from the end on none.
func (j *job) finish(s *state, c *pb.Change) error {
	before := s.View
	j.d.inv.cfg.Log.Debug("guest has ended", "guest", s.Name, "gen", s.Generation, "phase", s.phase, "during", j.what, "reason", c.GetReason())
	j.unlease(s)
	c = j.settleSave(s, c)
	dropped := j.settleStart(s)
	s.phase, s.ID, s.handle, s.PID, s.volumes = catalog.Inactive, inactiveID, nil, 0, nil
	s.State, s.Reason, s.Unknown = State(c.State), c.Reason, false
	err := j.settle(s)
	if err != nil {
		// The guest is gone whatever the disk says; the record is put right by the next Recover.
		j.d.inv.cfg.Log.Error("end of guest could not be recorded", "guest", s.Name, "gen", s.Generation, "error", err)
		j.d.show(s)
	} else if dropped {
		j.d.dropManaged()
	}
	view := before
	for _, e := range c.GetEvents() {
		if e.GetLifecycle().GetEvent() == eventStopped {
			view = s.View
		}
		j.d.inv.publish(view, e)
	}
	return nil
}

// settle writes the record of an ended guest, or removes that of a transient one.
func (j *job) settle(s *state) error {
	if !s.Persistent {
		return j.remove()
	}
	uri := j.d.inv.cfg.URI
	config, err := j.d.inv.cfg.Catalog.Config(uri, j.d.uuid)
	if err != nil {
		return err
	}
	if def, err := domxml.Parse(config); err == nil {
		s.describe(domxml.Summarize(def)) // the guest may have run with another one
	}
	s.Updated = false
	return j.save(s, func(tx *catalog.Tx) error { return tx.DeleteLive(uri, j.d.uuid) })
}
