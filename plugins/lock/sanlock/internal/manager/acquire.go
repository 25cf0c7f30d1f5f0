package manager

import (
	"context"
	"errors"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/client"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// settleTime is how long a lease that is just being taken or given up by somebody else is waited for.
	settleTime = 5 * time.Second
	// settlePause is the time between two looks at it.
	settlePause = 50 * time.Millisecond
)

// Acquire implements lock.Manager.
func (m *Manager) Acquire(ctx context.Context, req *pb.AcquireRequest) (*pb.AcquireResponse, error) {
	who := req.GetOwner()
	versions, err := parseSuspended(req.GetState())
	if err != nil {
		return nil, err
	}
	a, err := m.begin(ctx, who, req.GetOnFailure(), req.GetResources())
	if err != nil {
		return nil, err
	}
	defer a.end()
	if versions == nil { // what the core has not heard of, or has lost, is kept here
		versions = a.asleep()
	}
	fresh, err := a.note(ctx)
	if err == nil {
		err = a.take(ctx, versions)
	}
	if err != nil {
		a.unnote(ctx, fresh)
		return nil, err
	}
	return &pb.AcquireResponse{Leases: a.tell()}, nil
}

// attempt is one owner's turn to take leases.
type attempt struct {
	*Manager
	config *config
	daemon *client.Client
	owner  *owner
	who    *pb.Owner
	wants  []want
	end    func()
	// refused is why the daemon has refused to give the leases, 0 if it has not.
	refused client.Result
	// unsure are leases that were asked for and may have been given.
	unsure []id
}

// begin waits for the owner's turn, when all that does not depend on it is well. The caller calls end.
func (m *Manager) begin(ctx context.Context, who *pb.Owner, onFailure pb.Action, resources []*pb.Resource) (*attempt, error) {
	c, daemon, err := m.settings()
	if err != nil {
		return nil, err
	}
	wants, err := c.wants(resources)
	if err != nil {
		return nil, err
	}
	if who.GetPid() <= 0 {
		return nil, verr.New(verr.InvalidArg, "sanlock knows owners by their processes, and guest %q has none on this host", who.GetName())
	}
	o, end, err := m.take(ctx, who)
	if err != nil {
		return nil, err
	}
	m.adopt(o, who, onFailure)
	return &attempt{Manager: m, config: c, daemon: daemon, owner: o, who: who, wants: wants, end: end}, nil
}

func (a *attempt) pid() int { return int(a.who.GetPid()) }

// asleep returns the versions that the leases of a suspended owner must have.
func (a *attempt) asleep() map[id]uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return versionsOf(a.owner.asleep)
}

// note puts the leases that are to be taken into the table and the record before they are. It returns those that were not there.
func (a *attempt) note(ctx context.Context) ([]id, error) {
	a.mu.Lock()
	var fresh []id
	for _, w := range a.wants {
		if w.lease == nil || a.owner.find(idOf(w.lease)) != nil {
			continue
		}
		a.owner.leases = append(a.owner.leases, &held{resource: w.resource, lease: *w.lease})
		fresh = append(fresh, idOf(w.lease))
	}
	n := len(a.owner.leases)
	a.mu.Unlock()
	if n > client.MaxResources {
		return fresh, tooMany(n)
	}
	return fresh, a.save(ctx, a.owner)
}

// unnote takes back what note did. Where the daemon's answer is not known, it may have given the leases.
func (a *attempt) unnote(ctx context.Context, fresh []id) {
	if len(fresh) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer cancel()
	if len(a.unsure) > 0 {
		if _, err := giveUp(ctx, a.daemon, a.who, func(i id) bool { return slices.Contains(a.unsure, i) }); err != nil {
			a.log.Warn("locks that a guest did not get may be held", "guest", a.who.GetName(), "error", err)
		}
	}
	a.mu.Lock()
	for _, i := range fresh {
		a.owner.drop(i)
	}
	a.mu.Unlock()
	if err := a.save(ctx, a.owner); err != nil {
		a.log.Warn("record of a guest's locks is not up to date", "guest", a.who.GetName(), "error", err)
	}
}

// take takes all wanted leases that the owner's process has not, or none. A version makes it take that one only.
func (a *attempt) take(ctx context.Context, versions map[id]uint64) error {
	if !lives(a.who) {
		return verr.New(verr.OperationInvalid, "process %d of guest %q has ended", a.who.GetPid(), a.who.GetName())
	}
	st, err := a.daemon.Lockspaces(ctx)
	if err != nil {
		return failure(err)
	}
	if st.Process(a.pid()) == nil {
		return notRegistered(a.who)
	}
	if err := a.awaitSpace(ctx, a.wants); err != nil {
		return err
	}
	for until := time.Now().Add(settleTime); ; {
		if err := a.config.makeLeases(ctx, a.daemon, a.wants); err != nil {
			return err
		}
		st, err := a.settled(ctx)
		if err != nil {
			return failure(err)
		}
		lacking, err := a.lacking(st, versions)
		if err != nil {
			return err
		}
		if len(lacking) == 0 {
			a.unsure = nil
			a.granted(ctx, st)
			return nil
		}
		err = a.ask(ctx, lacking)
		switch {
		case err == nil:
			// What was taken is seen by the next look.
		case time.Now().Before(until) && a.settles(ctx, err, lacking):
			if err := pause(ctx, settlePause); err != nil {
				return err
			}
		default:
			return a.explain(ctx, err, lacking)
		}
	}
}

// ask asks the daemon for leases.
func (a *attempt) ask(ctx context.Context, lacking []want) error {
	a.unsure = nil
	for _, w := range lacking {
		a.unsure = append(a.unsure, idOf(w.lease))
	}
	err := a.daemon.Acquire(ctx, a.pid(), ownerName(a.who), leasesOf(lacking))
	var refused client.Result
	if errors.As(err, &refused) {
		a.unsure = nil
	}
	return err
}

func notRegistered(who *pb.Owner) error {
	return verr.New(verr.OperationInvalid,
		"process %d of guest %q is not known to the sanlock daemon, as after a restart of the daemon: the guest can have locks only when it is started anew",
		who.GetPid(), who.GetName())
}

// lacking returns the wanted leases that the process has not, with the versions that they must have. A lease that it shares cannot
// become its own.
func (a *attempt) lacking(st *client.Status, versions map[id]uint64) ([]want, error) {
	var lacking []want
	for i, w := range distinct(a.wants) {
		if has := st.Of(a.pid(), i.lockspace, i.name); has != nil {
			if has.Shared && !w.lease.Shared {
				return nil, verr.New(verr.OperationInvalid, "%s is shared by the guest already, and cannot be locked for it alone", describe(w.resource))
			}
			continue
		}
		lease := *w.lease
		if !lease.Shared {
			lease.Version = versions[i]
		}
		lacking = append(lacking, want{w.resource, &lease})
	}
	return lacking, nil
}

func leasesOf(wants []want) []client.Resource {
	var leases []client.Resource
	for _, w := range wants {
		leases = append(leases, *w.lease)
	}
	return leases
}

// granted takes in that the process has the wanted leases.
func (a *attempt) granted(ctx context.Context, st *client.Status) {
	a.mu.Lock()
	changed := false
	for i, w := range distinct(a.wants) {
		h, l := a.owner.find(i), st.Of(a.pid(), i.lockspace, i.name)
		if h == nil || l == nil {
			continue
		}
		changed = a.owner.wake(i) || changed
		if h.lease.Version != l.Version || h.since.IsZero() {
			h.since, changed = time.Now(), true
		}
		h.sure = time.Now()
		h.resource, h.lease.Version, h.lease.Shared, h.status, h.detail = w.resource, l.Version, l.Shared, pb.Status_STATUS_HELD, ""
	}
	a.mu.Unlock()
	if !changed {
		return
	}
	// The leases are held and recorded; only their versions would be missing, or those from before a suspension still there.
	if err := a.save(ctx, a.owner); err != nil {
		a.log.Warn("versions of a guest's leases not kept", "guest", a.who.GetName(), "error", err)
	}
}

// tell returns the leases in the order in which they are wanted.
func (a *attempt) tell() []*pb.Lease {
	a.mu.Lock()
	defer a.mu.Unlock()
	var leases []*pb.Lease
	for _, w := range a.wants {
		if w.lease == nil {
			leases = append(leases, missing(a.owner.who, w.resource))
		} else if h := a.owner.find(idOf(w.lease)); h != nil {
			leases = append(leases, h.tell(a.owner.who))
		}
	}
	return leases
}

// ownerName is what sanlock calls an owner: the guest's name as far as there is room for it.
func ownerName(who *pb.Owner) string {
	name := who.GetName()
	for len(name) > client.MaxName {
		_, size := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-size]
	}
	return name
}

// settled returns a status in which no request about the owner's process is under way, as one of a predecessor of this process may be; or
// the last one if that takes too long.
func (a *attempt) settled(ctx context.Context) (*client.Status, error) {
	for until := time.Now().Add(settleTime); ; {
		st, err := a.daemon.Status(ctx)
		if err != nil {
			return nil, err
		}
		if p := st.Process(a.pid()); p == nil || !p.Active || time.Now().After(until) {
			return st, nil
		}
		if err := pause(ctx, settlePause); err != nil {
			return nil, err
		}
	}
}

// settles reports that what was in the way of taking leases is over in a moment: another request for the process, somebody else who is
// just taking or giving up one of the leases, or the file of a disk's lease that was cleaned up a moment ago.
func (a *attempt) settles(ctx context.Context, err error, lacking []want) bool {
	var result client.Result
	if !errors.As(err, &result) {
		return false
	}
	st, err := a.settled(ctx)
	if err != nil {
		return false
	}
	p := st.Process(a.pid())
	if p == nil || p.Kills > 0 {
		return false
	}
	switch {
	case result == client.Contended, result == client.Busy:
		return true
	case result == client.Missing:
		return slices.ContainsFunc(lacking, func(w want) bool { return w.lease.Lockspace == diskSpace })
	case busy[result]:
		return a.passing(st, lacking)
	}
	return false
}

// passing reports that one of the leases is just being taken or given up on this host, or that the process itself has it by now.
func (a *attempt) passing(st *client.Status, lacking []want) bool {
	for _, l := range st.Leases {
		for _, w := range lacking {
			if l.Lockspace == w.lease.Lockspace && l.Name == w.lease.Name && (l.List != client.ListHeld || l.PID == a.pid()) {
				return true
			}
		}
	}
	return false
}
