package manager

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/client"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

// Release implements lock.Manager. The daemon stops counting the guest as owner at once, also where the storage does not answer.
func (m *Manager) Release(ctx context.Context, req *pb.ReleaseRequest) (*pb.ReleaseResponse, error) {
	c, daemon, err := m.settings()
	if err != nil {
		return nil, err
	}
	wants, err := c.wants(req.GetResources())
	if err != nil {
		return nil, err
	}
	o, end, err := m.take(ctx, req.GetOwner())
	if err != nil {
		return nil, err
	}
	defer end()
	some := distinct(wants)
	concerned := func(i id) bool {
		_, named := some[i]
		return named || len(req.GetResources()) == 0
	}
	who, leases := m.releasing(o, req.GetOwner(), concerned)
	given, err := giveUp(ctx, daemon, who, concerned)
	if errors.Is(err, client.ErrNotRunning) {
		given, err = len(leases), nil // without the daemon nobody holds them
	}
	if err != nil {
		m.keep(leases)
		return nil, fmt.Errorf("give up locks of guest %q: %w", who.GetName(), failure(err))
	}
	m.mu.Lock()
	for _, h := range leases {
		o.drop(idOf(&h.lease))
	}
	asleep := o.lull(leases, concerned, req.GetSuspend())
	m.mu.Unlock()
	if err := m.save(ctx, o); err != nil {
		return nil, err
	}
	state, err := formatSuspended(asleep)
	return &pb.ReleaseResponse{Released: uint32(max(given, len(leases))), State: state}, err
}

// releasing marks leases that are being given up, and returns copies of them and whose they are.
func (m *Manager) releasing(o *owner, asked *pb.Owner, concerned func(id) bool) (*pb.Owner, []*held) {
	m.mu.Lock()
	defer m.mu.Unlock()
	who := proto.CloneOf(o.who)
	if who.GetPid() == 0 && asked.GetPid() != 0 {
		who = proto.CloneOf(asked)
	}
	var leases []*held
	for _, h := range o.leases {
		if concerned(idOf(&h.lease)) {
			h.status = pb.Status_STATUS_UNSPECIFIED
			leases = append(leases, h)
		}
	}
	return who, leases
}

// keep takes back what releasing marked: whether the leases are held is seen by the watch.
func (m *Manager) keep(leases []*held) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, h := range leases {
		h.status = pb.Status_STATUS_HELD
	}
}

// giveUp has the daemon give up leases of an owner's process, and returns how many it had. It waits a moment for the daemon to notice that
// a process has ended, and for the storage to know.
func giveUp(ctx context.Context, daemon *client.Client, who *pb.Owner, concerned func(id) bool) (int, error) {
	if who.GetPid() <= 0 {
		return 0, nil
	}
	had, alive, until := 0, lives(who), time.Now().Add(settleTime)
	for first := true; ; first = false {
		st, err := daemon.Status(ctx)
		if err != nil {
			return had, err
		}
		leases, taking, ending := leasesOfProcess(st, int(who.GetPid()), concerned)
		if first {
			had = len(leases)
		}
		switch {
		case len(leases) == 0 && !taking && !ending, (!alive || len(leases) == 0 && !taking) && time.Now().After(until):
			return had, nil
		case len(leases) > 0 && alive:
			if err := releaseSome(ctx, daemon, who, leases); err != nil {
				return had, err
			}
			if first {
				continue // most often that was all
			}
		}
		if err := pause(ctx, settlePause); err != nil {
			return had, err
		}
		alive = lives(who)
	}
}

// releaseSome asks the daemon to give up leases. What came of it is seen by the next look: a refusal may be for another request that the
// process is in the middle of, or for the storage's sake, or never come as long as that hangs, and then the daemon has stopped counting
// the process as owner long ago.
func releaseSome(ctx context.Context, daemon *client.Client, who *pb.Owner, leases []client.Resource) error {
	asked, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	var refused client.Result
	err := daemon.Release(asked, int(who.GetPid()), leases)
	if err == nil || errors.As(err, &refused) || asked.Err() != nil && ctx.Err() == nil {
		return nil
	}
	return err
}

// leasesOfProcess returns up to as many leases of a process as can be given up at a time, and whether there are some that it is just
// taking, and some that the storage does not know to be given up yet.
func leasesOfProcess(st *client.Status, pid int, concerned func(id) bool) (leases []client.Resource, taking, ending bool) {
	for _, l := range st.Leases {
		if l.PID != pid || !concerned(idOf(&l.Resource)) {
			continue
		}
		switch l.List {
		case client.ListHeld:
			if len(leases) < client.MaxResources {
				leases = append(leases, l.Resource)
			}
		case client.ListAdding:
			taking = true
		case client.ListRemoving:
			ending = true
		}
	}
	return leases, taking, ending
}
