package manager_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/boot"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/etcdtest"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/guard"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/manager"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/record"
	"github.com/lodgevirt/lodge/sdk/faketest"
	"github.com/lodgevirt/lodge/sdk/plugin"
	"github.com/lodgevirt/lodge/sdk/plugin/handshake"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// roleKey has the test binary be the plugin.
const roleKey = "LODGE_TEST_ROLE"

// options are those of tests: leases are short, and a guard does not stay for long without guests.
var options = manager.Options{MinTTL: time.Second, Linger: 500 * time.Millisecond}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == guard.Command {
		os.Exit(guard.Main(os.Args[2:]))
	}
	if os.Getenv(roleKey) == "plugin" {
		plugin.Serve(manager.Plugin("0.0.0", options))
	}
	// The tests mostly wait for leases, so more of them than there are processors can run at once.
	flag.Parse()
	_ = flag.Set("test.parallel", "8")
	code := m.Run()
	cluster.stop()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// command makes the plugin's process.
func command() *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), os.Args[0])
	cmd.Env = append(os.Environ(), roleKey+"=plugin")
	return cmd
}

// patience is the longest that something may take on a machine that does much else.
const patience = 30 * time.Second

// shared is an etcd of one member for all tests that do not disturb it. It is started once.
type shared struct {
	once    sync.Once
	cluster *etcdtest.Cluster
	end     func()
}

var cluster shared

// lasting is a testing.TB whose cleanups run when the process ends, and not with the test that was the first.
type lasting struct {
	testing.TB
	dir      string
	cleanups []func()
}

func (l *lasting) Cleanup(f func()) { l.cleanups = append(l.cleanups, f) }

func (l *lasting) TempDir() string { return l.dir }

func (l *lasting) Helper() {}

// get returns the cluster.
func (s *shared) get(t testing.TB) *etcdtest.Cluster {
	t.Helper()
	if _, err := exec.LookPath("etcd"); err != nil {
		t.Skip("etcd is not installed (Debian: etcd-server), so nothing is tested against it")
	}
	s.once.Do(func() {
		dir, err := os.MkdirTemp("", "lodge-etcd")
		if err != nil {
			t.Fatal(err)
		}
		l := &lasting{TB: t, dir: dir}
		s.cluster = etcdtest.Start(l, 1)
		s.end = func() {
			for _, f := range l.cleanups {
				f()
			}
			_ = os.RemoveAll(dir)
		}
	})
	return s.cluster
}

func (s *shared) stop() {
	if s.end != nil {
		s.end()
	}
}

// prefixes gives each test its own.
var prefixes atomic.Int64

func newPrefix() string { return fmt.Sprintf("/test-%d/", prefixes.Add(1)) }

// table is a configuration.
func table(c *etcdtest.Cluster, prefix, host string, ttl int) []byte {
	text, _ := json.Marshal(map[string]any{ // it has nothing that cannot be encoded
		"endpoints": c.Endpoints(), "prefix": prefix, "host": host, "ttl": ttl, "dial_timeout": 1, "request_timeout": 2,
	})
	return text
}

// scene is a cluster, hosts on it, and guests on them.
type scene struct {
	testing.TB
	etcd   *etcdtest.Cluster
	client *clientv3.Client
	prefix string
	ttl    int
}

func newScene(t testing.TB, c *etcdtest.Cluster, ttl int) *scene {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: c.Endpoints(), DialTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return &scene{TB: t, etcd: c, client: client, prefix: newPrefix(), ttl: ttl}
}

func (s *scene) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s.Cleanup(cancel)
	return ctx
}

// host is a plugin with a core around it.
type host struct {
	*scene
	name string
	core *faketest.Host
	// table is the configuration.
	table []byte
	pb.ManagerServiceClient
}

func (s *scene) config(name string) []byte { return table(s.etcd, s.prefix, name, s.ttl) }

// host serves a plugin in this process.
func (s *scene) host(name string) *host {
	s.Helper()
	h := &host{scene: s, name: name, table: s.config(name)}
	h.core = faketest.StartWith(s.TB, manager.Plugin("0.0.0", options), h.table)
	h.Cleanup(h.endGuard)
	h.ManagerServiceClient = pb.NewManagerServiceClient(h.core.Conn)
	return h
}

// launched starts a plugin as a process of its own.
func (s *scene) launched(name string) *host {
	s.Helper()
	h := &host{scene: s, name: name, table: s.config(name)}
	h.core = faketest.Launch(s.TB, h.table, command)
	h.Cleanup(h.endGuard)
	h.ManagerServiceClient = pb.NewManagerServiceClient(h.core.Conn)
	return h
}

// endGuard ends the guard that a host has left behind. It runs before the plugin is ended, which would start another one.
func (h *host) endGuard() {
	h.core.Kill()
	if h.Failed() {
		for _, l := range h.core.Log() {
			h.Logf("%s %s: %s %v", l.GetTime().AsTime().Format("05.000"), h.name, l.GetMessage(), l.GetFields())
		}
	}
	if err := guard.End(h.core.Settings.RuntimeDir); err != nil {
		h.Error(err)
	}
}

// relaunch starts the next process.
func (h *host) relaunch() {
	h.Helper()
	h.core.Relaunch(h.TB, h.table, command)
	h.ManagerServiceClient = pb.NewManagerServiceClient(h.core.Conn)
}

// guest is one life of a guest.
type guest struct {
	h      *host
	owner  *pb.Owner
	action pb.Action
	ended  chan struct{}
}

// guest makes a guest with a process, or without one.
func (h *host) guest(name string, process bool) *guest {
	h.Helper()
	g := &guest{h: h, owner: &pb.Owner{Uuid: uuid.NewString(), Name: name, Id: 1, Generation: 1, Uri: "test:///default"}}
	if process {
		g.start()
	}
	return g
}

// start starts the guest's process.
func (g *guest) start() {
	g.h.Helper()
	cmd := exec.CommandContext(context.Background(), "sleep", "600")
	if err := cmd.Start(); err != nil {
		g.h.Fatal(err)
	}
	start, err := boot.StartTime(int32(cmd.Process.Pid))
	if err != nil {
		g.h.Fatal(err)
	}
	g.owner.Pid, g.owner.StartTime, g.ended = int32(cmd.Process.Pid), start, make(chan struct{})
	ended := g.ended
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	g.h.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
}

func (g *guest) lives() bool {
	select {
	case <-g.ended:
		return false
	default:
		return true
	}
}

func disks(paths ...string) []*pb.Resource {
	list := make([]*pb.Resource, len(paths))
	for i, p := range paths {
		list[i] = &pb.Resource{Disk: p, Shared: strings.HasPrefix(p, "/shared")}
	}
	return list
}

func (g *guest) try(paths ...string) ([]*pb.Lease, error) {
	rsp, err := g.h.Acquire(g.h.ctx(), &pb.AcquireRequest{Owner: g.owner, Resources: disks(paths...), OnFailure: g.action})
	return rsp.GetLeases(), err
}

func (g *guest) take(paths ...string) []*pb.Lease {
	g.h.Helper()
	leases, err := g.try(paths...)
	if err != nil {
		g.h.Fatalf("guest %q locks %v: %v", g.owner.GetName(), paths, err)
	}
	return leases
}

func (g *guest) recover(paths ...string) []*pb.Lease {
	g.h.Helper()
	rsp, err := g.h.Recover(g.h.ctx(), &pb.RecoverRequest{Owner: g.owner, Resources: disks(paths...), OnFailure: g.action})
	if err != nil {
		g.h.Fatalf("recover guest %q: %v", g.owner.GetName(), err)
	}
	return rsp.GetLeases()
}

func (g *guest) release(suspend bool) []byte {
	g.h.Helper()
	rsp, err := g.h.Release(g.h.ctx(), &pb.ReleaseRequest{Owner: g.owner, Suspend: suspend})
	if err != nil {
		g.h.Fatalf("release guest %q: %v", g.owner.GetName(), err)
	}
	return rsp.GetState()
}

// changes are what a Watch has told so far.
type changes struct {
	mu   sync.Mutex // guards both
	list []*pb.WatchResponse
	// seen is how far each guest's have been looked at.
	seen map[string]int
}

// watch reads changes in the background, after the hello.
func (h *host) watch() *changes {
	h.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := h.Watch(ctx, &pb.WatchRequest{})
	if err != nil {
		h.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		h.Fatal(err)
	}
	told := &changes{seen: map[string]int{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := stream.Recv()
			if err != nil {
				return
			}
			told.mu.Lock()
			told.list = append(told.list, c)
			told.mu.Unlock()
		}
	}()
	h.Cleanup(func() {
		cancel()
		<-done
	})
	return told
}

// next returns the next change of a guest's locks to a status, if there is one.
func (c *changes) next(g *guest, s pb.Status) *pb.WatchResponse {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := c.seen[g.owner.GetUuid()]; i < len(c.list); i++ {
		if l := c.list[i].GetLease(); l.GetOwner().GetUuid() == g.owner.GetUuid() && l.GetStatus() == s {
			c.seen[g.owner.GetUuid()] = i + 1
			return c.list[i]
		}
	}
	return nil
}

// count counts the changes to a status.
func (c *changes) count(s pb.Status) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, change := range c.list {
		if change.GetLease().GetStatus() == s {
			n++
		}
	}
	return n
}

// wantChange waits until it is told that a guest's lock has a status.
func (g *guest) wantChange(told *changes, s pb.Status) *pb.WatchResponse {
	g.h.Helper()
	var c *pb.WatchResponse
	g.h.eventually(fmt.Sprintf("it is told that the lock of guest %q is %v", g.owner.GetName(), s), func() bool {
		c = told.next(g, s)
		return c != nil
	})
	return c
}

// eventually waits until something is true.
func (s *scene) eventually(what string, is func() bool) {
	s.Helper()
	for limit := time.Now().Add(patience); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(limit) {
			s.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// wantEnd waits for the end of a guest's process.
func (g *guest) wantEnd() {
	g.h.Helper()
	select {
	case <-g.ended:
	case <-time.After(patience):
		g.h.Fatalf("guest %q lives on", g.owner.GetName())
	}
}

// keys lists what is in etcd, without the hosts' own keys.
func (s *scene) keys() []string {
	s.Helper()
	resp, err := s.client.Get(s.ctx(), s.prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		s.Fatal(err)
	}
	var names []string
	for _, kv := range resp.Kvs {
		if name := string(kv.Key); !strings.HasPrefix(name, s.prefix+"host/") {
			names = append(names, name)
		}
	}
	return names
}

// holderKey is the key of who has a disk alone.
func (s *scene) holderKey(path string) string {
	s.Helper()
	id, err := record.NewID(&pb.Resource{Disk: path})
	if err != nil {
		s.Fatal(err)
	}
	return record.Keys{Prefix: s.prefix}.Exclusive(id)
}

// lease is the lease that the key of a disk's holder is bound to, or 0.
func (s *scene) lease(path string) clientv3.LeaseID {
	s.Helper()
	resp, err := s.client.Get(s.ctx(), s.holderKey(path))
	if err != nil {
		s.Fatal(err)
	}
	if len(resp.Kvs) == 0 {
		return 0
	}
	return clientv3.LeaseID(resp.Kvs[0].Lease)
}

// steal gives a disk to somebody else.
func (s *scene) steal(path string) {
	s.Helper()
	value := record.Encode(record.Holder{Owner: "thief", Name: "thief", Host: "elsewhere", Path: path})
	if _, err := s.client.Put(s.ctx(), s.holderKey(path), value); err != nil {
		s.Fatal(err)
	}
}

// prefixOption has a request be for all keys that begin so.
var prefixOption = clientv3.WithPrefix()

// diagnose asks a plugin how it is.
func diagnose(ctx context.Context, conn *grpc.ClientConn) (map[string]string, error) {
	rsp, err := basev1.NewPluginServiceClient(conn).Diagnose(ctx, &basev1.DiagnoseRequest{})
	return rsp.GetFacts(), err
}

func wantCode(t testing.TB, what string, err error, code verr.Code) {
	t.Helper()
	if err == nil || verr.From(err).Code != code {
		t.Errorf("%s: got %v, want an error of code %d", what, err, code)
	}
}

func wantStatus(t testing.TB, what string, l *pb.Lease, s pb.Status) {
	t.Helper()
	if l.GetStatus() != s {
		t.Errorf("%s: the lock is %v (%s), want %v", what, l.GetStatus(), l.GetDetail(), s)
	}
}

// leaseOption binds a key to a lease.
func leaseOption(id int64) clientv3.OpOption { return clientv3.WithLease(clientv3.LeaseID(id)) }

// failing makes a plugin's process that kills itself at a failpoint.
func failing(point string) func() *exec.Cmd {
	return func() *exec.Cmd {
		cmd := command()
		cmd.Env = append(cmd.Env, handshake.FailpointsKey+"="+point+"=kill")
		return cmd
	}
}

// releaseOf releases all that an owner has.
func releaseOf(o *pb.Owner) *pb.ReleaseRequest { return &pb.ReleaseRequest{Owner: o} }
