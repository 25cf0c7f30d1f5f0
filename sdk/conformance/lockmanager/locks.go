package lockmanager

import (
	"strings"

	"google.golang.org/protobuf/proto"

	lockv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func prepareTakesNothing(b *bench) {
	r := b.disk()
	g := b.here().guest("guest")
	for range 2 {
		if err := g.prepare(r); err != nil {
			b.Fatalf("prepare: %v", err)
		}
	}
	if l := g.of(b.here().list()); len(l) > 0 {
		b.Errorf("after prepare there are locks: %v", l)
	}
	b.wantFree("after prepare", r)
}

func prepareRefuses(b *bench) {
	g := b.here().guest("guest")
	for what, r := range map[string]*lockv1.Resource{
		"a resource that is nothing":    {},
		"a disk whose path is relative": {Disk: "relative.img"},
	} {
		_, err := b.here().manager.Prepare(b.ctx(), &lockv1.PrepareRequest{Owner: g.owner, Resources: []*lockv1.Resource{r}})
		b.wantCode(what, err, verr.ConfigUnsupported, verr.InvalidArg)
		if err != nil && r.GetDisk() != "" && !strings.Contains(verr.From(err).Message, r.GetDisk()) {
			b.Errorf("%s: the error %q does not name it", what, verr.From(err).Message)
		}
	}
}

// wantHeld fails unless a lease says that a guest holds a resource.
func (b *bench) wantHeld(l *lockv1.Lease, g *guest, r *lockv1.Resource, s lockv1.Status) {
	b.Helper()
	if !proto.Equal(l.GetResource(), r) {
		b.Errorf("the lease is for %v, want %v", l.GetResource(), r)
	}
	if l.GetOwner().GetUuid() != g.owner.GetUuid() || l.GetOwner().GetGeneration() != g.owner.GetGeneration() {
		b.Errorf("the lease is that of %v, want %v", l.GetOwner(), g.owner)
	}
	if l.GetStatus() != s {
		b.Errorf("the lease of %v is %v (%s), want %v", r, l.GetStatus(), l.GetDetail(), s)
	}
	if l.GetStatus() == lockv1.Status_STATUS_HELD && l.GetDetail() != "" {
		b.Errorf("a lease that is held says why it is not: %q", l.GetDetail())
	}
	if l.GetPlace() == "" {
		b.Errorf("the lease of %v does not tell where it lies", r)
	}
}

func acquireGrants(b *bench) {
	g := b.here().guest("guest")
	resources := []*lockv1.Resource{b.disk(), b.disk(), b.disk()}
	for i, l := range g.take(resources...) {
		b.wantHeld(l, g, resources[i], lockv1.Status_STATUS_HELD)
		if l.GetSince() == nil || l.GetSince().CheckValid() != nil || l.GetSince().GetSeconds() <= 0 {
			b.Errorf("the lease is held since %v", l.GetSince())
		}
	}
}

func acquireRepeats(b *bench) {
	r, more := b.disk(), b.disk()
	g := b.here().guest("guest")
	first := g.take(r)[0]
	again, err := g.acquire(nil, r)
	if err != nil || len(again) != 1 {
		b.Fatalf("the same again: %v, %v", again, err)
	}
	if again[0].GetFencingToken() != first.GetFencingToken() {
		b.Errorf("the same again has token %d, had %d: it was taken anew", again[0].GetFencingToken(), first.GetFencingToken())
	}
	g.start()
	started, err := g.acquire(nil, r)
	if err != nil || len(started) != 1 {
		b.Fatalf("the same with a process: %v, %v", started, err)
	}
	if started[0].GetFencingToken() != first.GetFencingToken() {
		b.Errorf("the same with a process has token %d, had %d: it was taken anew", started[0].GetFencingToken(), first.GetFencingToken())
	}
	b.wantHeld(started[0], g, r, lockv1.Status_STATUS_HELD)
	if l := g.of(b.here().list()); len(l) != 1 || l[0].GetOwner().GetPid() != g.owner.GetPid() {
		b.Errorf("the list is %v, want one lock of process %d", l, g.owner.GetPid())
	}
	if err := g.prepare(more); err != nil {
		b.Fatalf("prepare another disk: %v", err)
	}
	if _, err := g.acquire(nil, r, more); err != nil {
		b.Errorf("a disk that is held and another one: %v", err)
	}
	b.wantTaken("a disk that was added", more)
	b.wantTaken("the first disk", r)
}

func busyOnTheHost(b *bench) {
	r := b.disk()
	g, other := b.here().guest("holder"), b.here().guest("other")
	g.take(r)
	_, err := other.try(r)
	b.wantBusy("a second guest on the host", err, r, g)
	if l := g.recover(r)[0]; l.GetStatus() != lockv1.Status_STATUS_HELD {
		b.Errorf("after a refusal the holder's lock is %v", l)
	}
}

func busyElsewhere(b *bench) {
	r := b.disk()
	g := b.here().guest("holder")
	g.take(r)
	_, err := b.there().guest("other").try(r)
	b.wantBusy("a guest on another host", err, r, g)
	if len(b.hosts) > 1 {
		_, err = g.moved(b.there()).try(r)
		b.wantBusy("the same guest on another host", err, r, g)
	}
	g.release()
	b.wantFree("after a release", r)
}

func busyForAnotherLife(b *bench) {
	r := b.disk()
	g := b.here().guest("guest")
	g.take(r)
	next := g.nextLife()
	_, err := next.try(r)
	b.wantCode("the next life of the guest while the lock is the last one's", err, verr.ResourceBusy)
	g.release()
	if _, err := next.try(r); err != nil {
		b.Errorf("the next life once the last one has released: %v", err)
	}
}

func allOrNone(b *bench) {
	first, taken, last := b.disk(), b.disk(), b.disk()
	g := b.there().guest("holder")
	g.take(taken)
	other := b.here().guest("other")
	_, err := other.try(first, taken, last)
	b.wantBusy("one of three is taken", err, taken, g)
	if l := other.of(b.here().list()); len(l) > 0 {
		b.Errorf("after a refusal the guest has %v", l)
	}
	b.wantFree("a disk before the one that was taken", first)
	b.wantFree("a disk after the one that was taken", last)
}

func sharedShare(b *bench) {
	if b.factory.Exclusive {
		b.Skip("the manager has no shared locks")
	}
	r := b.disk()
	one, two, three := b.here().guest("one"), b.there().guest("two"), b.here().guest("three")
	b.wantHeld(one.take(sharing(r))[0], one, sharing(r), lockv1.Status_STATUS_HELD)
	two.take(sharing(r))
	three.take(sharing(r))
	b.wantTaken("a disk that is shared, for one that does not share", r)
	one.release()
	three.release()
	b.wantTaken("a disk that one still shares", r)
	two.release()
	alone := b.there().guest("alone")
	alone.take(r)
	_, err := one.try(sharing(r))
	b.wantBusy("sharing what somebody has alone", err, r, alone)
}

func leasesAreLocked(b *bench) {
	if b.factory.Lease == nil {
		b.Skip("the factory has no leases")
	}
	r := b.factory.Lease(b.T, "space", "key")
	others := []*lockv1.Resource{b.factory.Lease(b.T, "space", "key2"), b.factory.Lease(b.T, "space2", "key")}
	g := b.here().guest("guest")
	b.wantHeld(g.take(r)[0], g, r, lockv1.Status_STATUS_HELD)
	_, err := b.there().guest("other").try(r)
	b.wantBusy("a lease on another host", err, r, g)
	for _, o := range others {
		b.wantFree("another lease", o)
	}
	g.release(r)
	b.wantFree("a lease that was released", r)
}

func releaseEnds(b *bench) {
	r := b.disk()
	g := b.here().guest("guest")
	if n := g.release(); n != 0 {
		b.Errorf("a guest that has nothing has released %d", n)
	}
	g.take(r)
	if n := g.release(); n != 1 {
		b.Errorf("a guest that has one lock has released %d", n)
	}
	if n := g.release(r); n != 0 {
		b.Errorf("a guest that has released everything has released %d", n)
	}
	b.wantFree("after a release", r)
	g.take(r)
	b.wantTaken("when it is locked again", r)
}

func releaseOfSome(b *bench) {
	first, second := b.disk(), b.disk()
	g := b.here().guest("guest")
	g.take(first, second)
	if n := g.release(first); n != 1 {
		b.Errorf("%d locks were released, want 1", n)
	}
	b.wantFree("a disk that was released", first)
	b.wantTaken("a disk that was not", second)
	if l := g.of(b.here().list()); len(l) != 1 || l[0].GetResource().GetDisk() != second.GetDisk() {
		b.Errorf("the list is %v, want the lock of %v", l, second)
	}
}

func releaseOfAnotherLife(b *bench) {
	r := b.disk()
	g := b.here().guest("guest")
	g.take(r)
	if n := g.nextLife().release(); n != 0 {
		b.Errorf("another life has released %d locks", n)
	}
	b.wantTaken("after another life has released", r)
}
