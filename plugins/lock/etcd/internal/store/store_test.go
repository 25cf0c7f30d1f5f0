package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/boot"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/config"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/etcdtest"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/record"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/store"
	lockv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is the longest that a call of a test may take.
const patience = 20 * time.Second

// host is a store with a session, as a plugin's process has it.
type host struct {
	*store.Store
	t    testing.TB
	id   store.Identity
	sess store.Session
	ends boot.Time
}

// newHost enters the cluster under a prefix as a host of its own.
func newHost(t testing.TB, c *etcdtest.Cluster, prefix, name string) *host {
	t.Helper()
	h := open(t, c, prefix, store.Identity{Instance: "instance-" + name, Process: name + "-1", Boot: "boot-" + name, PID: os.Getpid()})
	h.enter()
	return h
}

func open(t testing.TB, c *etcdtest.Cluster, prefix string, id store.Identity) *host {
	t.Helper()
	conf := &config.Config{
		Endpoints: c.Endpoints(), Prefix: prefix, Host: strings.TrimPrefix(id.Instance, "instance-"), TTL: 10 * time.Second,
		DialTimeout: 3 * time.Second, RequestTimeout: 5 * time.Second, AutoDiskLeases: true,
	}
	s, err := store.Open(conf, id, boot.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &host{Store: s, t: t, id: id}
}

// enter makes a lease and the host's key.
func (h *host) enter() {
	h.t.Helper()
	ctx := timeout(h.t)
	granted, err := h.Grant(ctx)
	if err != nil {
		h.t.Fatal(err)
	}
	h.ends = granted.Ends()
	h.again(granted.Lease)
}

// again enters with a lease that there is.
func (h *host) again(lease clientv3.LeaseID) {
	h.t.Helper()
	fence, err := h.Enter(timeout(h.t), lease, false)
	if err != nil {
		h.t.Fatal(err)
	}
	h.sess = store.Session{Lease: lease, Fence: fence}
}

func timeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// disk is a resource; one whose name begins with "shared" is shared.
func disk(t testing.TB, path string) (record.ID, *lockv1.Resource) {
	t.Helper()
	r := &lockv1.Resource{Disk: path, Shared: strings.HasPrefix(path, "/shared")}
	id, err := record.NewID(r)
	if err != nil {
		t.Fatal(err)
	}
	return id, r
}

// wants are those of a guest for disks.
func (h *host) wants(guest string, paths ...string) []store.Want {
	wants := make([]store.Want, len(paths))
	for i, p := range paths {
		id, r := disk(h.t, p)
		wants[i] = store.Want{ID: id, Resource: r, Value: record.Holder{
			Owner: guest, Generation: 1, Name: "guest " + guest, Host: h.id.Instance, Instance: h.id.Instance, Boot: h.id.Boot, Path: p, Shared: r.Shared,
		}}
	}
	return wants
}

// take takes all disks for a guest.
func (h *host) take(guest string, paths ...string) ([]store.Lock, error) {
	return h.Take(timeout(h.t), h.sess, h.wants(guest, paths...), true)
}

func (h *host) mustTake(guest string, paths ...string) []store.Lock {
	h.t.Helper()
	locks, err := h.take(guest, paths...)
	if err != nil {
		h.t.Fatalf("guest %s takes %v: %v", guest, paths, err)
	}
	return locks
}

func (h *host) drop(guest string, paths ...string) {
	h.t.Helper()
	if err := h.Drop(timeout(h.t), h.sess, h.marks(guest, false, paths...)); err != nil {
		h.t.Fatalf("guest %s drops %v: %v", guest, paths, err)
	}
}

func (h *host) marks(guest string, remember bool, paths ...string) []store.Mark {
	marks := make([]store.Mark, len(paths))
	for i, p := range paths {
		id, r := disk(h.t, p)
		marks[i] = store.Mark{ID: id, Shared: r.Shared, Life: record.Life{UUID: guest, Generation: 1}, Remember: remember}
	}
	return marks
}

// wantBusy fails unless an error says that a resource is taken, and by whom.
func wantBusy(t testing.TB, err error, says ...string) {
	t.Helper()
	if !verr.Is(err, verr.ResourceBusy) {
		t.Errorf("got %v, want code 87", err)
		return
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("error %q does not tell %q", err, s)
		}
	}
}

// keys are all keys below a prefix.
func keys(t testing.TB, client *clientv3.Client, prefix string) []string {
	t.Helper()
	resp, err := client.Get(timeout(t), prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, kv := range resp.Kvs {
		names = append(names, string(kv.Key))
	}
	return names
}

// TestStore has a cluster for all that does not disturb it.
// TestConnectionThatIsNotUsedIsKept has a connection without a request for as long as etcd needs to take offence at pings.
func TestConnectionThatIsNotUsedIsKept(t *testing.T) {
	if os.Getenv("LODGE_TEST_SLOW") == "" {
		t.Skip("takes 50 seconds: LODGE_TEST_SLOW is not set")
	}
	p := etcdtest.NewProxy(t, etcdtest.Start(t, 1).Members[0])
	s, err := store.Open(&config.Config{
		Endpoints: []string{p.URL}, Prefix: "/idle/", TTL: 3600 * time.Second, DialTimeout: 3 * time.Second, RequestTimeout: 5 * time.Second,
	}, store.Identity{}, boot.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if _, err := s.Grant(timeout(t)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Second)
	if n := p.Connections(); n != 1 {
		t.Errorf("%d connections were made", n)
	}
}

func TestStore(t *testing.T) {
	c := etcdtest.Start(t, 1)
	client := c.Client()
	for _, test := range []struct {
		name string
		run  func(t *testing.T, c *etcdtest.Cluster, client *clientv3.Client, prefix string)
	}{
		{"exclusive locks exclude", exclusiveExcludes},
		{"all or none", allOrNone},
		{"shared locks share, and exclude exclusive ones", sharedShares},
		{"nothing is left behind", nothingIsLeft},
		{"an epoch tells who was there", epochTells},
		{"a guest that has moved is elsewhere", movedIsElsewhere},
		{"a late request is fenced", lateRequestIsFenced},
		{"two machines with one identity", twoMachinesOneIdentity},
		{"what others wrote is not trusted", othersAreNotTrusted},
		{"a lease that is gone", leaseGone},
		{"as many as fit, and no more", asManyAsFit},
		{"never two at once", neverTwoAtOnce},
		{"all locks are listed", allAreListed},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.run(t, c, client, "/test/"+strings.ReplaceAll(test.name, " ", "-")+"/")
		})
	}
}

func exclusiveExcludes(t *testing.T, c *etcdtest.Cluster, _ *clientv3.Client, prefix string) {
	a, b := newHost(t, c, prefix, "a"), newHost(t, c, prefix, "b")
	first := a.mustTake("u", "/disk")[0]
	if !first.Held || !first.Taken || first.Token == 0 || first.Epoch != first.Token || first.Since.IsZero() {
		t.Errorf("the lock is %+v", first)
	}
	again := a.mustTake("u", "/disk")[0]
	if !again.Held || again.Taken || again.Token != first.Token || again.Epoch != first.Epoch || !again.Since.Equal(first.Since) {
		t.Errorf("the same again is %+v, was %+v", again, first)
	}
	process := a.wants("u", "/disk")
	process[0].Value.PID = 77
	if locks, err := a.Take(timeout(t), a.sess, process, true); err != nil || locks[0].Token != first.Token || locks[0].Taken {
		t.Errorf("the same with a process is %+v, %v", locks, err)
	}
	_, err := b.take("v", "/disk")
	wantBusy(t, err, `disk "/disk"`, `guest "guest u"`, `host "instance-a"`, "process 77")
	_, err = a.take("v", "/disk")
	wantBusy(t, err)
	_, err = b.take("u", "/disk") // the same guest elsewhere
	wantBusy(t, err)
	other := a.wants("u", "/disk")
	other[0].Value.Generation = 2
	_, err = a.Take(timeout(t), a.sess, other, true)
	wantBusy(t, err)
	b.drop("v", "/disk")
	b.drop("u", "/disk")
	if seen, err := a.Check(timeout(t), a.sess, a.marks("u", false, "/disk", "/other")); err != nil || !seen[0].Held || seen[1].Held {
		t.Errorf("found %+v, %v", seen, err)
	}
	a.drop("u", "/disk")
	if next := b.mustTake("v", "/disk")[0]; next.Token <= first.Token {
		t.Errorf("the next holder's token is %d after %d", next.Token, first.Token)
	}
}

func allOrNone(t *testing.T, c *etcdtest.Cluster, client *clientv3.Client, prefix string) {
	a, b := newHost(t, c, prefix, "a"), newHost(t, c, prefix, "b")
	a.mustTake("u", "/2")
	before := keys(t, client, prefix)
	_, err := b.take("v", "/1", "/2", "/3")
	wantBusy(t, err, `disk "/2"`)
	if after := keys(t, client, prefix); !slices.Equal(before, after) {
		t.Errorf("a refusal changed %v to %v", before, after)
	}
	locks, err := b.Take(timeout(t), b.sess, b.wants("v", "/1", "/2", "/3"), false)
	if err != nil || !locks[0].Held || locks[1].Held || !locks[2].Held || !strings.Contains(locks[1].Holder, "guest u") {
		t.Errorf("what can be had is %+v, %v", locks, err)
	}
}

func sharedShares(t *testing.T, c *etcdtest.Cluster, _ *clientv3.Client, prefix string) {
	a, b := newHost(t, c, prefix, "a"), newHost(t, c, prefix, "b")
	one := a.mustTake("u", "/shared")[0]
	two := b.mustTake("v", "/shared")[0]
	three := b.mustTake("u", "/shared")[0] // it migrates
	if two.Epoch != one.Epoch || three.Epoch != one.Epoch || two.Token <= one.Token {
		t.Errorf("those that share have %+v, %+v, %+v", one, two, three)
	}
	alone := b.wants("w", "/shared")
	alone[0].Value.Shared = false
	_, err := b.Take(timeout(t), b.sess, alone, true)
	wantBusy(t, err)
	a.drop("u", "/shared")
	b.drop("v", "/shared")
	_, err = b.Take(timeout(t), b.sess, alone, true)
	wantBusy(t, err, `host "instance-b"`)
	b.drop("u", "/shared")
	if _, err := b.Take(timeout(t), b.sess, alone, true); err != nil {
		t.Errorf("once nobody shares it: %v", err)
	}
	_, err = a.take("u", "/shared")
	wantBusy(t, err, "guest w")
}

func nothingIsLeft(t *testing.T, c *etcdtest.Cluster, client *clientv3.Client, prefix string) {
	a := newHost(t, c, prefix, "a")
	a.mustTake("u", "/1", "/2")
	a.mustTake("v", "/3")
	a.drop("u", "/1", "/2", "/never")
	a.drop("v", "/3")
	a.drop("v", "/3")
	if err := a.Revoke(timeout(t), a.sess.Lease); err != nil {
		t.Fatal(err)
	}
	if left := keys(t, client, prefix); len(left) > 0 {
		t.Errorf("left is %v", left)
	}
	if err := a.Revoke(timeout(t), a.sess.Lease); err != nil {
		t.Errorf("ending a lease again: %v", err)
	}
}

// suspend drops a guest's disk but for what it will be known by.
func (h *host) suspend(guest, path string) {
	h.t.Helper()
	if err := h.Drop(timeout(h.t), h.sess, h.marks(guest, true, path)); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) resume(guest, path string, epoch int64) error {
	wants := h.wants(guest, path)
	wants[0].Resume, wants[0].Epoch = true, epoch
	_, err := h.Take(timeout(h.t), h.sess, wants, true)
	return err
}

func epochTells(t *testing.T, c *etcdtest.Cluster, _ *clientv3.Client, prefix string) {
	a, b := newHost(t, c, prefix, "a"), newHost(t, c, prefix, "b")
	alone := func(h *host, guest string, then func()) {
		t.Helper()
		w := h.wants(guest, "/shared")
		w[0].Value.Shared = false
		if _, err := h.Take(timeout(t), h.sess, w, true); err != nil {
			t.Fatal(err)
		}
		then()
		m := h.marks(guest, false, "/shared")
		m[0].Shared = false
		if err := h.Drop(timeout(t), h.sess, m); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []struct {
		name   string
		path   string
		during func()
		code   verr.Code
	}{
		{"nobody", "/disk", func() {}, verr.OK},
		{"somebody who has it still", "/disk", func() { b.mustTake("v", "/disk") }, verr.ResourceBusy},
		{"somebody who has given it back", "/disk", func() { b.mustTake("v", "/disk"); b.drop("v", "/disk") }, verr.OperationInvalid},
		{"somebody who is suspended too", "/disk", func() { b.mustTake("v", "/disk"); b.suspend("v", "/disk") }, verr.OperationInvalid},
		{"nobody, of a shared disk", "/shared", func() {}, verr.OK},
		{"others that share", "/shared", func() { b.mustTake("v", "/shared"); b.drop("v", "/shared"); b.mustTake("w", "/shared") }, verr.OK},
		{"one that does not share", "/shared", func() { alone(b, "v", func() {}) }, verr.OperationInvalid},
		{"one that does not share, and one that does", "/shared", func() { alone(b, "v", func() {}); b.mustTake("w", "/shared") }, verr.OperationInvalid},
	} {
		epoch := a.mustTake("u", s.path)[0].Epoch
		a.suspend("u", s.path)
		s.during()
		err := a.resume("u", s.path, epoch)
		if got := code(err); got != s.code {
			t.Errorf("meanwhile %s had it: resumed with %v, want code %d", s.name, err, s.code)
		}
		if again := code(a.resume("u", s.path, epoch)); again != s.code {
			t.Errorf("meanwhile %s had it: the second try has code %d, want %d", s.name, again, s.code)
		}
		if got := code(a.resume("x", s.path+"-never", 0)); got != verr.OperationInvalid {
			t.Errorf("an epoch that is not known: code %d", got)
		}
		for _, guest := range []string{"u", "v", "w"} {
			a.drop(guest, s.path)
			b.drop(guest, s.path)
		}
	}
}

func movedIsElsewhere(t *testing.T, c *etcdtest.Cluster, client *clientv3.Client, prefix string) {
	a, b := newHost(t, c, prefix, "a"), newHost(t, c, prefix, "b")
	epoch := a.mustTake("u", "/disk")[0].Epoch
	a.suspend("u", "/disk")
	if err := b.resume("u", "/disk", epoch); err != nil {
		t.Fatalf("go on elsewhere: %v", err)
	}
	if got := code(a.resume("u", "/disk", epoch)); got != verr.ResourceBusy {
		t.Errorf("go on where it was left, too: code %d", got)
	}
	if got := code(b.resume("u", "/disk", epoch)); got != verr.OK {
		t.Errorf("the same again elsewhere: code %d", got)
	}
	b.drop("u", "/disk")
	if got := code(a.resume("u", "/disk", epoch)); got != verr.OperationInvalid {
		t.Errorf("go on where it was left, after it has ended elsewhere: code %d", got)
	}
	for _, k := range keys(t, client, prefix) {
		if !strings.HasPrefix(k, prefix+"host/") {
			t.Errorf("left is %q", k)
		}
	}
}

func code(err error) verr.Code {
	if err == nil {
		return verr.OK
	}
	return verr.From(err).Code
}

func lateRequestIsFenced(t *testing.T, c *etcdtest.Cluster, _ *clientv3.Client, prefix string) {
	a := newHost(t, c, prefix, "a")
	a.mustTake("u", "/1")
	next := open(t, c, prefix, store.Identity{Instance: a.id.Instance, Process: "a-2", Boot: a.id.Boot})
	next.again(a.sess.Lease)
	if _, err := a.take("v", "/2"); !errors.Is(err, store.ErrFenced) {
		t.Errorf("a process that was replaced takes a lock: %v", err)
	}
	if err := a.Drop(timeout(t), a.sess, a.marks("u", false, "/1")); !errors.Is(err, store.ErrFenced) {
		t.Errorf("a process that was replaced drops a lock: %v", err)
	}
	if lock := next.mustTake("u", "/1")[0]; lock.Taken {
		t.Error("the next process had to take the lock anew")
	}
}

func twoMachinesOneIdentity(t *testing.T, c *etcdtest.Cluster, _ *clientv3.Client, prefix string) {
	a := newHost(t, c, prefix, "a")
	copied := open(t, c, prefix, store.Identity{Instance: a.id.Instance, Process: "x", Boot: "another boot"})
	if _, err := copied.Enter(timeout(t), a.sess.Lease, false); !verr.Is(err, verr.OperationInvalid) {
		t.Errorf("a copy of the machine enters: %v", err)
	}
	if _, err := copied.Enter(timeout(t), a.sess.Lease, true); err != nil {
		t.Errorf("the machine enters after a reboot: %v", err)
	}
	if granted, left, err := a.Left(timeout(t), a.sess.Lease); err != nil || granted != 10*time.Second || left < 5*time.Second || left > granted {
		t.Errorf("of the lease %v of %v is left, %v", left, granted, err)
	}
}

func othersAreNotTrusted(t *testing.T, c *etcdtest.Cluster, client *clientv3.Client, prefix string) {
	a := newHost(t, c, prefix, "a")
	k := record.Keys{Prefix: prefix}
	for name, value := range map[string]string{
		"no JSON": "hello", "nothing": "", "too much": strings.Repeat(" ", 1<<20), "an odd name": record.Encode(record.Holder{Owner: "x", Name: "a\n\x1b[2J"}),
		"claims to be us": record.Encode(record.Holder{Owner: "u", Generation: 1, Instance: "instance-b", Host: "instance-b"}),
	} {
		id, _ := disk(t, "/"+name)
		if _, err := client.Put(timeout(t), k.Exclusive(id), value); err != nil {
			t.Fatal(err)
		}
		_, err := a.take("u", "/"+name)
		wantBusy(t, err)
		if err != nil && (len(err.Error()) > 2000 || strings.ContainsAny(err.Error(), "\n\x1b")) {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
		a.drop("u", "/"+name)
		if resp, err := client.Get(timeout(t), k.Exclusive(id)); err != nil || len(resp.Kvs) != 1 {
			t.Errorf("%s: another's key was deleted: %v", name, err)
		}
	}
	// A record of the last holder may be anything: it is replaced.
	id, _ := disk(t, "/last")
	if _, err := client.Put(timeout(t), k.Last(id), "hello"); err != nil {
		t.Fatal(err)
	}
	a.mustTake("u", "/last")
	// So many holders that no answer could hold all of them.
	id, _ = disk(t, "/shared by many")
	for i := range 20 {
		if _, err := client.Put(timeout(t), fmt.Sprintf("%ss/%d", k.Holders(id), i), strings.Repeat("x", 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	w := a.wants("u", "/shared by many")
	if _, err := a.Take(timeout(t), a.sess, w, true); err != nil {
		t.Errorf("sharing with many: %v", err)
	}
	w[0].Value.Shared = false
	_, err := a.Take(timeout(t), a.sess, w, true)
	wantBusy(t, err)
}

func leaseGone(t *testing.T, c *etcdtest.Cluster, _ *clientv3.Client, prefix string) {
	a := newHost(t, c, prefix, "a")
	a.mustTake("u", "/1")
	gone := make(chan error, 1)
	go func() { gone <- a.AwaitGone(timeout(t), a.sess.Fence) }()
	granted, err := a.Renew(timeout(t), a.sess.Lease, 5*time.Second)
	if err != nil || granted.TTL != 10*time.Second || granted.Ends() <= a.ends {
		t.Errorf("renewed as %+v, %v; it ended at %v", granted, err, a.ends)
	}
	if err := a.Revoke(timeout(t), a.sess.Lease); err != nil {
		t.Fatal(err)
	}
	if err := <-gone; err != nil {
		t.Errorf("the end of the lease was not noticed: %v", err)
	}
	if _, err := a.Renew(timeout(t), a.sess.Lease, 5*time.Second); !errors.Is(err, store.ErrLeaseGone) {
		t.Errorf("renewing it: %v", err)
	}
	if _, _, err := a.Left(timeout(t), a.sess.Lease); !errors.Is(err, store.ErrLeaseGone) {
		t.Errorf("asking for it: %v", err)
	}
	if _, err := a.take("u", "/1"); !errors.Is(err, store.ErrNoHost) {
		t.Errorf("taking with it: %v", err)
	}
	if _, err := a.Enter(timeout(t), a.sess.Lease, false); !errors.Is(err, store.ErrLeaseGone) {
		t.Errorf("entering with it: %v", err)
	}
	a.enter()
	if lock := a.mustTake("u", "/1")[0]; !lock.Taken {
		t.Error("the lock was there still")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := a.AwaitGone(ctx, a.sess.Fence); err == nil {
		t.Error("a watch that was cancelled says that the lease is gone")
	}
}

func asManyAsFit(t *testing.T, c *etcdtest.Cluster, client *clientv3.Client, prefix string) {
	a := newHost(t, c, prefix, "a")
	var paths []string
	for i := range store.MaxResources {
		kind := "/disk"
		if i%2 == 0 {
			kind = "/shared"
		}
		paths = append(paths, fmt.Sprintf("%s-%d-%s", kind, i, strings.Repeat("x", 4000)))
	}
	locks := a.mustTake("u", paths...)
	for i, l := range a.mustTake("u", paths...) {
		if l.Taken || l.Token != locks[i].Token {
			t.Fatalf("lock %d is %+v, was %+v", i, l, locks[i])
		}
	}
	a.drop("u", paths...)
	for _, k := range keys(t, client, prefix) {
		if !strings.HasSuffix(k, "/last") && !strings.HasPrefix(k, prefix+"host/") {
			t.Errorf("left is %q", k)
		}
	}
}

// neverTwoAtOnce has many guests on two hosts want few disks, shared and alone.
func neverTwoAtOnce(t *testing.T, c *etcdtest.Cluster, _ *clientv3.Client, prefix string) {
	hosts := []*host{newHost(t, c, prefix, "a"), newHost(t, c, prefix, "b")}
	const alone = 1 << 16 // more than ever share
	var inside [3]atomic.Int64
	var had, busy atomic.Int64
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			h, guest := hosts[i%2], fmt.Sprintf("guest-%d", i)
			for round := range 25 {
				d := (i + round) % 3
				id, r := disk(t, fmt.Sprintf("/contested-%d", d))
				share := (i+round)%2 == 0
				value := record.Holder{Owner: guest, Generation: 1, Instance: h.id.Instance, Shared: share}
				_, err := h.Take(timeout(t), h.sess, []store.Want{{ID: id, Resource: r, Value: value}}, true)
				if verr.Is(err, verr.ResourceBusy) {
					busy.Add(1)
					continue
				}
				if err != nil {
					t.Errorf("take: %v", err)
					return
				}
				had.Add(1)
				weight := int64(1)
				if !share {
					weight = alone
				}
				if n := inside[d].Add(weight); n > alone || (n == alone) == share {
					t.Errorf("disk %d has holders %x", d, n)
				}
				inside[d].Add(-weight)
				if err := h.Drop(timeout(t), h.sess, []store.Mark{{ID: id, Shared: share, Life: value.Life()}}); err != nil {
					t.Errorf("drop: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	if had.Load() == 0 || busy.Load() == 0 {
		t.Errorf("%d were had and %d refused: nobody met anybody", had.Load(), busy.Load())
	}
}

func allAreListed(t *testing.T, c *etcdtest.Cluster, client *clientv3.Client, prefix string) {
	a, b := newHost(t, c, prefix, "a"), newHost(t, c, prefix, "b")
	a.mustTake("u", "/1", "/shared")
	b.mustTake("v", "/2", "/shared")
	if _, err := client.Put(timeout(t), record.Keys{Prefix: prefix}.Exclusive("lease/a/b"), "hello"); err != nil {
		t.Fatal(err)
	}
	var list []string
	err := a.All(timeout(t), func(e store.Entry) error {
		if e.Holder == nil {
			list = append(list, strings.TrimPrefix(e.Key, prefix))
		} else {
			list = append(list, e.Holder.Host+" "+e.Holder.Path)
		}
		return nil
	})
	slices.Sort(list)
	if want := []string{"instance-a /1", "instance-a /shared", "instance-b /2", "instance-b /shared", "lease/a/b/h/e"}; err != nil || !slices.Equal(list, want) {
		t.Errorf("listed are %q, %v, want %q", list, err, want)
	}
}
