package inventory_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"github.com/vmware/govmomi/vim25/types"
	"go.uber.org/goleak"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	"github.com/lodgevirt/lodge/plugins/esx/internal/follow"
	"github.com/lodgevirt/lodge/plugins/esx/internal/inventory"
	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a mirror of a simulated endpoint.
type rig struct {
	*vimtest.Server
	t       testing.TB
	mirror  *inventory.Mirror
	changes chan inventory.Change
}

// slack is the longest that a test waits for something to happen.
const slack = 20 * time.Second

func start(t testing.TB, o vimtest.Options) *rig {
	t.Helper()
	return startOn(t, vimtest.Start(t, o))
}

func startOn(t testing.TB, s *vimtest.Server) *rig {
	t.Helper()
	return startWith(t, s, inventory.Options{})
}

func startWith(t testing.TB, s *vimtest.Server, o inventory.Options) *rig {
	t.Helper()
	o.MaxWait, o.Grace = time.Second, 3*time.Second
	o.MinPause, o.MaxPause = 10*time.Millisecond, 50*time.Millisecond
	e, err := endpoint.Open(endpoint.Config{
		Name: "lab", Address: s.Address(), User: vimtest.User, Password: vimtest.Password, Thumbprint: s.SHA256(),
		ConnectTimeout: 3 * time.Second, CallTimeout: 5 * time.Second, MinBackoff: 10 * time.Millisecond, MaxBackoff: 50 * time.Millisecond,
	}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	r := &rig{Server: s, t: t, changes: make(chan inventory.Change, 10000)}
	r.mirror, err = inventory.Start(e, o, hclog.NewNullLogger(), func(c inventory.Change) { r.changes <- c })
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// synced waits for the first reading.
func (r *rig) synced() *rig {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), slack)
	defer cancel()
	if err := r.mirror.Synced(ctx); err != nil {
		r.t.Fatal(err)
	}
	r.expect("resynchronised")
	return r
}

// spell writes a change as tests expect it: kind, names, and events as EVENT/DETAIL.
func spell(c inventory.Change) string {
	words := []string{string(c.Kind)}
	if c.Old.Name != "" {
		words = append(words, c.Old.Name)
	}
	if c.New.Name != "" && c.New.Name != c.Old.Name {
		words = append(words, c.New.Name)
	}
	for _, e := range c.Events {
		words = append(words, fmt.Sprintf("%d/%d", e.Lifecycle.Event, e.Lifecycle.Detail))
	}
	return strings.Join(words, " ")
}

// next is the next change, without those that only tell that something beside the events has changed.
func (r *rig) next() inventory.Change {
	r.t.Helper()
	timeout := time.After(slack)
	for {
		select {
		case c := <-r.changes:
			if c.Kind != inventory.Changed || len(c.Events) > 0 || c.Old.Autostart != c.New.Autostart {
				return c
			}
		case <-timeout:
			r.t.Fatal("nothing is told")
		}
	}
}

// expect takes changes until each of those that are wanted, in this order, was told, and fails when others come.
func (r *rig) expect(wanted ...string) {
	r.t.Helper()
	for _, want := range wanted {
		if got := spell(r.next()); got != want {
			r.t.Fatalf("told is %q, want %q", got, want)
		}
	}
}

func both(t *testing.T, test func(t *testing.T, o vimtest.Options)) {
	for name, vpx := range map[string]bool{"ESX": false, "VPX": true} {
		t.Run(name, func(t *testing.T) { test(t, vimtest.Options{VPX: vpx}) })
	}
}

func TestInventoryIsRead(t *testing.T) {
	both(t, func(t *testing.T, o vimtest.Options) {
		r := start(t, o).synced()
		s := r.mirror.Snapshot()
		var names []string
		for _, vm := range s.All() {
			names = append(names, vm.Name)
		}
		if diff := cmp.Diff(r.Machines(), names); diff != "" || !s.Synced || !s.StaleSince.IsZero() || s.Unidentified != 0 {
			t.Fatalf("snapshot is %+v: %s", s, diff)
		}
		vm := s.All()[0]
		if vm.UUID != r.UUID(vm.Name) || vm.Ref.Value != r.Ref(vm.Name) || vm.Power != types.VirtualMachinePowerStatePoweredOn ||
			vm.MemoryMiB <= 0 || vm.VCPUs <= 0 || vm.ChangeVersion == "" || vm.Host == "" || vm.Boot == 0 || vm.Connection != "connected" {
			t.Errorf("machine is %+v", vm)
		}
		if want := strings.TrimPrefix(vm.Ref.Value, "vm-"); fmt.Sprint(vm.DomainID()) != want {
			t.Errorf("ID of %s is %d", vm.Ref.Value, vm.DomainID())
		}
		byUUID, _ := s.UUID(vm.UUID)
		byName, _ := s.Name(vm.Name)
		byID, _ := s.ID(vm.DomainID())
		byRef, _ := s.Ref(vm.Ref)
		for _, found := range []inventory.VM{byUUID, byName, byID, byRef} {
			if found != vm {
				t.Errorf("%+v is found as %+v", vm, found)
			}
		}
	})
}

func TestChangesAreToldWithTheirEvents(t *testing.T) {
	both(t, func(t *testing.T, o vimtest.Options) {
		r := start(t, o).synced()
		r.Create("new")
		r.expect("added new 0/0")
		if vm, ok := r.mirror.Snapshot().Name("new"); !ok || vm.DomainID() != -1 || vm.MemoryMiB != 64 {
			t.Errorf("machine is %+v, %v", vm, ok)
		}
		begin := time.Now()
		r.PowerOn("new")
		r.expect("changed new 2/0")
		t.Logf("power on was told after %v", time.Since(begin))
		r.Suspend("new")
		r.expect("changed new 3/0")
		if vm, _ := r.mirror.Snapshot().Name("new"); vm.State().String() != "STATE_PAUSED" || vm.DomainID() < 0 {
			t.Errorf("machine is %+v", vm)
		}
		r.PowerOn("new")
		r.expect("changed new 4/0")
		r.PowerOff("new")
		r.expect("changed new 5/0")
		r.Resize("new", 128, 2)
		r.expect("changed new 0/1")
		if vm, _ := r.mirror.Snapshot().Name("new"); vm.MemoryMiB != 128 || vm.VCPUs != 2 {
			t.Errorf("machine is %+v", vm)
		}
		r.Rename("new", "newer")
		r.expect("changed new newer 1/1 0/2")
		if _, old := r.mirror.Snapshot().Name("new"); old {
			t.Error("the old name is found")
		}
		r.Destroy("newer")
		r.expect("removed newer 1/0")
	})
}

func TestAutostartIsFollowed(t *testing.T) {
	both(t, func(t *testing.T, o vimtest.Options) {
		r := start(t, o).synced()
		name := r.Machines()[0]
		for _, on := range []bool{true, false} {
			r.Autostart(name, on)
			if c := r.next(); c.Kind != inventory.Changed || c.New.Name != name || c.New.Autostart != on || len(c.Events) != 0 {
				t.Errorf("told is %+v", c)
			}
		}
	})
}

// absence makes the endpoint vanish for the mirror in some way, and come back.
type absence struct{ begin, end func(r *rig) }

var absences = map[string]absence{
	"cut":     {func(r *rig) { r.Gate.Cut() }, func(r *rig) { r.Gate.Open() }},
	"hangs":   {func(r *rig) { r.Gate.Hang() }, func(r *rig) { r.Gate.Open() }},
	"garbage": {func(r *rig) { r.Spoiler.Garbage("") }, func(r *rig) { r.Spoiler.Off() }},
	"empty":   {func(r *rig) { r.Spoiler.Empty("") }, func(r *rig) { r.Spoiler.Off() }},
	"faults":  {func(r *rig) { r.Spoiler.Fault("", "SystemError") }, func(r *rig) { r.Spoiler.Off() }},
	"cut and session expired": {func(r *rig) { r.Gate.Cut() }, func(r *rig) {
		r.ExpireSessions()
		r.Gate.Open()
	}},
}

func TestWhatHappensDuringAnAbsenceIsToldAfterIt(t *testing.T) {
	for name, absence := range absences {
		t.Run(name, func(t *testing.T) {
			s := vimtest.Start(t, vimtest.Options{})
			for _, vm := range []string{"a", "b", "c", "d", "e"} {
				s.Create(vm)
			}
			s.PowerOn("d")
			s.PowerOn("e")
			r := startOn(t, s).synced()
			before := r.mirror.Snapshot()
			absence.begin(r)
			if c := r.next(); c.Kind != inventory.Stale || c.Snapshot.Cause == nil || c.Snapshot.StaleSince.IsZero() {
				t.Fatalf("told is %+v", c)
			}
			s.Destroy("a")
			s.Rename("b", "b2")
			s.PowerOn("c")
			s.PowerOff("d")
			s.PowerOff("e")
			s.PowerOn("e")
			s.Create("f")
			stale := r.mirror.Snapshot()
			if diff := cmp.Diff(before.All(), stale.All()); diff != "" || stale.StaleSince.IsZero() {
				t.Errorf("during the absence the snapshot is %+v: %s", stale, diff)
			}
			absence.end(r)
			begin := time.Now()
			r.expect("removed a 1/0", "changed b b2 1/1 0/2", "changed c 2/0", "changed d 5/0", "changed e 5/0 2/0", "added f 0/0",
				"resynchronised")
			t.Logf("told after %v", time.Since(begin))
			if now := r.mirror.Snapshot(); !now.StaleSince.IsZero() || now.Cause != nil {
				t.Errorf("after the absence the snapshot is %+v", now)
			}
			r.PowerOff("c")
			r.expect("changed c 5/0")
		})
	}
}

func TestSessionThatExpiresBehindOurBackCostsAReading(t *testing.T) {
	both(t, func(t *testing.T, o vimtest.Options) {
		r := start(t, o).synced()
		r.ExpireSessions()
		r.expect("stale")
		r.Create("new")
		for seen := false; !seen; {
			switch got := spell(r.next()); got {
			case "added new 0/0":
				seen = true
			case "resynchronised":
			default:
				t.Fatalf("told is %q", got)
			}
		}
	})
}

func TestOneEndpointThatStallsDelaysNoOther(t *testing.T) {
	stalled, well := start(t, vimtest.Options{}).synced(), start(t, vimtest.Options{}).synced()
	stalled.Gate.Hang()
	stalled.expect("stale")
	begin := time.Now()
	well.Create("new")
	well.expect("added new 0/0")
	t.Logf("told after %v", time.Since(begin))
	stalled.mirror.Close()
	well.PowerOn("new")
	well.expect("changed new 2/0")
}

func TestEndpointThatWasNeverThereIsStaleAndSaysWhy(t *testing.T) {
	s := vimtest.Start(t, vimtest.Options{})
	s.Gate.Cut()
	r := startOn(t, s)
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if err := r.mirror.Synced(ctx); err == nil || !strings.Contains(err.Error(), s.Address()) {
		t.Errorf("error is %v", err)
	}
	if now := r.mirror.Snapshot(); now.Synced || now.StaleSince.IsZero() || len(now.All()) != 0 {
		t.Errorf("snapshot is %+v", now)
	}
	r.expect("stale")
	s.Gate.Open()
	r.synced()
}

func TestManyMachinesComeInPieces(t *testing.T) {
	const machines = 7
	s := vimtest.Start(t, vimtest.Options{Machines: machines})
	r := startWith(t, s, inventory.Options{Options: follow.Options{MaxObjects: 2}})
	if c := r.next(); c.Kind != inventory.Resynchronised || len(c.Snapshot.All()) != machines {
		t.Errorf("told is %+v", c)
	}
	if n := s.Spoiler.Calls("WaitForUpdatesEx"); n < machines/2 {
		t.Errorf("the reading came in %d pieces: the test shows nothing", n)
	}
	s.PowerOff(r.mirror.Snapshot().All()[0].Name)
	r.expect("changed ha-host_VM0 5/0")
}
