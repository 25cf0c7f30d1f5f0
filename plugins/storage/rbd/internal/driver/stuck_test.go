package driver

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/ceph"
	"github.com/lodgevirt/lodge/sdk/faketest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// frozen is a Ceph pool that answers nothing until it is released; the pool "living" answers at once, and is empty.
type frozen struct {
	ceph.Pool
	name    string
	release chan struct{}
}

func (f *frozen) wait() {
	if f.name != "living" {
		<-f.release
	}
}

func (f *frozen) Size() (total, free, used uint64, err error)         { f.wait(); return 3, 2, 1, nil }
func (f *frozen) Names() ([]string, error)                            { f.wait(); return nil, nil }
func (f *frozen) AllValues(string, string) (map[string][]byte, error) { f.wait(); return nil, nil }
func (f *frozen) Values(string, ...string) (map[string][]byte, error) { f.wait(); return nil, nil }
func (f *frozen) Open(string, bool) (ceph.Image, error)               { f.wait(); return nil, fmt.Errorf("none") }
func (f *frozen) Lock(string, string, string, time.Duration) error    { f.wait(); return nil }
func (f *frozen) SetValues(string, map[string][]byte) error           { f.wait(); return nil }
func (f *frozen) Close()                                              {}

// fake serves the driver with a fake Ceph, and returns definitions of pools on it.
func fake(t *testing.T, dial ceph.Dialer, missing error) (*grpc.ClientConn, func(name string) *pb.Pool) {
	t.Helper()
	conn := faketest.Client(t, Plugin("1.0.0", dial, missing))
	return conn, func(name string) *pb.Pool {
		rsp, err := pb.NewPoolServiceClient(conn).Validate(t.Context(), &pb.ValidateRequest{
			Xml: "<pool type='rbd'><name>" + name + "</name><source><name>" + name + "</name></source></pool>",
		})
		if err != nil {
			t.Fatal(err)
		}
		return &pb.Pool{Uuid: rsp.Uuid, Name: rsp.Name, Type: rsp.Type, Xml: rsp.Xml}
	}
}

func TestACephThatDoesNotAnswerKeepsNobodyElseWaiting(t *testing.T) {
	release := make(chan struct{})
	conn, pool := fake(t, func(o ceph.Options) (ceph.Pool, error) { return &frozen{name: o.Pool, release: release}, nil }, nil)
	pools, volumes := pb.NewPoolServiceClient(conn), pb.NewVolumeServiceClient(conn)
	stuck, living := pool("stuck"), pool("living")
	calls := map[string]func(context.Context) error{
		"check": func(ctx context.Context) error {
			_, err := pools.Check(ctx, &pb.CheckRequest{Pool: stuck})
			return err
		},
		"look": func(ctx context.Context) error {
			_, err := volumes.Look(ctx, &pb.LookRequest{Pool: stuck, Name: "v"})
			return err
		},
		"remove": func(ctx context.Context) error {
			_, err := volumes.Remove(ctx, &pb.RemoveRequest{Pool: stuck, Volume: &pb.Volume{Name: "v"}})
			return err
		},
		"refresh": func(ctx context.Context) error {
			s, err := pools.Refresh(ctx, &pb.RefreshRequest{Pool: stuck})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
	}
	for round := range 3 {
		for name, call := range calls {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			if err := call(ctx); err == nil {
				t.Errorf("round %d: %s succeeds", round, name)
			}
			cancel()
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var err error
	for ctx.Err() == nil { // the last of the calls is late only when its own side of it has noticed
		if _, err = pools.Check(ctx, &pb.CheckRequest{Pool: stuck}); err != nil && strings.Contains(err.Error(), "earlier calls") {
			break
		}
	}
	if code := verr.From(err).Code; code != verr.OperationTimeout || !strings.Contains(err.Error(), "earlier calls still wait") {
		t.Errorf("a stuck pool says %v", err)
	}
	if rsp, err := pools.Check(ctx, &pb.CheckRequest{Pool: living}); err != nil || !rsp.Active {
		t.Errorf("the other pool: %v, error %v", rsp, err)
	}
	close(release)
	for ctx.Err() == nil {
		if rsp, err := pools.Check(ctx, &pb.CheckRequest{Pool: stuck}); err == nil && rsp.Active {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Error("the pool does not come back")
}

func TestAConnectionThatIsNotMadeIsGivenUpInTime(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	conn, pool := fake(t, func(ceph.Options) (ceph.Pool, error) { <-release; return nil, fmt.Errorf("too late") }, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := pb.NewPoolServiceClient(conn).Start(ctx, &pb.StartRequest{Pool: pool("p")}); err == nil {
		t.Error("started")
	}
}

func TestADriverWithoutLibrariesSaysSo(t *testing.T) {
	conn, pool := fake(t, nil, fmt.Errorf("built without Ceph's libraries"))
	pools := pb.NewPoolServiceClient(conn)
	caps, err := pools.Capabilities(t.Context(), &pb.CapabilitiesRequest{})
	if err != nil || len(caps.Types) != 1 || caps.Types[0].Supported || caps.Types[0].Reason != "built without Ceph's libraries" {
		t.Errorf("capabilities %v, error %v", caps, err)
	}
	if _, err := pools.Start(t.Context(), &pb.StartRequest{Pool: pool("p")}); verr.From(err).Code != verr.OperationUnsupported {
		t.Errorf("start: %v", err)
	}
}
