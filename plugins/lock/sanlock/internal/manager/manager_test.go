package manager

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/sanlocktest"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const unspecified = pb.Action_ACTION_UNSPECIFIED

func TestLocksOfAGuest(t *testing.T) {
	t.Parallel()
	n := newNode(t, t.TempDir(), 1, nil)
	a, b := disk("/images/a"), disk("/images/b: c")
	g := n.newGuest("first", unspecified, a, b)
	leases := g.acquired(a, b)
	if len(leases) != 2 {
		t.Fatalf("leases are %v", leases)
	}
	for i, l := range leases {
		want := []*pb.Resource{a, b}[i]
		if l.GetResource() != want || l.GetStatus() != pb.Status_STATUS_HELD || l.GetFencingToken() != 1 || l.GetDetail() != "" ||
			l.GetOwner().GetPid() != g.who.GetPid() || l.GetSince() == nil || !strings.Contains(l.GetPlace(), diskName(want.GetDisk())) {
			t.Errorf("lease %d is %v", i, l)
		}
	}
	// The names are libvirt's: the MD5 of the path.
	const sum = "66af8da8112c11f5d4be0cbe946c4c14"
	if got, want := leases[0].GetPlace(), "__LIBVIRT__DISKS__:"+sum+":"+n.dir+"/"+sum+":0"; got != want {
		t.Errorf("place is %q, not %q", got, want)
	}
	if again := g.acquired(b, a); again[0].GetFencingToken() != 1 || again[1].GetFencingToken() != 1 {
		t.Errorf("had again: %v", again)
	}
	if len(n.list()) != 2 || n.records() != 1 {
		t.Errorf("list is %v, with %d records", n.list(), n.records())
	}

	other := n.newGuest("second", unspecified, b)
	_, err := other.acquire(disk("/images/free"), b)
	if !verr.Is(err, verr.ResourceBusy) || !strings.Contains(err.Error(), `disk "/images/b: c" is in use by "first"`) {
		t.Errorf("error is %v", err)
	}
	if other.holds("/images/free") || n.records() != 1 {
		t.Error("one of two locks was had")
	}
	if r := g.release(false, b); r.GetReleased() != 1 || len(r.GetState()) != 0 {
		t.Errorf("released %v", r)
	}
	if l := other.acquired(b); l[0].GetFencingToken() != 2 {
		t.Errorf("lease is %v", l)
	}
	if r := g.release(false); r.GetReleased() != 1 {
		t.Errorf("released %v", r)
	}
	if r := g.release(false); r.GetReleased() != 0 {
		t.Errorf("released %v the second time", r)
	}

	// A process that ends needs nobody to release its locks.
	other.process.Kill()
	third := n.newGuest("third", unspecified, a, b)
	third.acquired(a, b)
	if r := other.release(false); r.GetReleased() != 1 {
		t.Errorf("released %v of a guest that is gone", r)
	}
	if !third.holds("/images/b: c") {
		t.Error("the release of a dead guest's locks took a living one's")
	}
}

func TestHostsFenceEachOther(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one := newNode(t, dir, 1, nil)
	two := newNode(t, dir, 2, nil)
	a, s := disk("/images/a"), sharedDisk("/images/s")
	first := one.newGuest("first", unspecified, a, s)
	second := two.newGuest("second", unspecified, a, s)
	first.acquired(a, s)
	second.acquired(s)
	third := two.newGuest("third", unspecified, a)
	for name, resource := range map[string]*pb.Resource{"a lock": a, "a shared lock alone": disk("/images/s")} {
		_, err := third.acquire(resource)
		if !verr.Is(err, verr.ResourceBusy) || !strings.Contains(err.Error(), resource.GetDisk()+`" is in use by `) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
	if _, err := second.acquire(disk("/images/s")); !verr.Is(err, verr.OperationInvalid) {
		t.Errorf("alone what is shared: %v", err)
	}
	first.release(false, a)
	second.acquired(a)
	if _, err := first.acquire(a); !verr.Is(err, verr.ResourceBusy) || !strings.Contains(err.Error(), "host 2") {
		t.Errorf("error is %v", err)
	}
	second.process.Kill()
	second.release(false) // waits until the daemon has noticed
	if l := first.acquired(a); l[0].GetFencingToken() != 3 {
		t.Errorf("lease is %v", l)
	}
}

func TestSuspendedGuestHasItsLocksAgainUnlessSomebodyElseHadThem(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one := newNode(t, dir, 1, nil)
	two := newNode(t, dir, 2, nil)
	a, s := disk("/images/a"), sharedDisk("/images/s")
	g := one.newGuest("first", unspecified, a, s)
	other := two.newGuest("second", unspecified, a, s)

	g.acquired(a, s)
	r := g.release(true)
	if r.GetReleased() != 2 || len(r.GetState()) == 0 || len(one.list()) != 0 {
		t.Errorf("released %v, left %v", r, one.list())
	}
	// Whoever has not heard the answer asks again, perhaps the next process.
	for range 2 {
		if again := g.release(true); again.GetReleased() != 0 || !bytes.Equal(again.GetState(), r.GetState()) {
			t.Errorf("released %v the second time, and %v the first time", again, r)
		}
		one.restart()
	}
	// A shared lock that others have shared meanwhile is no reason.
	other.acquired(s)
	if _, err := g.resume(r.GetState(), a, s); err != nil {
		t.Fatal(err)
	}
	r = g.release(true)
	other.acquired(a)
	if _, err := g.resume(r.GetState(), a, s); !verr.Is(err, verr.ResourceBusy) || !strings.Contains(err.Error(), "host 2") {
		t.Errorf("while somebody else has it: %v", err)
	}
	other.release(false)
	if _, err := g.resume(r.GetState(), a, s); !verr.Is(err, verr.ResourceBusy) || !strings.Contains(err.Error(), `"/images/a" was used by somebody else`) {
		t.Errorf("after somebody else had it: %v", err)
	}
	if g.holds("/images/s") {
		t.Error("one of two locks was had")
	}
	if _, err := g.resume([]byte("{"), a); !verr.Is(err, verr.InvalidArg) {
		t.Errorf("of a damaged state: %v", err)
	}
	// An answer that was never heard binds all the same, until the guest is suspended no more.
	one.restart()
	if _, err := g.resume(nil, a, s); !verr.Is(err, verr.ResourceBusy) {
		t.Errorf("without a state, after somebody else had it: %v", err)
	}
	if r := g.release(false); r.GetReleased() != 0 || len(r.GetState()) != 0 || one.records() != 0 {
		t.Errorf("released %v, and %d records are left", r, one.records())
	}
	g.acquired(a, s)
	if r := g.release(false, a); len(r.GetState()) != 0 {
		t.Errorf("released %v", r)
	}
	r = g.release(true)
	g.acquired(s)
	if one.records() != 1 || len(r.GetState()) != 0 {
		t.Errorf("of a shared lock %v is kept", r)
	}
}

// A guest that was suspended is told by Recover whether somebody else had its locks, too.
func TestRecoverOfASuspendedGuest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one := newNode(t, dir, 1, nil)
	two := newNode(t, dir, 2, nil)
	kept, used := disk("/images/kept"), disk("/images/used")
	g, other := one.newGuest("first", unspecified, kept, used), two.newGuest("second", unspecified, used)
	g.acquired(kept, used)
	g.release(true)
	other.acquired(used)
	other.release(false)
	one.restart()
	leases := g.recover(kept, used)
	if leases[0].GetStatus() != pb.Status_STATUS_HELD || leases[1].GetStatus() != pb.Status_STATUS_TAKEN_AGAIN {
		t.Errorf("recovered: %v", leases)
	}
	if r := g.release(false); r.GetReleased() != 2 || one.records() != 0 {
		t.Errorf("released %v, and %d records are left", r, one.records())
	}
}

func TestRecoverTellsWhatBecameOfLocks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one := newNode(t, dir, 1, nil)
	two := newNode(t, dir, 2, nil)
	held, free, used, stolen := disk("/images/held"), disk("/images/free"), disk("/images/used"), disk("/images/stolen")
	g := one.newGuest("first", unspecified, held, free, used, stolen)
	other := two.newGuest("second", unspecified, used, stolen)
	g.acquired(held, free, used, stolen)

	// Leases are taken away behind the manager's back while it is away.
	one.stop()
	c, err := parseConfig(one.config())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*pb.Resource{free, used, stolen} {
		if _, err := giveUp(t.Context(), one.host.Client, g.who, func(i id) bool { return i == idOf(c.diskLease(r)) }); err != nil {
			t.Fatal(err)
		}
	}
	other.acquired(used, stolen)
	other.release(false, used)

	one.restart()
	leases := g.recover(held, free, used, stolen)
	for i, want := range []pb.Status{
		pb.Status_STATUS_HELD, pb.Status_STATUS_HELD, pb.Status_STATUS_TAKEN_AGAIN, pb.Status_STATUS_LOST,
	} {
		if got := leases[i]; got.GetStatus() != want || (want == pb.Status_STATUS_LOST) != strings.Contains(got.GetDetail(), "host 2") {
			t.Errorf("%s is %v", got.GetResource().GetDisk(), got)
		}
	}
	// The answer is what a second question gets too, but for what is held by now.
	if again := g.recover(used); again[0].GetStatus() != pb.Status_STATUS_HELD {
		t.Errorf("the second time: %v", again)
	}

	// A successor that was told nothing yet releases all the same.
	one.restart()
	if r := g.release(true); r.GetReleased() != 4 || len(r.GetState()) == 0 {
		t.Errorf("released %v", r)
	}
	if g.holds("/images/held") || len(one.list()) != 0 {
		t.Error("something is left")
	}
}

func TestProcessThatIsNotKnownHasNoLocks(t *testing.T) {
	t.Parallel()
	n := newNode(t, t.TempDir(), 1, nil)
	a := disk("/images/a")
	g := &guest{node: n, who: newOwner("first"), process: sanlocktest.NewStranger(t)}
	g.who.Pid, g.who.StartTime = int32(g.process.PID), g.process.StartTime
	if _, err := g.acquire(a); !verr.Is(err, verr.OperationInvalid) || !strings.Contains(err.Error(), "not known to the sanlock daemon") {
		t.Errorf("one that did not register: %v", err)
	}
	if l := g.recover(a); l[0].GetStatus() != pb.Status_STATUS_LOST || !strings.Contains(l[0].GetDetail(), "not known") {
		t.Errorf("recovered: %v", l)
	}
	registered := n.newGuest("second", unspecified, a)
	registered.who.StartTime++
	if _, err := registered.acquire(a); !verr.Is(err, verr.OperationInvalid) || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("one whose pid was used again: %v", err)
	}
	registered.who.Pid = 0
	if _, err := registered.acquire(a); !verr.Is(err, verr.InvalidArg) {
		t.Errorf("none: %v", err)
	}
	if r := registered.release(false); r.GetReleased() != 0 {
		t.Errorf("released %v", r)
	}
	nobody := newOwner("nobody")
	nobody.Uuid = "../" + nobody.GetUuid()
	if _, err := n.m.Release(n.ctx(), &pb.ReleaseRequest{Owner: nobody}); !verr.Is(err, verr.InvalidArg) {
		t.Errorf("a guest without a UUID: %v", err)
	}
	if n := n.records(); n > 1 {
		t.Errorf("%d records are left", n)
	}
}

func TestWhatSanlockCannotDoIsRefusedByName(t *testing.T) {
	t.Parallel()
	n := newNode(t, t.TempDir(), 1, nil)
	nine := make([]*pb.Resource, 9)
	for i := range nine {
		nine[i] = disk("/images/" + strings.Repeat("x", i+1))
	}
	lease := func(change func(*pb.Resource)) *pb.Resource {
		r := &pb.Resource{Lockspace: "LS", Key: "key", Path: "/leases"}
		change(r)
		return r
	}
	for name, c := range map[string]struct {
		resources []*pb.Resource
		code      verr.Code
		say       string
	}{
		"nine disks":                     {nine, verr.ConfigUnsupported, "needs 9 leases"},
		"a key of 49 bytes":              {[]*pb.Resource{lease(func(r *pb.Resource) { r.Key = strings.Repeat("k", 49) })}, verr.ConfigUnsupported, "48 bytes"},
		"a lockspace of 49 bytes":        {[]*pb.Resource{lease(func(r *pb.Resource) { r.Lockspace = strings.Repeat("k", 49) })}, verr.ConfigUnsupported, "48 bytes"},
		"a path of 1024 bytes":           {[]*pb.Resource{lease(func(r *pb.Resource) { r.Path = "/" + strings.Repeat("k", 1023) })}, verr.ConfigUnsupported, "1023 bytes"},
		"a disk shared and alone":        {[]*pb.Resource{disk("/images/a"), sharedDisk("/images/a")}, verr.ConfigUnsupported, "wanted twice"},
		"a disk with a relative path":    {[]*pb.Resource{disk("/images/a"), disk("images/a")}, verr.ConfigUnsupported, `disk "images/a" cannot be locked`},
		"a lease without a path":         {[]*pb.Resource{lease(func(r *pb.Resource) { r.Path = "" })}, verr.ConfigUnsupported, "path"},
		"a lockspace that is not joined": {[]*pb.Resource{lease(func(*pb.Resource) {})}, verr.OperationInvalid, "add_lockspace"},
	} {
		if _, err := n.prepare(newOwner("guest"), unspecified, c.resources...); !verr.Is(err, c.code) || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The limit is that of a process, not of a request.
	g := n.newGuest("guest", unspecified, nine[:8]...)
	g.acquired(nine[:8]...)
	if _, err := g.acquire(nine[8]); !verr.Is(err, verr.ConfigUnsupported) || !strings.Contains(err.Error(), "needs 9 leases") {
		t.Errorf("a ninth disk: %v", err)
	}
	if len(n.list()) != 8 || !g.holds(nine[7].GetDisk()) {
		t.Errorf("list is %v", n.list())
	}
	g.acquired(nine[3]) // and one that it has is no ninth
	if r := g.release(false); r.GetReleased() != 8 {
		t.Errorf("released %v", r)
	}
}

func TestLeasesOfTheDefinition(t *testing.T) {
	t.Parallel()
	n := newNode(t, t.TempDir(), 1, map[string]any{"auto_disk_leases": false, "host_id": 0})
	lease := n.operatorsLease("LS", "key: 1")
	if _, err := n.prepare(newOwner("guest"), unspecified, disk("/images/a")); !verr.Is(err, verr.ConfigUnsupported) {
		t.Errorf("a disk without a lease: %v", err)
	}
	if _, err := n.prepare(newOwner("guest"), unspecified, sharedDisk("/images/a")); err != nil {
		t.Errorf("a shared disk without a lease: %v", err)
	}
	for say, wrong := range map[string]*pb.Resource{
		"another name":     {Lockspace: "LS", Key: "other", Path: lease.GetPath(), Offset: lease.GetOffset()},
		"no lease at":      {Lockspace: "LS", Key: lease.GetKey(), Path: lease.GetPath(), Offset: 1 << 20},
		"no such file":     {Lockspace: "LS", Key: lease.GetKey(), Path: "/nonexistent", Offset: lease.GetOffset()},
		"not in lockspace": {Lockspace: "LS2", Key: lease.GetKey(), Path: lease.GetPath(), Offset: lease.GetOffset()},
	} {
		if _, err := n.prepare(newOwner("guest"), unspecified, wrong); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%v: %v", wrong, err)
		}
	}
	g := n.newGuest("guest", unspecified, disk("/images/a"), lease)
	leases := g.acquired(disk("/images/a"), lease)
	if leases[0].GetStatus() != pb.Status_STATUS_UNSPECIFIED || leases[0].GetDetail() == "" {
		t.Errorf("the disk's is %v", leases[0])
	}
	if leases[1].GetStatus() != pb.Status_STATUS_HELD || leases[1].GetFencingToken() != 1 {
		t.Errorf("the lease is %v", leases[1])
	}
	other := n.newGuest("other", unspecified, lease)
	if _, err := other.acquire(lease); !verr.Is(err, verr.ResourceBusy) || !strings.Contains(err.Error(), `lease "key: 1" of lockspace "LS"`) {
		t.Errorf("error is %v", err)
	}
	if r := g.release(false, lease); r.GetReleased() != 1 {
		t.Errorf("released %v", r)
	}
	other.acquired(lease)
}

func TestFilesOfLeasesAreMadeWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one := newNode(t, dir, 1, map[string]any{"group": "+12345"})
	two := newNode(t, dir, 2, nil)
	a, bad := disk("/images/a"), disk("/images/bad")
	made := make(chan error, 8)
	for range 4 {
		for _, n := range []*node{one, two} {
			go func() {
				_, err := n.prepare(newOwner("guest"), unspecified, a)
				made <- err
			}()
		}
	}
	for range 8 {
		if err := <-made; err != nil {
			t.Error(err)
		}
	}
	one.newGuest("guest", unspecified, a).acquired(a)
	if err := os.WriteFile(filepath.Join(dir, diskName(bad.GetDisk())), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := one.prepare(newOwner("guest"), unspecified, bad); !verr.Is(err, verr.OperationFailed) || !strings.Contains(err.Error(), "may be removed") {
		t.Errorf("a file that was never finished: %v", err)
	}
	third := disk("/images/third")
	if _, err := one.prepare(newOwner("guest"), unspecified, third); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, diskName(third.GetDisk())))
	if err != nil || info.Mode().Perm() != 0o660 || info.Size() != 1<<20 {
		t.Errorf("file of a lease is %v, %v", info, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 4 {
		t.Errorf("folder has %v, %v", entries, err)
	}
}

func TestFolderOfLeasesIsNotMade(t *testing.T) {
	t.Parallel()
	n := newNode(t, filepath.Join(t.TempDir(), "unmounted"), 1, nil)
	if _, err := n.prepare(newOwner("guest"), unspecified, disk("/images/a")); !verr.Is(err, verr.OperationFailed) || !strings.Contains(err.Error(), "all hosts share") {
		t.Errorf("error is %v", err)
	}
}

func TestSettings(t *testing.T) {
	for name, c := range map[string]struct{ text, say string }{
		"no settings":               {``, ""},
		"all of them":               {`{"host_id":3,"auto_disk_leases":true,"disk_lease_dir":"/x","require_lease_for_disks":true,"io_timeout":5,"user":"root","group":"+7"}`, ""},
		"leases without a number":   {`{"auto_disk_leases":true}`, "host_id"},
		"too large a number":        {`{"host_id":2001}`, "1 to 2000"},
		"a negative number":         {`{"host_id":-1}`, "1 to 2000"},
		"a negative timeout":        {`{"io_timeout":-1}`, "io_timeout"},
		"a relative folder":         {`{"disk_lease_dir":"x"}`, "absolute"},
		"a folder that is too long": {`{"disk_lease_dir":"/` + strings.Repeat("x", 1000) + `"}`, "1023"},
		"an unknown user":           {`{"user":"nobody-of-that-name"}`, "user"},
		"a group that is no number": {`{"group":"+x"}`, "group"},
		"another type":              {`{"host_id":"one"}`, "read settings"},
	} {
		_, err := parseConfig([]byte(c.text))
		if c.say == "" && err != nil || c.say != "" && (!verr.Is(err, verr.ConfigUnsupported) || !strings.Contains(err.Error(), c.say)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	auto, err := parseConfig([]byte(`{"auto_disk_leases":true,"host_id":1}`))
	if err != nil || auto.requires() {
		t.Errorf("with leases for disks, one is required: %v", err)
	}
	plain, err := parseConfig(nil)
	if err != nil || !plain.requires() || plain.DiskLeaseDir != "/var/lib/libvirt/sanlock" {
		t.Errorf("defaults are %+v, %v", plain, err)
	}
}

func TestSettingsStayWhileGuestsHaveLeases(t *testing.T) {
	t.Parallel()
	n := newNode(t, t.TempDir(), 1, nil)
	a := disk("/images/a")
	g := n.newGuest("guest", unspecified, a)
	g.acquired(a)
	n.id = 2
	if err := n.m.Configure(n.ctx(), plugin.Settings{Config: n.config()}); !verr.Is(err, verr.ConfigUnsupported) {
		t.Errorf("error is %v", err)
	}
	n.id, n.more = 1, map[string]any{"group": "+7"}
	if err := n.m.Configure(n.ctx(), plugin.Settings{Config: n.config()}); err != nil {
		t.Error(err)
	}
	g.acquired(a)
	if facts := n.m.Diagnose(n.ctx()); facts["lockspace"] != "joined" {
		t.Errorf("facts are %v", facts)
	}
}

// A host that dies leaves its leases behind. Others have them when its watchdog has fired for sure, which is a minute after its place in
// the lockspace has run out, and are told so until then.
func TestLocksOfADeadHostAreHadWhenItIsDeadForSure(t *testing.T) {
	if os.Getenv("LODGE_TEST_SLOW") == "" {
		t.Skip("takes 75 seconds: LODGE_TEST_SLOW is not set")
	}
	t.Parallel()
	dir := t.TempDir()
	one := newNode(t, dir, 1, nil)
	two := newNode(t, dir, 2, nil)
	a := disk("/images/a")
	first, second := one.newGuest("first", unspecified, a), two.newGuest("second", unspecified, a)
	first.acquired(a)
	one.stop()
	one.host.Kill()
	died, silent := time.Now(), false
	for {
		began := time.Now()
		_, err := second.acquire(a)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("an answer took %v", took)
		}
		if err == nil {
			break
		}
		if !verr.Is(err, verr.ResourceBusy) || !strings.Contains(err.Error(), `host 1 ("host1")`) {
			t.Fatal(err)
		}
		silent = silent || strings.Contains(err.Error(), "counts as dead after 68")
		if time.Since(died) > 90*time.Second {
			t.Fatal("the lock is never free")
		}
		time.Sleep(500 * time.Millisecond)
	}
	took := time.Since(died)
	if took < (failAfter*sanlocktest.IOTimeout+watchdogTime-3)*time.Second || !silent {
		t.Errorf("it took %v, told to be silent: %v", took, silent)
	}
	t.Logf("it took %v", took)
}
