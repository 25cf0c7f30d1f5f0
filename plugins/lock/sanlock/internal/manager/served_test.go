package manager

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/client"
	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/sanlocktest"
	"github.com/lodgevirt/lodge/sdk/faketest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// served is a manager behind the SDK's server, as the core has it.
type served struct{ conn grpc.ClientConnInterface }

func (s served) manager() pb.ManagerServiceClient { return pb.NewManagerServiceClient(s.conn) }

// What a guest needs is asked for over the wire, with the settings that the core sends, and the answers are the core's to understand.
func TestManagerIsServed(t *testing.T) {
	t.Parallel()
	n := &node{TB: t, host: sanlocktest.NewHost(t, "host1"), dir: t.TempDir(), id: 1}
	h := faketest.Start(t, Plugin("0.0.0"))
	h.Configure(t, n.config())
	m := served{h.Conn}.manager()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	watch, err := m.Watch(ctx, &pb.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if hello, err := watch.Recv(); err != nil || hello.GetLease() != nil {
		t.Fatalf("watch began with %v, %v", hello, err)
	}
	who, wanted := newOwner("guest"), []*pb.Resource{disk("/images/a")}
	prepared, err := m.Prepare(ctx, &pb.PrepareRequest{Owner: who, Resources: wanted})
	if err != nil || !prepared.GetNeedsProcess() {
		t.Fatalf("prepared: %v, %v", prepared, err)
	}
	r := sanlocktest.Registration{Socket: prepared.GetRegistrations()[0].GetSocket()}
	for _, e := range prepared.GetRegistrations()[0].GetExchanges() {
		r.Exchanges = append(r.Exchanges, client.Exchange{Send: e.GetSend(), Want: e.GetWant(), Mask: e.GetMask()})
	}
	process := sanlocktest.NewOwner(t, r)
	who.Pid, who.StartTime = int32(process.PID), process.StartTime
	acquired, err := m.Acquire(ctx, &pb.AcquireRequest{Owner: who, Resources: wanted})
	if err != nil || len(acquired.GetLeases()) != 1 || acquired.GetLeases()[0].GetStatus() != pb.Status_STATUS_HELD {
		t.Fatalf("acquired: %v, %v", acquired, err)
	}
	// The core, too, may be away for a while.
	h.RestartCore(t)
	if listed, err := m.List(ctx, &pb.ListRequest{}); err != nil || len(listed.GetLeases()) != 1 {
		t.Errorf("listed: %v, %v", listed, err)
	}
	other := newOwner("other")
	other.Pid, other.StartTime = who.GetPid(), who.GetStartTime()+1
	if _, err := m.Acquire(ctx, &pb.AcquireRequest{Owner: other, Resources: wanted}); !verr.Is(verr.From(err), verr.OperationInvalid) {
		t.Errorf("error is %v", err)
	}
	n.host.Kill()
	lost, err := watch.Recv()
	if err != nil || lost.GetLease().GetStatus() != pb.Status_STATUS_LOST || lost.GetLease().GetOwner().GetUuid() != who.GetUuid() {
		t.Errorf("told of %v, %v", lost, err)
	}
	if released, err := m.Release(ctx, &pb.ReleaseRequest{Owner: who}); err != nil || released.GetReleased() != 1 {
		t.Errorf("released: %v, %v", released, err)
	}
}
