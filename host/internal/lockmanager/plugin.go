package lockmanager

import (
	"context"
	"fmt"
	"path/filepath"

	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/host/internal/domain"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

// Plugin are locks that a plugin manages by lock.v1. Which disks it locks, and what it demands of definitions, is its own.
type Plugin struct {
	// Elsewhere says that the guests' disks are pretended, or another machine's. Their paths say nothing to hosts that share storage, so
	// only named leases are locked.
	Elsewhere bool

	manager pb.ManagerServiceClient
}

var _ domain.Locks = (*Plugin)(nil)

// NewPlugin returns the locks of a plugin behind a connection that waits for it and enforces deadlines.
func NewPlugin(conn grpc.ClientConnInterface) *Plugin {
	return &Plugin{manager: pb.NewManagerServiceClient(conn)}
}

func ownerOf(o domain.Owner) *pb.Owner {
	return &pb.Owner{
		Uuid: o.UUID.String(), Name: o.Name, Id: o.ID, Generation: o.Generation, Pid: o.PID, StartTime: o.StartTime, Uri: o.URI,
	}
}

// resourcesOf lists what of a guest's needs the lock manager is asked for.
func (p *Plugin) resourcesOf(wants domain.Wants) []*pb.Resource {
	disks := wants.Disks
	if p.Elsewhere {
		disks = nil
	}
	rs := make([]*pb.Resource, 0, len(disks)+len(wants.Leases))
	for _, d := range disks {
		rs = append(rs, &pb.Resource{Disk: d.Path, Shared: d.Shared})
	}
	for _, l := range wants.Leases {
		rs = append(rs, &pb.Resource{Lockspace: l.Lockspace, Key: l.Key, Path: l.Path, Offset: l.Offset})
	}
	return rs
}

// Prepare implements domain.Locks.
func (p *Plugin) Prepare(ctx context.Context, o domain.Owner, wants domain.Wants) (domain.Prepared, error) {
	rs := p.resourcesOf(wants)
	if len(rs) == 0 {
		return domain.Prepared{}, nil
	}
	rsp, err := p.manager.Prepare(ctx, &pb.PrepareRequest{Owner: ownerOf(o), Resources: rs, OnFailure: wants.OnFailure})
	if err != nil {
		return domain.Prepared{}, err
	}
	return domain.Prepared{Registrations: rsp.Registrations, Claim: rsp.NeedsProcess}, nil
}

// Acquire implements domain.Locks.
func (p *Plugin) Acquire(ctx context.Context, o domain.Owner, wants domain.Wants) ([]domain.HeldLock, error) {
	rs := p.resourcesOf(wants)
	if len(rs) == 0 {
		return nil, nil
	}
	_, err := p.manager.Acquire(ctx, &pb.AcquireRequest{
		Owner: ownerOf(o), Resources: rs, OnFailure: wants.OnFailure, State: wants.State,
	})
	return nil, err
}

// Claim implements domain.Locks.
func (p *Plugin) Claim(ctx context.Context, o domain.Owner, wants domain.Wants) error {
	_, err := p.Acquire(ctx, o, wants)
	return err
}

// Reaffirm implements domain.Locks.
func (p *Plugin) Reaffirm(
	ctx context.Context, o domain.Owner, wants domain.Wants, _ []domain.HeldLock,
) ([]domain.HeldLock, []domain.LostLock, error) {
	rs := p.resourcesOf(wants)
	if len(rs) == 0 {
		return nil, nil, nil
	}
	rsp, err := p.manager.Recover(ctx, &pb.RecoverRequest{Owner: ownerOf(o), Resources: rs, OnFailure: wants.OnFailure})
	if err != nil {
		return nil, nil, err
	}
	var lost []domain.LostLock
	for _, l := range rsp.Leases {
		if l.Status == pb.Status_STATUS_LOST {
			lost = append(lost, lostOf(l))
		}
	}
	return nil, lost, nil
}

func lostOf(l *pb.Lease) domain.LostLock {
	path := l.GetResource().GetDisk()
	if path == "" {
		r := l.GetResource()
		path = filepath.Join(r.GetPath(), r.GetLockspace(), r.GetKey())
	}
	return domain.LostLock{Path: path, Detail: l.GetDetail()}
}

// Release implements domain.Locks.
func (p *Plugin) Release(ctx context.Context, o domain.Owner, what domain.Release) ([]byte, error) {
	req := &pb.ReleaseRequest{Owner: ownerOf(o), Suspend: what.Suspend}
	if what.Only != nil {
		if req.Resources = p.resourcesOf(*what.Only); len(req.Resources) == 0 {
			return nil, nil
		}
	}
	rsp, err := p.manager.Release(ctx, req)
	return rsp.GetState(), err
}

// Lost is a lock of one life of a guest that a plugin has lost.
type Lost struct {
	UUID       string
	Generation uint64
	Lock       domain.LostLock
}

// Stream is an open watch of a plugin's locks.
type Stream struct {
	stream grpc.ServerStreamingClient[pb.WatchResponse]
}

// Watch opens the watch of a plugin's locks through a connection. Whoever calls it reaffirms every guest before Follow: what happened
// earlier is not told.
func Watch(ctx context.Context, conn grpc.ClientConnInterface) (*Stream, error) {
	stream, err := pb.NewManagerServiceClient(conn).Watch(ctx, &pb.WatchRequest{})
	if err != nil {
		return nil, fmt.Errorf("watch locks: %w", err)
	}
	first, err := stream.Recv()
	if err != nil {
		return nil, fmt.Errorf("watch locks: %w", err)
	}
	if first.GetLease() != nil {
		return nil, fmt.Errorf("watch locks: the lock manager began without a hello")
	}
	return &Stream{stream}, nil
}

// Follow tells of each lock that is lost until the stream ends, and returns why it did.
func (s *Stream) Follow(lost func(Lost)) error {
	for {
		msg, err := s.stream.Recv()
		if err != nil {
			return fmt.Errorf("watch locks: %w", err)
		}
		l := msg.GetLease()
		if l.GetStatus() == pb.Status_STATUS_LOST {
			lost(Lost{UUID: l.GetOwner().GetUuid(), Generation: l.GetOwner().GetGeneration(), Lock: lostOf(l)})
		}
	}
}
