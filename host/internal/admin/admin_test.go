package admin

import (
	"context"
	"fmt"
	"net"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/lodgevirt/lodge/host/internal/event"
	adminv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/admin/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// source is a core with one plugin and no lock daemon.
type source struct{}

func (source) Overview(context.Context) *adminv1.GetStatusResponse {
	return &adminv1.GetStatusResponse{Version: "1", GuestsActive: 3}
}
func (source) Plugins() []*adminv1.Plugin { return []*adminv1.Plugin{{Name: "test"}} }
func (source) ResetPlugin(name string) error {
	if name != "test" {
		return verr.New(verr.InvalidArg, "no plugin is named '%s'", name)
	}
	return nil
}

func (s source) RestartPlugin(_ context.Context, name string) (*adminv1.Plugin, error) {
	return &adminv1.Plugin{Name: name, State: "ready", Generation: 2}, s.ResetPlugin(name)
}
func (source) Jobs() []*adminv1.Job { return []*adminv1.Job{{Id: 7, Kind: "refresh", Pool: "p"}} }
func (source) CancelJob(id uint64) error {
	if id != 7 {
		return verr.New(verr.InvalidArg, "no job has the number %d", id)
	}
	return nil
}
func (source) Guests() []*adminv1.GuestInfo { return []*adminv1.GuestInfo{{Name: "guest"}} }
func (source) ReleaseLock(_ context.Context, id string, force bool) (*adminv1.Lock, error) {
	if !force {
		return nil, verr.New(verr.OperationInvalid, "owner of lock '%s' lives", id)
	}
	return &adminv1.Lock{Id: id, OwnerName: "a"}, nil
}

func (source) Locks(context.Context) ([]*adminv1.Lock, error) {
	return nil, verr.New(verr.OperationFailed, "lock daemon is away")
}

func serve(t *testing.T, bus *event.Bus) *grpc.ClientConn {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	lis := bufconn.Listen(1 << 16)
	server := New(ctx, source{}, bus)
	go server.Serve(lis)
	conn, err := grpc.NewClient("passthrough:admin", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		conn.Close()
		server.Stop()
	})
	return conn
}

func TestCallsAreAnsweredByTheSource(t *testing.T) {
	conn := serve(t, event.NewBus(0))
	c := adminv1.NewHostServiceClient(conn)
	if st, err := c.GetStatus(t.Context(), &adminv1.GetStatusRequest{}); err != nil || st.GuestsActive != 3 {
		t.Errorf("status %v, %v", st, err)
	}
	if r, err := c.ListPlugins(t.Context(), &adminv1.ListPluginsRequest{}); err != nil || len(r.Plugins) != 1 {
		t.Errorf("plugins %v, %v", r, err)
	}
	if r, err := c.ListGuests(t.Context(), &adminv1.ListGuestsRequest{}); err != nil || len(r.Guests) != 1 {
		t.Errorf("guests %v, %v", r, err)
	}
	if r, err := c.ReleaseLock(t.Context(), &adminv1.ReleaseLockRequest{Id: "7", Force: true}); err != nil || r.Lock.GetId() != "7" {
		t.Errorf("released %v, %v", r, err)
	}
	if _, err := c.ReleaseLock(t.Context(), &adminv1.ReleaseLockRequest{Id: "7"}); !verr.Is(verr.From(err), verr.OperationInvalid) {
		t.Errorf("release of a lock whose owner lives: %v", err)
	}
	if _, err := c.ListLocks(t.Context(), &adminv1.ListLocksRequest{}); !verr.Is(verr.From(err), verr.OperationFailed) {
		t.Errorf("locks without a lock daemon: %v", err)
	}
	jobs, err := c.ListJobs(t.Context(), &adminv1.ListJobsRequest{})
	if err != nil || len(jobs.Jobs) != 1 || jobs.Jobs[0].Kind != "refresh" {
		t.Errorf("jobs: %v, %v", jobs, err)
	}
	for id, want := range map[uint64]codes.Code{7: codes.OK, 8: codes.InvalidArgument} {
		if _, err := c.CancelJob(t.Context(), &adminv1.CancelJobRequest{Id: id}); status.Code(err) != want {
			t.Errorf("cancel job %d: %v", id, err)
		}
	}
	if _, err := c.RestartPlugin(t.Context(), &adminv1.RestartPluginRequest{Name: "none"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("restart of no plugin: %v", err)
	}
	if r, err := c.RestartPlugin(t.Context(), &adminv1.RestartPluginRequest{Name: "test"}); err != nil || r.Plugin.Generation != 2 {
		t.Errorf("restart: %v, %v", r, err)
	}
	if _, err := c.ResetPlugin(t.Context(), &adminv1.ResetPluginRequest{Name: "none"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("reset of an unknown plugin: %v", err)
	}
	h, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil || h.Status != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("health %v, %v", h, err)
	}
}

func TestWatchResumesAndRefusesWhatIsNotKept(t *testing.T) {
	bus := event.NewBus(100)
	c := adminv1.NewHostServiceClient(serve(t, bus))
	id := uuid.New()
	for detail := range int32(3) {
		bus.Publish(event.Event{URI: "test:///default", Name: "guest", UUID: id, ID: 7, Domain: &pb.Event{
			Event: &pb.Event_Lifecycle{Lifecycle: &pb.LifecycleEvent{Event: 2, Detail: detail}},
		}})
	}
	stream, err := c.WatchEvents(t.Context(), &adminv1.WatchEventsRequest{After: 101})
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(102); seq <= 103; seq++ {
		e, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e.Seq != seq || e.Kind != "domain.lifecycle" || e.Uuid != id.String() || e.Details["event"] != "2" || e.Details["id"] != "7" {
			t.Errorf("event %v", e)
		}
	}
	old, err := c.WatchEvents(t.Context(), &adminv1.WatchEventsRequest{After: 7})
	if err == nil {
		_, err = old.Recv()
	}
	if status.Code(err) != codes.OutOfRange {
		t.Errorf("watch from an event that is not kept: %v", err)
	}
}

func TestEventsAreToldByTheKindOfTheirObject(t *testing.T) {
	bus := event.NewBus(0)
	c := adminv1.NewHostServiceClient(serve(t, bus))
	for _, e := range []event.Event{
		{Pool: &event.Pool{Lifecycle: 2}},
		{Pool: &event.Pool{Refreshed: true}},
		{Secret: &event.Secret{Lifecycle: 1}},
		{Secret: &event.Secret{Changed: true}},
		{Network: &event.Network{Lifecycle: 3}},
		{ID: 4, Domain: &pb.Event{Event: &pb.Event_Reboot{Reboot: &pb.RebootEvent{}}}},
	} {
		bus.Publish(e)
	}
	bus.Publish(event.Event{Pool: &event.Pool{Lifecycle: 2}})
	stream, err := c.WatchEvents(t.Context(), &adminv1.WatchEventsRequest{After: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"pool.refresh map[]", "secret.lifecycle map[event:1]", "secret.value_changed map[]", "network.lifecycle map[event:3]",
		"domain.reboot map[id:4]", "pool.lifecycle map[event:2]",
	} {
		e, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(e.GetKind(), " ", e.GetDetails()); got != want {
			t.Errorf("told %s, want %s", got, want)
		}
	}
}
