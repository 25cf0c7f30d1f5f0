package lockmanager

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	lockv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func suspendAndResume(b *bench) {
	first, second := b.disk(), b.disk()
	g := b.here().guest("guest")
	g.take(first, second)
	g.start()
	if _, err := g.acquire(nil, first, second); err != nil {
		b.Fatalf("with a process: %v", err)
	}
	state := g.suspend()
	if l := g.of(b.here().list()); len(l) > 0 {
		b.Errorf("a guest that is suspended has %v", l)
	}
	if again := g.suspend(); len(state) > 0 && !bytes.Equal(again, state) {
		b.Errorf("the same release again has another state: %q, was %q", again, state)
	}
	for range 2 {
		leases, err := g.acquire(state, first, second)
		if err != nil || len(leases) != 2 {
			b.Fatalf("resume: %v, %v", leases, err)
		}
		b.wantHeld(leases[0], g, first, lockv1.Status_STATUS_HELD)
	}
	b.wantTaken("a disk of a guest that was resumed", second)
	b.wantTaken("another one", first)
}

// notResumedAfterOthers checks a manager that remembers; one that does not returns no state.
func notResumedAfterOthers(b *bench) {
	r, other := b.disk(), b.disk()
	g := b.here().guest("guest")
	g.take(r, other)
	state := g.suspend()
	somebody := b.there().guest("somebody")
	somebody.take(r)
	_, err := g.acquire(state, r, other)
	b.wantBusy("resume while somebody else has a disk", err, r, somebody)
	b.wantFree("the disk that nobody else has", other)
	somebody.release()
	if len(state) == 0 {
		return
	}
	_, err = g.acquire(state, r, other)
	b.wantCode("resume after somebody else had a disk", err, verr.ResourceBusy, verr.OperationInvalid)
	b.wantFree("the disk that was not given again", r)
}

func recoverTellsHeld(b *bench) {
	r, second := b.disk(), b.disk()
	g := b.here().guest("guest")
	leases := g.take(r, second)
	for range 2 {
		got := g.recover(r, second)
		for i, want := range []*lockv1.Resource{r, second} {
			b.wantHeld(got[i], g, want, lockv1.Status_STATUS_HELD)
			if got[i].GetFencingToken() != leases[i].GetFencingToken() {
				b.Errorf("the token is %d, was %d", got[i].GetFencingToken(), leases[i].GetFencingToken())
			}
		}
	}
	b.wantTaken("after recover", r)
}

func recoverTakesAgain(b *bench) {
	r := b.disk()
	g := b.here().guest("guest")
	if err := g.prepare(r); err != nil {
		b.Fatal(err)
	}
	b.wantHeld(g.recover(r)[0], g, r, lockv1.Status_STATUS_TAKEN_AGAIN)
	b.wantTaken("after recover has taken it again", r)
	if l := g.of(b.here().list()); len(l) != 1 {
		b.Errorf("the list is %v, want one lock", l)
	}
}

func recoverTellsLost(b *bench) {
	lost, free := b.disk(), b.disk()
	somebody := b.there().guest("somebody")
	somebody.take(lost)
	g := b.here().guest("guest")
	if err := g.prepare(lost, free); err != nil {
		b.Fatal(err)
	}
	leases := g.recover(lost, free)
	b.wantHeld(leases[0], g, lost, lockv1.Status_STATUS_LOST)
	if leases[0].GetDetail() == "" {
		b.Error("the lease does not say why it is lost")
	}
	b.wantHeld(leases[1], g, free, lockv1.Status_STATUS_TAKEN_AGAIN)
	b.wantHeld(somebody.recover(lost)[0], somebody, lost, lockv1.Status_STATUS_HELD)
	g.release()
	b.wantTaken("after the guest that does not have it has released it", lost)
}

func restartLosesNothing(b *bench) {
	r := b.disk()
	g := b.here().guest("guest")
	token := g.take(r)[0].GetFencingToken()
	g.start()
	if _, err := g.acquire(nil, r); err != nil {
		b.Fatalf("with a process: %v", err)
	}
	b.here().restart()
	b.wantTaken("after a restart", r)
	l := g.recover(r)[0]
	b.wantHeld(l, g, r, lockv1.Status_STATUS_HELD)
	if l.GetFencingToken() != token {
		b.Errorf("after a restart the token is %d, was %d", l.GetFencingToken(), token)
	}
	if list := g.of(b.here().list()); len(list) != 1 {
		b.Errorf("after a restart the list is %v", list)
	}
	b.wantTaken("after recover", r)
}

func releaseAfterRestart(b *bench) {
	r := b.disk()
	g := b.here().guest("guest")
	g.take(r)
	state := g.suspend()
	if _, err := g.acquire(state, r); err != nil {
		b.Fatalf("resume: %v", err)
	}
	b.here().restart()
	g.release()
	b.wantFree("after a release by the next process", r)
}

func listTells(b *bench) {
	first, second := b.disk(), b.disk()
	g, other := b.here().guest("guest"), b.there().guest("other")
	g.take(first)
	other.take(second)
	got := g.of(b.here().list())
	if len(got) != 1 {
		b.Fatalf("the list has %d locks of the guest: %v", len(got), got)
	}
	b.wantHeld(got[0], g, first, lockv1.Status_STATUS_HELD)
	if elsewhere := other.of(b.here().list()); len(b.hosts) > 1 && len(elsewhere) > 0 {
		b.Errorf("the list has locks of another host: %v", elsewhere)
	}
}

func tokensAscend(b *bench) {
	r := b.disk()
	last := uint64(0)
	for i := range 4 {
		g := b.hosts[i%len(b.hosts)].guest("guest")
		token := g.take(r)[0].GetFencingToken()
		if token == 0 && last == 0 {
			b.Skip("the manager has no fencing tokens")
		}
		if token <= last {
			b.Errorf("the token of holder %d is %d, that of the one before was %d", i, token, last)
		}
		last = token
		g.release()
	}
}

func oddNames(b *bench) {
	var all []*lockv1.Resource
	for _, name := range []string{
		"white space", "leading", " leading", "Leading", "trailing", "trailing ", "quote\"'`", "new\nline", "tab\t", "percent%2fsign",
		"uml\u00e4ut-\U0001f600", "..", "a,b;c:d", "back\\slash", "star*?[x]", "\x01\x7f",
	} {
		all = append(all, b.named(name))
	}
	for some := range slices.Chunk(all, b.factory.Resources) {
		g := b.here().guest("guest")
		for i, l := range g.take(some...) {
			b.wantHeld(l, g, some[i], lockv1.Status_STATUS_HELD)
		}
		if n := len(g.of(b.here().list())); n != len(some) {
			b.Errorf("%d locks are listed, %d were taken", n, len(some))
		}
	}
	for _, r := range all {
		b.wantTaken("a disk of an odd name", r)
	}
	released := 0
	for _, g := range b.guests {
		released += int(g.release())
	}
	if released != len(all) {
		b.Errorf("%d locks were released, %d were taken", released, len(all))
	}
	for _, r := range all {
		b.wantFree("a disk of an odd name", r)
	}
}

// oneOfMany has guests of all hosts compete for a disk. Each that gets it looks whether it is alone.
func oneOfMany(b *bench) {
	const guests, rounds = 8, 6
	r := b.disk()
	var inside, had atomic.Int64
	all := make([]*guest, guests)
	for i := range all {
		all[i] = b.hosts[i%len(b.hosts)].guest("guest")
		if err := all[i].prepare(r); err != nil {
			b.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for _, g := range all {
		wg.Go(func() {
			for range rounds {
				if _, err := g.acquire(nil, r); err != nil {
					if verr.From(err).Code != verr.ResourceBusy {
						b.Errorf("compete: %v", err)
					}
					continue
				}
				if n := inside.Add(1); n > 1 {
					b.Errorf("%d guests hold one disk", n)
				}
				had.Add(1)
				rsp, err := g.h.manager.Recover(b.ctx(), &lockv1.RecoverRequest{Owner: g.owner, Resources: []*lockv1.Resource{r}})
				if err != nil || len(rsp.GetLeases()) != 1 || rsp.GetLeases()[0].GetStatus() != lockv1.Status_STATUS_HELD {
					b.Errorf("the one that has the disk is told %v, %v", rsp, err)
				}
				inside.Add(-1)
				if _, err := g.h.manager.Release(b.ctx(), &lockv1.ReleaseRequest{Owner: g.owner}); err != nil {
					b.Errorf("release: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if had.Load() == 0 {
		b.Error("nobody got the disk")
	}
	b.wantFree("after all have released", r)
}

func crowd(b *bench) {
	var wg sync.WaitGroup
	for i := range b.factory.Crowd {
		g, r := b.hosts[i%len(b.hosts)].guest("crowd"), b.named(fmt.Sprintf("crowd-%d", i))
		wg.Go(func() {
			if leases, err := g.try(r); err != nil || len(leases) != 1 {
				b.Errorf("guest %q: %v, %v", g.owner.GetName(), leases, err)
			}
		})
	}
	wg.Wait()
	listed := 0
	for _, h := range b.hosts {
		listed += len(h.list())
	}
	if listed != b.factory.Crowd {
		b.Errorf("%d locks are listed, %d were taken", listed, b.factory.Crowd)
	}
	for _, g := range b.guests {
		wg.Go(func() {
			if _, err := g.h.manager.Release(b.ctx(), &lockv1.ReleaseRequest{Owner: g.owner}); err != nil {
				b.Errorf("release guest %q: %v", g.owner.GetName(), err)
			}
		})
	}
	wg.Wait()
}
