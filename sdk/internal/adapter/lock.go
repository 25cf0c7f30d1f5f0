package adapter

import (
	"context"
	"errors"

	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/sdk/lock"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

// RegisterLock adds a lock manager's service to a server. Watch streams end when done is closed.
func RegisterLock(s grpc.ServiceRegistrar, manager lock.Manager, done <-chan struct{}) {
	pb.RegisterManagerServiceServer(s, &managerService{manager: manager, done: done})
}

// managerService is the lock manager.
type managerService struct {
	pb.UnsafeManagerServiceServer
	manager lock.Manager
	done    <-chan struct{}
}

// Prepare passes on.
func (m *managerService) Prepare(ctx context.Context, req *pb.PrepareRequest) (*pb.PrepareResponse, error) {
	return m.manager.Prepare(ctx, req)
}

// Acquire passes on.
func (m *managerService) Acquire(ctx context.Context, req *pb.AcquireRequest) (*pb.AcquireResponse, error) {
	return m.manager.Acquire(ctx, req)
}

// Release passes on.
func (m *managerService) Release(ctx context.Context, req *pb.ReleaseRequest) (*pb.ReleaseResponse, error) {
	return m.manager.Release(ctx, req)
}

// Recover passes on.
func (m *managerService) Recover(ctx context.Context, req *pb.RecoverRequest) (*pb.RecoverResponse, error) {
	return m.manager.Recover(ctx, req)
}

// List passes on.
func (m *managerService) List(ctx context.Context, _ *pb.ListRequest) (*pb.ListResponse, error) {
	leases, err := m.manager.List(ctx)
	return &pb.ListResponse{Leases: leases}, err
}

// Watch streams what the manager sends until the reader or the plugin ends.
func (m *managerService) Watch(_ *pb.WatchRequest, stream grpc.ServerStreamingServer[pb.WatchResponse]) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-m.done:
			cancel(errEnding)
		case <-ctx.Done():
		}
	}()
	err := m.manager.Watch(ctx, stream.Send)
	cancel(nil)
	<-stopped
	if errors.Is(context.Cause(ctx), errEnding) {
		return nil
	}
	return err
}

// errEnding is why a stream ends with the plugin.
var errEnding = errors.New("the plugin ends")
