package lockmanager

import (
	"time"

	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/sdk/faketest"
	lockv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

// watch opens a stream and reads its hello.
func (h *host) watch() grpc.ServerStreamingClient[lockv1.WatchResponse] {
	h.b.Helper()
	stream, err := h.manager.Watch(h.b.ctx(), &lockv1.WatchRequest{})
	if err != nil {
		h.b.Fatalf("watch: %v", err)
	}
	first, err := stream.Recv()
	if err != nil || first.GetLease() != nil {
		h.b.Fatalf("the first message of a watch stream is %v, %v; want one without a lease", first, err)
	}
	return stream
}

func watchBegins(b *bench) {
	g := b.here().guest("guest")
	r := b.disk()
	g.take(r)
	b.here().watch()
	b.here().watch() // a core that was restarted, before the old stream has ended
	b.wantTaken("with two streams", r)
}

func lossIsTold(b *bench) {
	if b.factory.Lose == nil {
		b.Skip("the factory cannot take a lock away")
	}
	r := b.disk()
	g := b.here().guest("guest")
	lease := g.take(r)[0]
	g.start()
	if _, err := g.acquire(nil, r); err != nil {
		b.Fatalf("with a process: %v", err)
	}
	stream := b.here().watch()
	b.factory.Lose(b.T, lease)
	for {
		change, err := stream.Recv()
		if err != nil {
			b.Fatalf("the loss of the lock was not told: %v", err)
		}
		l := change.GetLease()
		if l.GetOwner().GetUuid() != g.owner.GetUuid() || l.GetStatus() != lockv1.Status_STATUS_LOST {
			continue
		}
		b.wantHeld(l, g, r, lockv1.Status_STATUS_LOST)
		if l.GetDetail() == "" {
			b.Error("the lease does not say why it is lost")
		}
		if until := change.GetUntil(); until != nil && until.AsTime().Before(time.Now().Add(-time.Minute)) {
			b.Errorf("it is lost from %v on, which is long past", until.AsTime())
		}
		return
	}
}

// killedLosesNothing kills the manager's process while a guest has a lock.
func killedLosesNothing(b *bench) {
	if b.factory.Command == nil {
		b.Skip("the factory cannot make a process of the manager")
	}
	config := b.here().config
	b.here().core.Stop() // the process takes its place
	h := &host{b: b, config: config, core: faketest.Launch(b.T, config, b.factory.Command)}
	h.manager = lockv1.NewManagerServiceClient(h.core.Conn)
	b.hosts[0] = h
	b.Cleanup(b.sweep) // before the process ends
	r := b.disk()
	g := h.guest("guest")
	token := g.take(r)[0].GetFencingToken()
	g.start()
	if _, err := g.acquire(nil, r); err != nil {
		b.Fatalf("with a process: %v", err)
	}
	for range 2 {
		h.core.Kill()
		if len(b.hosts) > 1 {
			b.wantTaken("while the manager is dead", r)
		}
		h.core.Relaunch(b.T, h.config, b.factory.Command)
		h.manager = lockv1.NewManagerServiceClient(h.core.Conn)
		l := g.recover(r)[0]
		b.wantHeld(l, g, r, lockv1.Status_STATUS_HELD)
		if l.GetFencingToken() != token {
			b.Errorf("after SIGKILL the token is %d, was %d", l.GetFencingToken(), token)
		}
		b.wantTaken("after SIGKILL", r)
	}
	g.release()
	b.wantFree("after a release", r)
}
