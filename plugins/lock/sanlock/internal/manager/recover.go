package manager

import (
	"context"
	"time"

	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/client"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

// Recover implements lock.Manager.
func (m *Manager) Recover(ctx context.Context, req *pb.RecoverRequest) (*pb.RecoverResponse, error) {
	a, err := m.begin(ctx, req.GetOwner(), req.GetOnFailure(), req.GetResources())
	if err != nil {
		return nil, err
	}
	defer a.end()
	if fresh, err := a.note(ctx); err != nil {
		a.unnote(ctx, fresh)
		return nil, err
	}
	for _, w := range distinct(a.wants) {
		one := *a
		one.wants = []want{w}
		one.recover(ctx)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return &pb.RecoverResponse{Leases: a.tell()}, nil
}

// recover finds out what became of one lease, and takes it again if it is not held and free.
func (a *attempt) recover(ctx context.Context) {
	i := idOf(a.wants[0].lease)
	if a.holds(ctx, i) {
		return
	}
	status, err := a.takeAgain(ctx, i)
	detail := ""
	if err != nil {
		status, detail = pb.Status_STATUS_LOST, err.Error()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.owner.find(i)
	h.status, h.detail = status, detail
	if status == pb.Status_STATUS_TAKEN_AGAIN {
		h.since = time.Now()
	}
}

// takeAgain takes a lease that its owner should have. It is held, as if nothing had been, if nobody else has had it.
func (a *attempt) takeAgain(ctx context.Context, i id) (pb.Status, error) {
	a.mu.Lock()
	before := a.owner.find(i).lease
	version := before.Version
	if version == 0 {
		version = versionsOf(a.owner.asleep)[i]
	}
	a.mu.Unlock()
	if version != 0 && !before.Shared {
		err := a.take(ctx, map[id]uint64{i: version})
		if err == nil || a.refused != client.OtherVersion {
			return pb.Status_STATUS_HELD, err
		}
	}
	return pb.Status_STATUS_TAKEN_AGAIN, a.take(ctx, nil)
}

// holds reports that the process has a lease, and takes that in.
func (a *attempt) holds(ctx context.Context, i id) bool {
	st, err := a.settled(ctx)
	if err != nil || !lives(a.who) || st.Of(a.pid(), i.lockspace, i.name) == nil {
		return false
	}
	a.granted(ctx, st)
	return true
}
