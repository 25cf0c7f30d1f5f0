package lockmanager_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/host/internal/lockmanager"
	"github.com/lodgevirt/lodge/sdk/faketest"
	"github.com/lodgevirt/lodge/sdk/lock"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// memory is a lock manager that holds exclusive locks of disks in a map; its test looks into it while no call is under way.
type memory struct {
	lock.Feed
	held     map[string]*pb.Lease
	prepared *pb.PrepareRequest
	acquired *pb.AcquireRequest
	needs    bool
}

func (m *memory) Prepare(_ context.Context, req *pb.PrepareRequest) (*pb.PrepareResponse, error) {
	m.prepared = req
	return &pb.PrepareResponse{NeedsProcess: m.needs, Registrations: []*pb.Registration{{Socket: "/run/manager"}}}, nil
}

func (m *memory) Acquire(_ context.Context, req *pb.AcquireRequest) (*pb.AcquireResponse, error) {
	m.acquired = req
	for _, r := range req.Resources {
		if l := m.held[r.Disk]; l != nil && l.Owner.Uuid != req.Owner.Uuid {
			return nil, verr.New(verr.ResourceBusy, "the lock on %q is held by %q", r.Disk, l.Owner.Name)
		}
	}
	rsp := &pb.AcquireResponse{}
	for _, r := range req.Resources {
		m.held[r.Disk] = &pb.Lease{Owner: req.Owner, Resource: r, Place: "memory:" + r.Disk, Status: pb.Status_STATUS_HELD}
		rsp.Leases = append(rsp.Leases, m.held[r.Disk])
	}
	return rsp, nil
}

func (m *memory) Release(_ context.Context, req *pb.ReleaseRequest) (*pb.ReleaseResponse, error) {
	rsp := &pb.ReleaseResponse{}
	for disk, l := range m.held {
		wanted := len(req.Resources) == 0
		for _, r := range req.Resources {
			wanted = wanted || r.Disk == disk
		}
		if wanted && l.Owner.Uuid == req.Owner.Uuid {
			delete(m.held, disk)
			rsp.Released++
		}
	}
	if req.Suspend {
		rsp.State = []byte("version 1")
	}
	return rsp, nil
}

func (m *memory) Recover(_ context.Context, req *pb.RecoverRequest) (*pb.RecoverResponse, error) {
	rsp := &pb.RecoverResponse{}
	for _, r := range req.Resources {
		l := &pb.Lease{Owner: req.Owner, Resource: r, Status: pb.Status_STATUS_LOST, Detail: "somebody was faster"}
		if have := m.held[r.Disk]; have != nil && have.Owner.Uuid == req.Owner.Uuid {
			l.Status, l.Detail = pb.Status_STATUS_HELD, ""
		}
		rsp.Leases = append(rsp.Leases, l)
	}
	return rsp, nil
}

func (m *memory) List(context.Context) ([]*pb.Lease, error) {
	var all []*pb.Lease
	for _, l := range m.held {
		all = append(all, l)
	}
	return all, nil
}

func serve(t *testing.T) (*memory, grpc.ClientConnInterface) {
	t.Helper()
	m := &memory{held: map[string]*pb.Lease{}}
	conn := faketest.Client(t, plugin.Plugin{
		Name: "memory", Version: "1.0.0", LockManager: func(plugin.Core) (lock.Manager, error) { return m, nil },
	})
	return m, conn
}

func life(name string) domain.Owner {
	return domain.Owner{UUID: uuid.NewSHA1(uuid.Nil, []byte(name)), Name: name, ID: 3, Generation: 7, URI: "test:///default"}
}

func disks(paths ...string) domain.Wants {
	w := domain.Wants{OnFailure: pb.Action_ACTION_RESTART}
	for _, p := range paths {
		w.Disks = append(w.Disks, domain.LockedDisk{Target: "vda", Path: p})
	}
	return w
}

func TestPluginGivesAndTakesLocks(t *testing.T) {
	m, conn := serve(t)
	locks := lockmanager.NewPlugin(conn)
	ctx, one := t.Context(), life("one")
	prepared, err := locks.Prepare(ctx, one, disks("/a", "/b"))
	if err != nil || prepared.Claim || len(prepared.Registrations) != 1 || m.prepared.OnFailure != pb.Action_ACTION_RESTART {
		t.Fatalf("prepared %+v by %v, error %v", prepared, m.prepared, err)
	}
	if _, err := locks.Acquire(ctx, one, disks("/a", "/b")); err != nil {
		t.Fatal(err)
	}
	_, err = locks.Acquire(ctx, life("two"), disks("/c", "/b"))
	if e := verr.From(err); e == nil || e.Code != verr.ResourceBusy || !strings.Contains(e.Error(), `held by "one"`) || m.held["/c"] != nil {
		t.Fatalf("a lock that is held: %v, %d held", err, len(m.held))
	}
	one.PID, one.StartTime = 12, 34
	if err := locks.Claim(ctx, one, disks("/a", "/b")); err != nil || m.held["/a"].Owner.Pid != 12 || m.held["/a"].Owner.StartTime != 34 {
		t.Fatalf("claimed %v, error %v", m.held["/a"], err)
	}
	only := disks("/a")
	if _, err := locks.Release(ctx, one, domain.Release{Only: &only}); err != nil || len(m.held) != 1 {
		t.Fatalf("%d locks after the release of one, error %v", len(m.held), err)
	}
	state, err := locks.Release(ctx, one, domain.Release{Suspend: true})
	if err != nil || string(state) != "version 1" || len(m.held) != 0 {
		t.Fatalf("state %q, %d locks, error %v", state, len(m.held), err)
	}
	again := disks("/a", "/b")
	again.State = state
	if _, err := locks.Acquire(ctx, one, again); err != nil || string(m.acquired.State) != "version 1" {
		t.Fatalf("acquired again by %v, error %v", m.acquired, err)
	}
}

func TestPluginNamesLeases(t *testing.T) {
	m, conn := serve(t)
	locks := lockmanager.NewPlugin(conn)
	wants := domain.Wants{Leases: []domain.NamedLease{{Lockspace: "space", Key: "key", Path: "/shared/leases", Offset: 512}}}
	if _, err := locks.Acquire(t.Context(), life("one"), wants); err != nil {
		t.Fatal(err)
	}
	if r := m.acquired.Resources[0]; r.Lockspace != "space" || r.Key != "key" || r.Path != "/shared/leases" || r.Offset != 512 || r.Disk != "" {
		t.Errorf("lease is asked for as %v", r)
	}
	m.acquired = nil
	if _, err := locks.Acquire(t.Context(), life("one"), domain.Wants{}); err != nil || m.acquired != nil {
		t.Errorf("a guest that needs nothing asked for %v, error %v", m.acquired, err)
	}
}

func TestPluginIsNotAskedForDisksElsewhere(t *testing.T) {
	m, conn := serve(t)
	locks := lockmanager.NewPlugin(conn)
	locks.Elsewhere = true
	wants := disks("/a")
	if prepared, err := locks.Prepare(t.Context(), life("one"), wants); err != nil || prepared.Claim || len(prepared.Registrations) != 0 {
		t.Errorf("prepared %+v, error %v", prepared, err)
	}
	if _, err := locks.Acquire(t.Context(), life("one"), wants); err != nil || m.prepared != nil || m.acquired != nil {
		t.Errorf("asked for %v, error %v", m.acquired, err)
	}
	wants.Leases = []domain.NamedLease{{Lockspace: "space", Key: "key"}}
	if _, err := locks.Acquire(t.Context(), life("one"), wants); err != nil || len(m.acquired.GetResources()) != 1 || m.acquired.Resources[0].Key != "key" {
		t.Errorf("with a lease asked for %v, error %v", m.acquired, err)
	}
}

func TestPluginTellsWhatIsLost(t *testing.T) {
	m, conn := serve(t)
	locks := lockmanager.NewPlugin(conn)
	one := life("one")
	if _, err := locks.Acquire(t.Context(), one, disks("/a")); err != nil {
		t.Fatal(err)
	}
	_, lost, err := locks.Reaffirm(t.Context(), one, disks("/a", "/b"), nil)
	if err != nil || len(lost) != 1 || lost[0] != (domain.LostLock{Path: "/b", Detail: "somebody was faster"}) {
		t.Fatalf("lost %v, error %v", lost, err)
	}
	stream, err := lockmanager.Watch(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	m.Publish(&pb.WatchResponse{Lease: &pb.Lease{Owner: m.held["/a"].Owner, Status: pb.Status_STATUS_TAKEN_AGAIN}})
	m.Publish(&pb.WatchResponse{Lease: &pb.Lease{
		Owner: m.held["/a"].Owner, Resource: m.held["/a"].Resource, Status: pb.Status_STATUS_LOST, Detail: "storage is away",
	}})
	told := make(chan lockmanager.Lost, 1)
	go func() { _ = stream.Follow(func(l lockmanager.Lost) { told <- l }) }()
	select {
	case l := <-told:
		want := lockmanager.Lost{UUID: one.UUID.String(), Generation: 7, Lock: domain.LostLock{Path: "/a", Detail: "storage is away"}}
		if l != want {
			t.Errorf("told %+v, want %+v", l, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("nobody was told of a lost lock")
	}
}

func TestPluginsLocksAreListedAndReleased(t *testing.T) {
	m, conn := serve(t)
	locks, keeper := lockmanager.NewPlugin(conn), lockmanager.PluginKeeper(conn)
	for _, name := range []string{"one", "two"} {
		if _, err := locks.Acquire(t.Context(), life(name), disks("/"+name, "/more of "+name)); err != nil {
			t.Fatal(err)
		}
	}
	listed, err := keeper.Locks(t.Context())
	if err != nil || len(listed) != 4 {
		t.Fatalf("listed %v, error %v", listed, err)
	}
	for _, l := range listed {
		if l.Disk != "/one" {
			continue
		}
		if l.OwnerName != "one" || l.OwnerGeneration != 7 || l.Path != "memory:/one" || l.State != "held" {
			t.Errorf("listed as %v", l)
		}
		if err := keeper.Release(t.Context(), l); err != nil || m.held["/one"] != nil || len(m.held) != 3 {
			t.Errorf("%d locks after a release, error %v", len(m.held), err)
		}
		if err := keeper.Release(t.Context(), l); err == nil {
			t.Error("a lock was released twice")
		}
	}
}
