package manager_test

import (
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/boot"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/guard"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/manager"
	"github.com/lodgevirt/lodge/sdk/faketest"
	"github.com/lodgevirt/lodge/sdk/procfs"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// machine is a manager on a core in memory, whose state a test can change.
type machine struct {
	*scene
	core *faketest.Core
	m    *manager.Manager
}

// machine starts a manager. A core whose state was copied may be given.
func (s *scene) machine(core *faketest.Core, opts manager.Options) *machine {
	s.Helper()
	if core == nil {
		core = faketest.NewCore(s.TB)
	}
	m := manager.New(core, opts)
	settings := core.Settings()
	settings.Config = s.config("machine")
	if err := m.Configure(s.ctx(), settings); err != nil {
		s.Fatal(err)
	}
	mc := &machine{scene: s, core: core, m: m}
	s.Cleanup(mc.end)
	return mc
}

// end closes the manager, and ends its guard.
func (mc *machine) end() {
	mc.Helper()
	if err := mc.m.Close(mc.ctx()); err != nil {
		mc.Error(err)
	}
	if err := guard.End(mc.core.Settings().RuntimeDir); err != nil {
		mc.Error(err)
	}
}

// reboot has the state be that of another start of the machine.
func (mc *machine) reboot() {
	mc.Helper()
	text, ok, err := mc.core.State().Get(mc.ctx(), "session")
	if err != nil || !ok {
		mc.Fatalf("no session: %v", err)
	}
	id, err := procfs.BootID()
	if err != nil {
		mc.Fatal(err)
	}
	text = []byte(strings.Replace(string(text), id, "an earlier start", 1))
	if err := mc.core.State().Put(mc.ctx(), "session", text); err != nil {
		mc.Fatal(err)
	}
	// What the plugin's host wrote into etcd was of that start too.
	resp, err := mc.client.Get(mc.ctx(), mc.prefix+"host/", prefixOption)
	if err != nil {
		mc.Fatal(err)
	}
	for _, kv := range resp.Kvs {
		value := strings.ReplaceAll(string(kv.Value), id, "an earlier start")
		if _, err := mc.client.Put(mc.ctx(), string(kv.Key), value, leaseOption(kv.Lease)); err != nil {
			mc.Fatal(err)
		}
	}
}

func owner(name string, pid int32) *pb.Owner {
	o := &pb.Owner{Uuid: uuid.NewString(), Name: name, Generation: 1}
	if pid != 0 {
		o.Pid, o.StartTime = pid, 1
	}
	return o
}

func (mc *machine) acquire(o *pb.Owner, paths ...string) error {
	_, err := mc.m.Acquire(mc.ctx(), &pb.AcquireRequest{Owner: o, Resources: disks(paths...)})
	return err
}

func (mc *machine) status(o *pb.Owner, path string) pb.Status {
	mc.Helper()
	rsp, err := mc.m.Recover(mc.ctx(), &pb.RecoverRequest{Owner: o, Resources: disks(path)})
	if err != nil {
		mc.Fatal(err)
	}
	return rsp.GetLeases()[0].GetStatus()
}

func TestMachineThatIsStartedAnew(t *testing.T) {
	t.Parallel()
	s := newScene(t, cluster.get(t), 6)
	before := s.machine(nil, options)
	dead, asleep, remote := owner("dead", 7), owner("asleep", 8), owner("remote", 0)
	for o, path := range map[*pb.Owner]string{dead: "/dead", asleep: "/asleep", remote: "/remote"} {
		if err := before.acquire(o, path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := before.m.Release(s.ctx(), &pb.ReleaseRequest{Owner: asleep, Suspend: true}); err != nil {
		t.Fatal(err)
	}
	lease := before.m.Diagnose(s.ctx())["lease"]
	before.end()
	before.reboot()
	begun := time.Now()
	after := s.machine(before.core, options)
	next := owner("dead", 0)
	next.Uuid, next.Generation = dead.GetUuid(), 2
	s.eventually("the guest starts again", func() bool { return after.acquire(next, "/dead", "/asleep") == nil })
	t.Logf("the guest could start again after %v, of a lease of 6 s", time.Since(begun).Round(time.Millisecond))
	if got := after.status(remote, "/remote"); got != pb.Status_STATUS_HELD {
		t.Errorf("the lock of a guest that is not on this machine is %v", got)
	}
	for _, o := range []*pb.Owner{next, remote} {
		if _, err := after.m.Release(s.ctx(), &pb.ReleaseRequest{Owner: o}); err != nil {
			t.Fatal(err)
		}
	}
	s.eventually("nothing is left", func() bool { return len(s.keys()) == 0 })
	if now := after.m.Diagnose(s.ctx())["lease"]; now != lease {
		t.Errorf("the lease is %s, before it was %s", now, lease)
	}
}

// TestMachineThatWasCopied has two machines with one state, as after the image of one was copied with everything in it.
func TestMachineThatWasCopied(t *testing.T) {
	t.Parallel()
	s := newScene(t, cluster.get(t), 3)
	first := s.machine(nil, options)
	o := owner("guest", 0)
	if err := first.acquire(o, "/disk"); err != nil {
		t.Fatal(err)
	}
	copied := faketest.NewCore(t)
	names, err := first.core.State().List(s.ctx(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		value, _, err := first.core.State().Get(s.ctx(), name)
		if err != nil {
			t.Fatal(err)
		}
		if name == "session" { // on a copy the same state is that of another machine's start
			value = []byte(strings.Replace(string(value), `"boot":"`, `"boot":"other-`, 1))
		}
		if err := copied.State().Put(s.ctx(), name, value); err != nil {
			t.Fatal(err)
		}
	}
	second := s.machine(copied, options)
	s.eventually("the copy has its own identity", func() bool { return second.acquire(owner("own", 0), "/own") == nil })
	if err := second.acquire(o, "/disk"); !verr.Is(err, verr.ResourceBusy) {
		t.Errorf("the copy of the guest locks the same disk: %v", err)
	}
	if err := first.acquire(o, "/disk", "/more"); err != nil {
		t.Errorf("the first machine: %v", err)
	}
	if got := first.status(o, "/disk"); got != pb.Status_STATUS_HELD {
		t.Errorf("the lock of the first machine is %v", got)
	}
}

// TestClockThatJumps has the manager's clock go on by more than a lease while etcd's does not, as after a suspension of the machine.
func TestClockThatJumps(t *testing.T) {
	t.Parallel()
	s := newScene(t, cluster.get(t), 5)
	var offset atomic.Int64
	opts := options
	opts.Clock = func() boot.Time { return boot.Now().Add(time.Duration(offset.Load())) }
	mc := s.machine(nil, opts)
	o := owner("guest", 0)
	if err := mc.acquire(o, "/disk"); err != nil {
		t.Fatal(err)
	}
	offset.Store(int64(time.Hour))
	s.eventually("the lease is renewed", func() bool { return mc.status(o, "/disk") == pb.Status_STATUS_HELD })
	if facts := mc.m.Diagnose(s.ctx()); facts["state"] != "good" {
		t.Errorf("the state is %q", facts["state"])
	}
	// The wall clock is not looked at; what it says of the past is only shown.
	leases, err := mc.m.List(s.ctx())
	if err != nil || len(leases) != 1 || time.Since(leases[0].GetSince().AsTime()) > time.Minute {
		t.Errorf("listed are %v, %v", leases, err)
	}
}

func TestConfigurationOfAManagerThatWorks(t *testing.T) {
	t.Parallel()
	s := newScene(t, cluster.get(t), 5)
	core := faketest.NewCore(t)
	m := manager.New(core, options)
	if _, err := m.List(s.ctx()); !verr.Is(err, verr.OperationInvalid) {
		t.Errorf("before it is configured: %v", err)
	}
	if facts := m.Diagnose(s.ctx()); facts["state"] != "not configured" {
		t.Errorf("facts are %v", facts)
	}
	if err := m.Configure(s.ctx(), core.Settings()); !verr.Is(err, verr.ConfigUnsupported) || !strings.Contains(err.Error(), "endpoints") {
		t.Errorf("without a table: %v", err)
	}
	mc := s.machine(core, options)
	o := owner("guest", 0)
	if err := mc.acquire(o, "/disk"); err != nil {
		t.Fatal(err)
	}
	configure := func(change func(map[string]any)) error {
		var conf map[string]any
		if err := json.Unmarshal(s.config("machine"), &conf); err != nil {
			t.Fatal(err)
		}
		change(conf)
		settings := core.Settings()
		settings.Config, _ = json.Marshal(conf)
		return mc.m.Configure(s.ctx(), settings)
	}
	if err := configure(func(c map[string]any) { c["prefix"] = "/other/" }); !verr.Is(err, verr.ConfigUnsupported) || !strings.Contains(err.Error(), "prefix") {
		t.Errorf("another prefix while there are locks: %v", err)
	}
	for range 20 {
		if err := configure(func(c map[string]any) { c["host"], c["ttl"] = "another name", 7 }); err != nil {
			t.Fatal(err)
		}
	}
	if err := mc.acquire(o, "/disk", "/more"); err != nil {
		t.Errorf("with another connection: %v", err)
	}
	if got := mc.status(o, "/disk"); got != pb.Status_STATUS_HELD {
		t.Errorf("the lock is %v", got)
	}
	if err := configure(func(c map[string]any) { c["auto_disk_leases"] = false }); err != nil {
		t.Fatal(err)
	}
	_, err := mc.m.Prepare(s.ctx(), &pb.PrepareRequest{Owner: owner("other", 0), Resources: disks("/alone")})
	if !verr.Is(err, verr.ConfigUnsupported) || !strings.Contains(err.Error(), "require_lease_for_disks") {
		t.Errorf("a disk that nothing locks: %v", err)
	}
	lease := &pb.Resource{Lockspace: "space", Key: "key"}
	rsp, err := mc.m.Acquire(s.ctx(), &pb.AcquireRequest{Owner: owner("third", 0), Resources: append(disks("/alone"), lease)})
	if err != nil || rsp.GetLeases()[0].GetStatus() != pb.Status_STATUS_UNSPECIFIED || rsp.GetLeases()[1].GetStatus() != pb.Status_STATUS_HELD {
		t.Errorf("a disk that is not locked, and a lease: %v, %v", rsp, err)
	}
	if id := s.lease("/alone"); id != 0 {
		t.Error("the disk was locked")
	}
}

func TestWhatNoKeyCanBeMadeOf(t *testing.T) {
	t.Parallel()
	s := newScene(t, cluster.get(t), 10)
	mc := s.machine(nil, options)
	odd := owner("odd", 0)
	odd.Uuid = "../" + odd.GetUuid()
	if err := mc.acquire(odd, "/disk"); !verr.Is(err, verr.InvalidArg) {
		t.Errorf("an owner that is no UUID: %v", err)
	}
	long := owner(strings.Repeat("x", 1025), 0)
	if err := mc.acquire(long, "/disk"); !verr.Is(err, verr.InvalidArg) {
		t.Errorf("an owner with a long name: %v", err)
	}
	var many []string
	for i := range 61 {
		many = append(many, "/disk-"+strings.Repeat("i", i+1))
	}
	o := owner("guest", 0)
	if err := mc.acquire(o, many...); !verr.Is(err, verr.ConfigUnsupported) {
		t.Errorf("too many disks at once: %v", err)
	}
	if err := mc.acquire(o, many[:60]...); err != nil {
		t.Errorf("as many disks as can be: %v", err)
	}
	if err := mc.acquire(o, many[60]); !verr.Is(err, verr.ConfigUnsupported) {
		t.Errorf("one more: %v", err)
	}
	twice := owner("twice", 0)
	rsp, err := mc.m.Acquire(s.ctx(), &pb.AcquireRequest{Owner: twice, Resources: disks("/twice", "/twice")})
	if err != nil || len(rsp.GetLeases()) != 2 || rsp.GetLeases()[0].GetFencingToken() != rsp.GetLeases()[1].GetFencingToken() {
		t.Errorf("one disk twice: %v, %v", rsp, err)
	}
	both := disks("/both", "/both")
	both[1].Shared = true
	if _, err := mc.m.Acquire(s.ctx(), &pb.AcquireRequest{Owner: twice, Resources: both}); !verr.Is(err, verr.ConfigUnsupported) {
		t.Errorf("one disk alone and shared: %v", err)
	}
	if _, err := mc.m.Acquire(s.ctx(), &pb.AcquireRequest{Owner: twice, Resources: both[:1]}); err != nil {
		t.Fatal(err)
	}
	if _, err := mc.m.Acquire(s.ctx(), &pb.AcquireRequest{Owner: twice, Resources: both[1:]}); !verr.Is(err, verr.OperationInvalid) {
		t.Errorf("first alone and then shared: %v", err)
	}
	if _, err := mc.m.Acquire(s.ctx(), &pb.AcquireRequest{Owner: twice, Resources: both[:1], State: []byte("hello")}); !verr.Is(err, verr.InvalidArg) {
		t.Errorf("a state that is none: %v", err)
	}
	for _, g := range []*pb.Owner{o, twice} {
		if _, err := mc.m.Release(s.ctx(), &pb.ReleaseRequest{Owner: g}); err != nil {
			t.Fatal(err)
		}
	}
	if left := s.keys(); len(left) > 0 {
		t.Errorf("left is %v", left)
	}
}

func TestNothingIsLeftOfAHostWithoutGuests(t *testing.T) {
	t.Parallel()
	s := newScene(t, cluster.get(t), 600)
	mc := s.machine(nil, options)
	o := owner("guest", 0)
	if err := mc.acquire(o, "/disk"); err != nil {
		t.Fatal(err)
	}
	lease := s.lease("/disk")
	if _, err := mc.m.Release(s.ctx(), &pb.ReleaseRequest{Owner: o}); err != nil {
		t.Fatal(err)
	}
	mc.end()
	resp, err := s.client.Get(s.ctx(), s.prefix, prefixOption)
	if err != nil || len(resp.Kvs) > 0 {
		t.Errorf("left is %v, %v", resp, err)
	}
	if left, err := s.client.TimeToLive(s.ctx(), lease); err != nil || left.TTL > 0 {
		t.Errorf("the lease has %v left, %v", left, err)
	}
	names, err := mc.core.State().List(s.ctx(), "")
	if err != nil || len(names) != 1 {
		t.Errorf("the core's state has %v, %v", names, err)
	}
}
