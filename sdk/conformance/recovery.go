package conformance

import (
	"testing"

	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// fates are guests of every fate, by what Recover shall say of them.
type fates struct {
	running, paused, stopped, never *guest
}

func (b *bench) fates() fates {
	b.Helper()
	f := fates{
		running: b.started("running"), paused: b.newGuest("paused"), stopped: b.started("stopped"), never: b.newGuest("never"),
	}
	req := b.startRequest(f.paused)
	req.Paused = true
	rsp, err := b.driver.Start(b.ctx(), req)
	if err != nil {
		b.Fatalf("start paused: %v", err)
	}
	f.paused.handle = rsp.GetHandle()
	b.stop(f.stopped)
	return f
}

// checkFates asks for each guest as the core would.
func (b *bench) checkFates(f fates) {
	b.Helper()
	b.wantRunning("a running guest with its handle", f.running, f.running.handle, pb.State_STATE_RUNNING)
	b.wantRunning("a running guest without a handle", f.running, nil, pb.State_STATE_RUNNING)
	b.wantRunning("a paused guest", f.paused, f.paused.handle, pb.State_STATE_PAUSED)
	if rsp := b.recover(f.stopped, f.stopped.handle); rsp.GetVerdict() != pb.Verdict_VERDICT_GONE {
		b.Errorf("a guest that was stopped: verdict %v, want gone", rsp.GetVerdict())
	}
	if rsp := b.recover(f.never, nil); rsp.GetVerdict() != pb.Verdict_VERDICT_NOT_STARTED {
		b.Errorf("a guest that never started: verdict %v, want not started", rsp.GetVerdict())
	}
	other := *f.running
	other.Guest = &pb.Guest{
		Connection: other.Connection, Uuid: other.Uuid, Name: other.Name, Generation: other.Generation + 1,
	}
	if rsp := b.recover(&other, nil); rsp.GetVerdict() != pb.Verdict_VERDICT_FOREIGN {
		b.Errorf("another life of a running guest: verdict %v, want foreign", rsp.GetVerdict())
	}
	b.wantState(f.running, pb.State_STATE_RUNNING)
}

func (b *bench) wantRunning(what string, g *guest, handle *pb.Handle, state pb.State) {
	b.Helper()
	rsp := b.recover(g, handle)
	if rsp.GetVerdict() != pb.Verdict_VERDICT_RUNNING || rsp.GetChange().GetState() != state {
		b.Errorf("%s: verdict %v, state %v, want running and %v", what, rsp.GetVerdict(), rsp.GetChange().GetState(), state)
		return
	}
	if handle == nil && rsp.GetHandle() == nil {
		b.Errorf("%s: there is no new handle", what)
	}
	if live, err := domxml.Parse(rsp.GetLiveXml()); err != nil || live.UUID != g.Uuid {
		b.Errorf("%s: live XML is not the guest's: %v", what, err)
	}
}

func recoverTells(b *bench) { b.checkFates(b.fates()) }

// restarted runs first with one plugin and then with another one in the same folders.
func (b *bench) restarted(first, then func()) {
	b.Helper()
	b.Run("before", func(t *testing.T) {
		b.plug(t)
		first()
	})
	b.plug(b.T)
	then()
}

func recoverTellsAfterRestart(b *bench) {
	var f fates
	b.restarted(func() { f = b.fates() }, func() { b.checkFates(f) })
}

func recoveredGuestObeys(b *bench) {
	var byHandle, bare *guest
	b.restarted(
		func() { byHandle, bare = b.started("by-handle"), b.started("bare") },
		func() {
			b.recover(byHandle, byHandle.handle)
			bare.handle = b.recover(bare, nil).GetHandle()
			for _, g := range []*guest{byHandle, bare} {
				if b.has("LifecycleService") {
					b.suspend(g)
					b.resume(g)
				}
				b.stop(g)
				b.wantState(g, pb.State_STATE_SHUTOFF)
			}
		})
}

func killedGuestIsGone(b *bench) {
	if b.factory.Kill == nil {
		b.Skip("the factory cannot kill a guest")
	}
	g := b.started("conformance")
	watch := b.watch(0, 0)
	b.factory.Kill(b.T, g.Guest, g.handle, b.settings)
	if b.factory.NoticesDeath {
		watch.wantEnd(g)
	}
	if rsp := b.recover(g, g.handle); rsp.GetVerdict() != pb.Verdict_VERDICT_GONE {
		b.Errorf("verdict %v, want gone", rsp.GetVerdict())
	}
	b.wantState(g, pb.State_STATE_SHUTOFF)
	b.stop(g)
	g.Generation++
	g.handle = nil
	b.start(g)
}
