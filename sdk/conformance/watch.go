package conformance

import (
	"google.golang.org/grpc"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// watcher reads a watch stream.
type watcher struct {
	b      *bench
	stream grpc.ServerStreamingClient[pb.WatchResponse]
	hello  *pb.Hello
}

// watch opens a stream and reads its hello.
func (b *bench) watch(epoch, after uint64) *watcher {
	b.Helper()
	req := &pb.WatchRequest{Connection: b.factory.Connection, Epoch: epoch, AfterSeq: after}
	stream, err := b.driver.Watch(b.ctx(), req)
	if err != nil {
		b.Fatalf("watch: %v", err)
	}
	first, err := stream.Recv()
	if err != nil || first.GetHello() == nil {
		b.Fatalf("the first message of a watch stream is %v, %v; want a hello", first, err)
	}
	return &watcher{b: b, stream: stream, hello: first.GetHello()}
}

// wantEnd reads until the end of a guest is told, and returns the number of that event.
func (w *watcher) wantEnd(g *guest) uint64 {
	w.b.Helper()
	for last := uint64(0); ; {
		rsp, err := w.stream.Recv()
		if err != nil {
			w.b.Fatalf("the end of guest %q was not told: %v", g.Name, err)
		}
		e := rsp.GetEvent()
		if e.GetSeq() <= last || e.GetTime() == nil {
			w.b.Errorf("event %v after number %d: numbers ascend, and every event has a time", e, last)
		}
		last = e.GetSeq()
		ends := e.GetChange().GetState() == pb.State_STATE_SHUTOFF || e.GetChange().GetState() == pb.State_STATE_CRASHED
		if e.GetGuest().GetUuid() != g.Uuid || !ends {
			continue
		}
		if e.GetGuest().GetGeneration() != g.Generation || !tells(e.GetChange(), eventStopped) {
			w.b.Errorf("event %v does not tell that this life of the guest has stopped", e)
		}
		return last
	}
}

func watchGoesOn(b *bench) {
	first := b.watch(0, 0)
	if first.hello.GetEpoch() == 0 || !first.hello.GetResync() {
		b.Errorf("the first hello is %v; want an epoch, and resync for a core that knows nothing", first.hello)
	}
	if again := b.watch(first.hello.GetEpoch(), 0); again.hello.GetEpoch() != first.hello.GetEpoch() || again.hello.GetResync() {
		b.Errorf("a second hello of the same process is %v; want the same epoch without resync", again.hello)
	}
	if other := b.watch(first.hello.GetEpoch()+1, 0); !other.hello.GetResync() {
		b.Error("a hello for another epoch does not ask for resync")
	}
	if b.factory.Kill == nil || !b.factory.NoticesDeath {
		return
	}
	g := b.started("conformance")
	b.factory.Kill(b.T, g.Guest, g.handle, b.settings)
	seq := first.wantEnd(g)
	if replayed := b.watch(first.hello.GetEpoch(), seq-1).wantEnd(g); replayed != seq {
		b.Errorf("the event is replayed under number %d, it was %d", replayed, seq)
	}
}
