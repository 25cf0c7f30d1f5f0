// Package admin serves the core's own gRPC API, lodge.admin.v1, with gRPC's health and reflection services beside it.
//
// It translates and decides nothing: what it shows comes from a Source, which is the core. Only root and the core's own user may
// connect. A watcher that is too slow is cut off with OUT_OF_RANGE and lists anew, as is one whose events are no longer kept.
package admin

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lodgevirt/lodge/host/internal/event"
	adminv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/admin/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// maxMessage bounds a message in bytes: 10,000 guests take about 1 MiB.
const maxMessage = 16 << 20

// Source is the core as this API shows it.
type Source interface {
	// Overview is the host at a glance.
	Overview(ctx context.Context) *adminv1.GetStatusResponse
	// Plugins lists the plugins by name.
	Plugins() []*adminv1.Plugin
	// ResetPlugin lets a failed plugin be started again; an unknown name is an error.
	ResetPlugin(name string) error
	// RestartPlugin starts a plugin's binary anew and waits until it is ready; an unknown name is an error.
	RestartPlugin(ctx context.Context, name string) (*adminv1.Plugin, error)
	// Jobs lists long work on storage, the oldest first; CancelJob ends one, an unknown number is an error.
	Jobs() []*adminv1.Job
	CancelJob(id uint64) error
	// Guests lists the guests of all connections.
	Guests() []*adminv1.GuestInfo
	// Locks lists what the lock manager holds.
	Locks(ctx context.Context) ([]*adminv1.Lock, error)
	// ReleaseLock frees the lock with an id, one of an owner that lives only by force.
	ReleaseLock(ctx context.Context, id string, force bool) (*adminv1.Lock, error)
}

// Server serves the API.
type Server struct {
	adminv1.UnimplementedHostServiceServer
	source Source
	events *event.Bus
	done   <-chan struct{}
}

// New returns a gRPC server with the API on it; watches end when ctx does.
func New(ctx context.Context, source Source, events *event.Bus) *grpc.Server {
	g := grpc.NewServer(grpc.MaxRecvMsgSize(1<<20), grpc.MaxSendMsgSize(maxMessage))
	adminv1.RegisterHostServiceServer(g, &Server{source: source, events: events, done: ctx.Done()})
	h := health.NewServer()
	h.SetServingStatus("", healthv1.HealthCheckResponse_SERVING)
	h.SetServingStatus(adminv1.HostService_ServiceDesc.ServiceName, healthv1.HealthCheckResponse_SERVING)
	healthv1.RegisterHealthServer(g, h)
	reflection.Register(g)
	return g
}

// GetStatus is the host at a glance.
func (s *Server) GetStatus(ctx context.Context, _ *adminv1.GetStatusRequest) (*adminv1.GetStatusResponse, error) {
	return s.source.Overview(ctx), nil
}

// ListPlugins lists the plugins that the core knows.
func (s *Server) ListPlugins(context.Context, *adminv1.ListPluginsRequest) (*adminv1.ListPluginsResponse, error) {
	return &adminv1.ListPluginsResponse{Plugins: s.source.Plugins()}, nil
}

// ResetPlugin lets a failed plugin be started again.
func (s *Server) ResetPlugin(_ context.Context, req *adminv1.ResetPluginRequest) (*adminv1.ResetPluginResponse, error) {
	if err := s.source.ResetPlugin(req.Name); err != nil {
		return nil, verr.Status(err)
	}
	return &adminv1.ResetPluginResponse{}, nil
}

// RestartPlugin starts a plugin's binary anew.
func (s *Server) RestartPlugin(ctx context.Context, req *adminv1.RestartPluginRequest) (*adminv1.RestartPluginResponse, error) {
	p, err := s.source.RestartPlugin(ctx, req.Name)
	if err != nil {
		return nil, verr.Status(err)
	}
	return &adminv1.RestartPluginResponse{Plugin: p}, nil
}

// ListGuests lists guests of all connections.
func (s *Server) ListGuests(context.Context, *adminv1.ListGuestsRequest) (*adminv1.ListGuestsResponse, error) {
	return &adminv1.ListGuestsResponse{Guests: s.source.Guests()}, nil
}

// ListJobs lists long work on storage.
func (s *Server) ListJobs(context.Context, *adminv1.ListJobsRequest) (*adminv1.ListJobsResponse, error) {
	return &adminv1.ListJobsResponse{Jobs: s.source.Jobs()}, nil
}

// CancelJob ends long work on storage.
func (s *Server) CancelJob(_ context.Context, req *adminv1.CancelJobRequest) (*adminv1.CancelJobResponse, error) {
	if err := s.source.CancelJob(req.Id); err != nil {
		return nil, verr.Status(err)
	}
	return &adminv1.CancelJobResponse{}, nil
}

// ListLocks lists the locks that the lock manager holds.
func (s *Server) ListLocks(ctx context.Context, _ *adminv1.ListLocksRequest) (*adminv1.ListLocksResponse, error) {
	locks, err := s.source.Locks(ctx)
	if err != nil {
		return nil, verr.Status(err)
	}
	return &adminv1.ListLocksResponse{Locks: locks}, nil
}

// ReleaseLock frees a lock in the place of its owner.
func (s *Server) ReleaseLock(ctx context.Context, req *adminv1.ReleaseLockRequest) (*adminv1.ReleaseLockResponse, error) {
	lock, err := s.source.ReleaseLock(ctx, req.Id, req.Force)
	if err != nil {
		return nil, verr.Status(err)
	}
	return &adminv1.ReleaseLockResponse{Lock: lock}, nil
}

// WatchEvents sends every event after a sequence number, and goes on with new ones.
func (s *Server) WatchEvents(req *adminv1.WatchEventsRequest, stream grpc.ServerStreamingServer[adminv1.WatchEventsResponse]) error {
	sub, err := s.subscribe(req.After)
	if err != nil {
		return err
	}
	defer sub.Close()
	for {
		select {
		case e, ok := <-sub.C():
			if !ok {
				return status.Error(codes.OutOfRange, "the watcher was too slow and has missed events; list anew")
			}
			if err := stream.Send(message(e)); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		case <-s.done:
			return status.Error(codes.Unavailable, "the host is shutting down")
		}
	}
}

func (s *Server) subscribe(after uint64) (*event.Subscription, error) {
	if after == 0 {
		return s.events.Subscribe(), nil
	}
	sub, err := s.events.SubscribeAfter(after)
	if errors.Is(err, event.ErrTooOld) {
		return nil, status.Errorf(codes.OutOfRange, "event %d: %v; list anew", after, err)
	}
	return sub, err
}

// message is an event as the API tells it.
func message(e event.Event) *adminv1.WatchEventsResponse {
	kind, details := kindOf(e)
	return &adminv1.WatchEventsResponse{
		Seq: e.Seq, Time: timestamppb.New(e.Time), Kind: kind, Uri: e.URI, Name: e.Name, Uuid: e.UUID.String(), Details: details,
	}
}

// kindOf names a kind of event, "OBJECT.KIND", with its details.
func kindOf(e event.Event) (string, map[string]string) {
	lifecycle := func(n int32) map[string]string { return map[string]string{"event": strconv.Itoa(int(n))} }
	switch {
	case e.Pool != nil && e.Pool.Refreshed:
		return "pool.refresh", nil
	case e.Pool != nil:
		return "pool.lifecycle", lifecycle(e.Pool.Lifecycle)
	case e.Secret != nil && e.Secret.Changed:
		return "secret.value_changed", nil
	case e.Secret != nil:
		return "secret.lifecycle", lifecycle(e.Secret.Lifecycle)
	case e.Network != nil:
		return "network.lifecycle", lifecycle(e.Network.Lifecycle)
	}
	kind, details := describe(e.Domain)
	details["id"] = strconv.Itoa(int(e.ID))
	return "domain." + kind, details
}

// describe names a kind of event and its details by the fields of the contract's message.
func describe(e *pb.Event) (string, map[string]string) {
	details := map[string]string{}
	m := e.ProtoReflect()
	which := m.WhichOneof(m.Descriptor().Oneofs().ByName("event"))
	if which == nil {
		return "unknown", details
	}
	fields := m.Get(which).Message()
	for n := range fields.Descriptor().Fields().Len() {
		f := fields.Descriptor().Fields().Get(n)
		if f.Message() == nil {
			details[string(f.Name())] = fmt.Sprint(fields.Get(f).Interface())
		}
	}
	return string(which.Name()), details
}
