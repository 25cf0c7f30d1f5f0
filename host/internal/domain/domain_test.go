package domain

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestLifeOfADomain(t *testing.T) {
	b := newBench(t)
	sub := b.bus.Subscribe()
	defer sub.Close()
	d := b.define("guest")
	if err := d.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if v := d.View(); v.ID != 1 || v.State != Running || b.locks.count() != 1 {
		t.Fatalf("after start: %+v, %d locks", v, b.locks.count())
	}
	if err := d.Suspend(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.Destroy(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if v := d.View(); v.ID != -1 || v.State != ShutOff || b.locks.count() != 0 {
		t.Fatalf("after destroy: %+v, %d locks", v, b.locks.count())
	}
	if err := d.Undefine(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	want := []string{"0/0@-1", "4/0@1", "2/0@1", "3/0@1", "6/2@1", "5/1@-1", "1/0@-1"}
	if diff := cmp.Diff(want, lifecycles(t, sub, len(want))); diff != "" {
		t.Fatal(diff)
	}
	if err := d.Start(t.Context(), 0); !verr.Is(err, verr.NoDomain) {
		t.Fatalf("start of an undefined domain: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	d := b.define("one")
	b.define("two")
	if err := d.Start(ctx, 0); err != nil {
		t.Fatal(err)
	}
	other := fmt.Sprintf("<domain type='test'><name>other</name><uuid>%s</uuid><memory>1</memory><os><type>hvm</type></os></domain>", d.View().UUID)
	tests := map[string]struct {
		do   func() error
		want verr.Code
	}{
		"a second domain of a name":        {func() error { _, err := b.Define(ctx, guestXML("one"), 0); return err }, verr.OperationFailed},
		"a second domain of a uuid":        {func() error { _, err := b.Define(ctx, other, 0); return err }, verr.OperationFailed},
		"malformed XML":                    {func() error { _, err := b.Define(ctx, "<domain", 0); return err }, verr.XMLError},
		"unknown flags":                    {func() error { _, err := b.Define(ctx, guestXML("x"), 1<<20); return err }, verr.InvalidArg},
		"starting a running domain":        {func() error { return d.Start(ctx, 0) }, verr.OperationInvalid},
		"renaming a running domain":        {func() error { return d.Rename(ctx, "three") }, verr.OperationInvalid},
		"a name that nobody has":           {func() error { _, err := b.ByName("nobody"); return err }, verr.NoDomain},
		"an id that nobody has":            {func() error { _, err := b.ByID(99); return err }, verr.NoDomain},
		"a capability that is not served":  {func() error { return d.Reset(ctx) }, verr.NoSupport},
		"autodestroy, which is not built":  {func() error { _, err := b.Create(ctx, guestXML("x"), createAutodestroy); return err }, verr.ArgumentUnsupported},
		"metadata that is not there":       {func() error { _, err := d.Metadata(1, "", 0); return err }, verr.NoDomainMetadata},
		"a console of an inactive domain":  {func() error { d, _ := b.ByName("two"); _, err := d.OpenConsole(ctx, "", false, false); return err }, verr.OperationInvalid},
		"destroying an inactive domain":    {func() error { d, _ := b.ByName("two"); return d.Destroy(ctx, 0) }, verr.OperationInvalid},
		"suspending an inactive domain":    {func() error { d, _ := b.ByName("two"); return d.Suspend(ctx) }, verr.OperationInvalid},
		"a name that is taken, for rename": {func() error { d, _ := b.ByName("two"); return d.Rename(ctx, "one") }, verr.OperationInvalid},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if err := tt.do(); verr.From(err) == nil || verr.From(err).Code != tt.want {
				t.Fatalf("error %v, want code %d", err, tt.want)
			}
		})
	}
	if n := b.Count(0); n != 2 {
		t.Fatalf("%d domains after refusals, want 2", n)
	}
}

func TestSecondGuestOnADiskIsRefused(t *testing.T) {
	b := newBench(t)
	first := b.define("guest")
	rival, err := b.Define(t.Context(), strings.Replace(guestXML("rival"), "/images/rival", "/images/guest", 1), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := rival.Start(t.Context(), 0); !verr.Is(err, verr.ResourceBusy) {
		t.Fatalf("start on a locked disk: %v", err)
	}
	if v := rival.View(); v.Active() || b.driver.lives(v.UUID.String()) {
		t.Fatalf("the refused guest runs: %+v", v)
	}
	if err := first.Destroy(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := rival.Start(t.Context(), 0); err != nil {
		t.Fatalf("start after the disk was freed: %v", err)
	}
}

func TestTransientDomain(t *testing.T) {
	b := newBench(t)
	d, err := b.Create(t.Context(), guestXML("guest"), createPaused)
	if err != nil {
		t.Fatal(err)
	}
	if v := d.View(); v.Persistent || !v.Active() {
		t.Fatalf("created: %+v", v)
	}
	b.restart()
	if d, err = b.ByName("guest"); err != nil {
		t.Fatalf("a transient guest outlives the core: %v", err)
	}
	known := strings.Replace(guestXML("guest"), "<name>", "<uuid>"+d.View().UUID.String()+"</uuid><name>", 1)
	if _, err := b.Define(t.Context(), known, 0); err != nil {
		t.Fatal(err)
	}
	if v := d.View(); !v.Persistent || !v.Active() {
		t.Fatalf("defined while it runs: %+v", v)
	}
	if err := d.Undefine(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := d.Destroy(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if n := b.Count(0); n != 0 {
		t.Fatalf("%d domains are left of a transient one", n)
	}
}

func TestGenerationIsNotUsedAgainForTheNextDomainOfAUUID(t *testing.T) {
	b := newBench(t)
	seen := map[uint64]bool{}
	for range 3 {
		d, err := b.Create(t.Context(), guestXML("guest"), 0)
		if err != nil {
			t.Fatal(err)
		}
		if gen := d.View().Generation; seen[gen] {
			t.Fatalf("generation %d came twice", gen)
		}
		seen[d.View().Generation] = true
		if err := d.Destroy(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFailedStartLeavesNothing(t *testing.T) {
	b := newBench(t)
	d := b.define("guest")
	b.driver.hook(func(context.Context) error { return verr.New(verr.Internal, "qemu says no") }, nil)
	err := d.Start(t.Context(), 0)
	if e := verr.From(err); e == nil || e.Code != verr.Internal || e.Message != "qemu says no" {
		t.Fatalf("error %v", err)
	}
	if _, err := b.Create(t.Context(), guestXML("transient"), 0); !verr.Is(verr.From(err), verr.Internal) {
		t.Fatalf("create: %v", err)
	}
	if b.locks.count() != 0 || b.Count(ListActive) != 0 || b.Count(0) != 1 {
		t.Fatalf("%d locks, %d active, %d domains", b.locks.count(), b.Count(ListActive), b.Count(0))
	}
}

func TestCoreDiesDuringStart(t *testing.T) {
	for name, happened := range map[string]bool{"before the guest lives": false, "after it lives": true} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			d := b.define("guest")
			reached, hold := make(chan struct{}), make(chan struct{})
			stop := func(context.Context) error { close(reached); <-hold; return errors.New("dead") }
			if happened {
				b.driver.hook(nil, stop)
			} else {
				b.driver.hook(stop, nil)
			}
			go d.Start(context.Background(), 0)
			<-reached
			b.conn.Close() // nothing of the old core acts from here on
			b.cat.Close()
			close(hold)
			b.driver.hook(nil, nil)
			b.server.Stop()
			b.up()
			if err := b.Recover(t.Context(), pb.NewDriverServiceClient(b.conn)); err != nil {
				t.Fatal(err)
			}
			again, err := b.ByName("guest")
			if err != nil {
				t.Fatal(err)
			}
			if v := again.View(); v.Active() != happened || v.Unknown || b.driver.lives(v.UUID.String()) != happened {
				t.Fatalf("found %+v", v)
			}
			if want := map[bool]int{true: 1, false: 0}[happened]; b.locks.count() != want {
				t.Fatalf("%d locks, want %d", b.locks.count(), want)
			}
		})
	}
}

func TestDriverThatIsRestartedBeforeAStartIsHandedTheLocksAgain(t *testing.T) {
	b := newBench(t)
	var err error
	if b.locks.file, err = os.Open(os.DevNull); err != nil {
		t.Fatal(err)
	}
	d := b.define("guest")
	b.driver.hook(func(context.Context) error {
		if b.files.n.Load() > 1 {
			return nil
		}
		b.incarnation.Add(1) // it took the descriptor and died
		return verr.New(verr.OperationFailed, "descriptor did not arrive")
	}, nil)
	if err := d.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if n := b.files.n.Load(); n != 2 {
		t.Fatalf("%d descriptors were sent, want one to each process", n)
	}
}

func TestDestroyBreaksIntoAHungStart(t *testing.T) {
	b := newBench(t)
	d := b.define("guest")
	reached := make(chan struct{})
	b.driver.hook(func(ctx context.Context) error { close(reached); <-ctx.Done(); return ctx.Err() }, nil)
	started := make(chan error, 1)
	go func() { started <- d.Start(context.Background(), 0) }()
	<-reached
	if err := d.Destroy(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := <-started; err == nil {
		t.Fatal("a start that was broken off has succeeded")
	}
	if v := d.View(); v.Active() || v.Unknown || b.locks.count() != 0 {
		t.Fatalf("after destroy: %+v, %d locks", v, b.locks.count())
	}
}

func TestGuestThatEndsByItself(t *testing.T) {
	b := newBench(t)
	d := b.define("guest")
	if err := d.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	w := b.Watcher()
	stream, resync, err := w.Open(t.Context(), pb.NewDriverServiceClient(b.conn))
	if err != nil || !resync {
		t.Fatalf("first watch: resync %v, %v", resync, err)
	}
	go w.Follow(stream)
	sub := b.bus.Subscribe()
	defer sub.Close()
	g := d.state.Load().guest("default")
	old := &pb.Guest{Uuid: g.Uuid, Generation: g.Generation - 1}
	off := &pb.Change{State: pb.State_STATE_SHUTOFF, Reason: 1, Events: []*pb.Event{lifecycle(6, 1), lifecycle(5, 0)}}
	b.driver.events <- &pb.WatchEvent{Seq: 1, Guest: old, Change: off} // of an earlier life: to be ignored
	b.driver.events <- &pb.WatchEvent{Seq: 2, Guest: g, Change: &pb.Change{State: pb.State_STATE_PAUSED, Reason: 5, Events: []*pb.Event{lifecycle(3, 2)}}}
	b.driver.events <- &pb.WatchEvent{Seq: 3, Guest: g, Change: off}
	want := []string{"3/2@1", "6/1@1", "5/0@-1"}
	if diff := cmp.Diff(want, lifecycles(t, sub, len(want))); diff != "" {
		t.Fatal(diff)
	}
	if v := d.View(); v.Active() || v.Reason != 1 || b.locks.count() != 0 {
		t.Fatalf("after power-off: %+v, %d locks", v, b.locks.count())
	}
}

func TestGuestLostWhileTheCoreWasAway(t *testing.T) {
	b := newBench(t)
	d := b.define("guest")
	if err := d.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	b.driver.mu.Lock()
	clear(b.driver.alive)
	b.driver.mu.Unlock()
	b.restart()
	d, err := b.ByName("guest")
	if err != nil {
		t.Fatal(err)
	}
	if v := d.View(); v.Active() || v.Reason != 3 || b.locks.count() != 0 {
		t.Fatalf("found %+v, %d locks", v, b.locks.count())
	}
}

func TestGuestWithAJobUnderWayIsRecoveredAfterIt(t *testing.T) {
	b := newBench(t)
	d := b.define("guest")
	if err := d.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	j, err := d.begin(t.Context(), "something else")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Recover(t.Context(), pb.NewDriverServiceClient(b.conn)); err != nil {
		t.Fatal(err)
	}
	if b.driver.recovers() != 0 {
		t.Fatal("the guest was recovered in the middle of a job")
	}
	j.end()
	for deadline := time.Now().Add(10 * time.Second); b.driver.recovers() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the guest was not recovered after the job")
		}
	}
}

func TestForeignGuestIsShownAndNotTouched(t *testing.T) {
	b := newBench(t)
	d := b.define("guest")
	if err := d.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	b.driver.mu.Lock()
	b.driver.alive[d.uuid.String()] += 7
	b.driver.mu.Unlock()
	b.restart()
	d, _ = b.ByName("guest")
	if v := d.View(); !v.Unknown || b.locks.count() != 1 {
		t.Fatalf("found %+v, %d locks", v, b.locks.count())
	}
	if err := d.Suspend(t.Context()); !verr.Is(err, verr.OperationInvalid) {
		t.Fatalf("suspend: %v", err)
	}
}

func TestRenameAndMetadata(t *testing.T) {
	b := newBench(t)
	d := b.define("old")
	title := "A title"
	if err := d.SetMetadata(t.Context(), 1, &title, "", "", 0); err != nil {
		t.Fatal(err)
	}
	if err := d.Rename(t.Context(), "new"); err != nil {
		t.Fatal(err)
	}
	b.restart()
	if _, err := b.ByName("old"); !verr.Is(err, verr.NoDomain) {
		t.Fatalf("the old name: %v", err)
	}
	d, err := b.ByName("new")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.Metadata(1, "", 0); err != nil || got != title || d.View().Title != title {
		t.Fatalf("title %q, view %q, %v", got, d.View().Title, err)
	}
}

func TestManyClientsAtOnce(t *testing.T) {
	b := newBench(t)
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			for k := range 20 {
				name := fmt.Sprintf("guest%d", (n+k)%4)
				d, err := b.ByName(name)
				if err != nil {
					d, err = b.Define(context.Background(), guestXML(name), 0)
				}
				if err != nil {
					continue
				}
				d.Start(context.Background(), 0)
				d.XML(0)
				d.Destroy(context.Background(), 0)
				if k%5 == 0 {
					d.Undefine(context.Background(), 0)
				}
			}
		})
	}
	wg.Wait()
	for _, v := range b.List(0) {
		if v.Active() != b.driver.lives(v.UUID.String()) {
			t.Errorf("%s: active %v, lives %v", v.Name, v.Active(), b.driver.lives(v.UUID.String()))
		}
	}
	if b.locks.count() != b.Count(ListActive) {
		t.Errorf("%d locks for %d guests", b.locks.count(), b.Count(ListActive))
	}
}

func TestAutostartHappensOnceABoot(t *testing.T) {
	b := newBench(t)
	d := b.define("guest")
	if err := d.SetAutostart(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	for _, boot := range []struct {
		id   string
		want bool
	}{{"first", true}, {"first", false}, {"second", true}} {
		if err := b.Autostart(t.Context(), boot.id); err != nil {
			t.Fatal(err)
		}
		if got := d.View().Active(); got != boot.want {
			t.Fatalf("boot %s: active %v, want %v", boot.id, got, boot.want)
		}
		if boot.want {
			if err := d.Destroy(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestFullDiskLosesNothing(t *testing.T) {
	b := newBench(t)
	b.define("guest")
	b.cat.Close() // every write fails from here on, as on a full disk
	if _, err := b.Define(t.Context(), guestXML("more"), 0); !verr.Is(err, verr.OperationFailed) {
		t.Fatalf("define: %v", err)
	}
	if _, err := b.Create(t.Context(), guestXML("more"), 0); !verr.Is(err, verr.OperationFailed) {
		t.Fatalf("create: %v", err)
	}
	if b.Count(0) != 1 || len(b.all()) != 1 {
		t.Fatalf("%d domains, %d with hidden ones", b.Count(0), len(b.all()))
	}
}

func BenchmarkList10000(b *testing.B) {
	i, err := benchInventory(b, 10000)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if n := len(i.List(0)); n != 10000 {
			b.Fatal(n)
		}
	}
}

func benchInventory(b *testing.B, n int) (*Inventory, error) {
	c, err := catalog.Open(b.TempDir() + "/catalog.db")
	if err != nil {
		return nil, err
	}
	b.Cleanup(func() { c.Close() })
	err = c.Update(func(tx *catalog.Tx) error {
		for k := range n {
			d := catalog.Domain{Name: fmt.Sprintf("guest%05d", k), Persistent: true}
			d.UUID[0], d.UUID[1], d.UUID[2] = byte(k), byte(k>>8), byte(k>>16)
			if err := tx.PutDomain("fake:///default", &d); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	i, err := New(Config{URI: "fake:///default", Catalog: c})
	b.Logf("loaded in %v", time.Since(begin))
	return i, err
}
