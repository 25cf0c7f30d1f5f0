package conformance

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func startedGuestRuns(b *bench) {
	g := b.newGuest("conformance")
	rsp := b.start(g)
	if rsp.GetHandle() == nil {
		b.Error("there is no handle")
	}
	if n := len(rsp.GetHandle().GetData()); n > 64<<10 {
		b.Errorf("handle has %d bytes, more than 64 KiB", n)
	}
	if pid := rsp.GetHandle().GetPid(); pid != 0 && rsp.GetHandle().GetStartTime() == 0 {
		b.Errorf("handle has process %d without its start time", pid)
	}
	if c := rsp.GetChange(); c.GetState() != pb.State_STATE_RUNNING || !tells(c, eventStarted) {
		b.Errorf("change %v does not tell that the guest runs and was started", c)
	}
	live, err := domxml.Parse(rsp.GetLiveXml())
	if err != nil || live.UUID != g.Uuid {
		b.Errorf("live XML is not the guest's: %v\n%s", err, rsp.GetLiveXml())
	}
	b.wantState(g, pb.State_STATE_RUNNING)
}

func guestStartsPaused(b *bench) {
	g := b.newGuest("conformance")
	req := b.startRequest(g)
	req.Paused = true
	rsp, err := b.driver.Start(b.ctx(), req)
	if err != nil {
		b.Fatalf("start paused: %v", err)
	}
	g.handle = rsp.GetHandle()
	if rsp.GetChange().GetState() != pb.State_STATE_PAUSED {
		b.Errorf("change %v does not tell that the guest is paused", rsp.GetChange())
	}
	b.wantState(g, pb.State_STATE_PAUSED)
}

func secondStartIsRefused(b *bench) {
	g := b.started("conformance")
	_, err := b.try(g)
	b.wantCode("second start", err, verr.OperationInvalid)
	again := *g
	again.Guest = &pb.Guest{Connection: g.Connection, Uuid: g.Uuid, Name: g.Name, Generation: g.Generation + 1}
	_, err = b.try(&again)
	b.wantCode("second start under another generation", err, verr.OperationInvalid)
	b.wantState(g, pb.State_STATE_RUNNING)
}

func refusedStartLeavesNothing(b *bench) {
	g := b.newGuest("conformance")
	good := g.xml
	g.xml = strings.Replace(g.xml, "<domain", "<domain><broken></domain", 1)
	if _, err := b.try(g); err == nil {
		b.Fatal("a malformed definition was started")
	}
	g.xml = good
	if v := b.recover(g, nil).GetVerdict(); v != pb.Verdict_VERDICT_NOT_STARTED {
		b.Errorf("after a refused start the verdict is %v", v)
	}
	b.start(g)
}

// interruptedStartLeavesNothing takes the caller away at many moments of a start.
func interruptedStartLeavesNothing(b *bench) {
	for _, patience := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond} {
		g := b.newGuest("conformance")
		ctx, cancel := context.WithTimeout(b.ctx(), patience)
		_, err := b.driver.Start(ctx, b.startRequest(g))
		cancel()
		b.stop(g)
		b.wantState(g, pb.State_STATE_SHUTOFF)
		if v := b.recover(g, nil).GetVerdict(); v != pb.Verdict_VERDICT_NOT_STARTED && v != pb.Verdict_VERDICT_GONE {
			b.Errorf("a start that was left after %v (%v) and stopped: verdict %v", patience, err, v)
		}
	}
}

func stopEnds(b *bench) {
	g := b.started("conformance")
	if c := b.stop(g); c.GetState() != pb.State_STATE_SHUTOFF || !tells(c, eventStopped) {
		b.Errorf("change %v does not tell that the guest was stopped", c)
	}
	b.wantState(g, pb.State_STATE_SHUTOFF)
	b.stop(g)
	g.handle = nil
	b.stop(g)
	never := b.newGuest("never started")
	b.stop(never)
}

func stopOfAnotherLife(b *bench) {
	g := b.started("conformance")
	other := *g
	other.Guest = &pb.Guest{Connection: g.Connection, Uuid: g.Uuid, Name: g.Name, Generation: g.Generation + 1}
	other.handle = nil
	_, _ = b.driver.Stop(b.ctx(), &pb.StopRequest{Guest: other.Guest}) // may succeed or be refused
	b.wantState(g, pb.State_STATE_RUNNING)
}

func guestStartsAgain(b *bench) {
	g := b.newGuest("conformance")
	for range 3 {
		b.start(g)
		b.wantState(g, pb.State_STATE_RUNNING)
		b.stop(g)
		g.Generation++
		g.handle = nil
	}
}

// crowd starts, inspects and stops many guests at once.
func crowd(b *bench) {
	guests := make([]*guest, b.factory.Crowd)
	for i := range guests {
		guests[i] = b.newGuest("crowd-" + string(rune('a'+i%26)) + string(rune('a'+i/26%26)))
	}
	ctx := b.ctx()
	var wg sync.WaitGroup
	for _, g := range guests {
		wg.Go(func() { liveAndDie(ctx, b, g) })
	}
	wg.Wait()
}

func liveAndDie(ctx context.Context, b *bench, g *guest) {
	rsp, err := b.driver.Start(ctx, b.startRequest(g))
	if err != nil {
		b.Errorf("start guest %q: %v", g.Name, err)
		return
	}
	state, err := b.driver.Inspect(ctx, &pb.InspectRequest{Guest: g.Guest, Handle: rsp.GetHandle()})
	if err != nil || state.GetState() != pb.State_STATE_RUNNING {
		b.Errorf("guest %q is %v, %v", g.Name, state, err)
	}
	if _, err := b.driver.Stop(ctx, &pb.StopRequest{Guest: g.Guest, Handle: rsp.GetHandle()}); err != nil {
		b.Errorf("stop guest %q: %v", g.Name, err)
	}
}
