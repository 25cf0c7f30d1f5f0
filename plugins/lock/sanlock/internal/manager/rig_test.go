package manager

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/client"
	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/sanlocktest"
	"github.com/lodgevirt/lodge/sdk/faketest"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

func TestMain(m *testing.M) {
	sanlocktest.RunOwner()
	if os.Getenv(asPlugin) != "" {
		plugin.Serve(Plugin("0.0.0"))
	}
	flag.Parse()
	// The tests wait for daemons most of the time.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// node is a host with a manager.
type node struct {
	testing.TB
	host *sanlocktest.Host
	core plugin.Core
	dir  string
	id   int
	m    *Manager
	seen chan *pb.WatchResponse
	// more are settings beside those that every node has.
	more map[string]any
}

// newNode starts a host whose leases are in a folder.
func newNode(t testing.TB, dir string, id int, more map[string]any, options ...sanlocktest.Option) *node {
	t.Helper()
	n := &node{
		TB: t, host: sanlocktest.NewHost(t, fmt.Sprintf("host%d", id), options...), core: faketest.NewCore(t), dir: dir, id: id, more: more,
	}
	n.restart()
	t.Cleanup(func() { n.stop() })
	return n
}

func (n *node) config() []byte {
	c := map[string]any{
		"host_id": n.id, "auto_disk_leases": true, "disk_lease_dir": n.dir, "io_timeout": sanlocktest.IOTimeout, "run_dir": n.host.Dir,
	}
	for key, value := range n.more {
		c[key] = value
	}
	text, err := json.Marshal(c)
	if err != nil {
		n.Fatal(err)
	}
	return text
}

// restart drops all that the manager knows, as a crash of the plugin does.
func (n *node) restart() {
	n.Helper()
	n.stop()
	n.m = New(n.core)
	if err := n.m.Configure(n.ctx(), plugin.Settings{Config: n.config()}); err != nil {
		n.Fatal(err)
	}
	n.follow()
}

func (n *node) stop() {
	if n.m != nil {
		_ = n.m.Close(context.Background())
	}
}

// follow watches, until the test ends.
func (n *node) follow() {
	n.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	hello, ended := make(chan struct{}), make(chan struct{})
	seen := make(chan *pb.WatchResponse, 64)
	m := n.m
	go func() {
		defer close(ended)
		_ = m.Watch(ctx, func(r *pb.WatchResponse) error {
			if r.GetLease() == nil {
				close(hello)
				return nil
			}
			seen <- r
			return nil
		})
	}()
	<-hello
	n.seen = seen
	n.Cleanup(func() { cancel(); <-ended })
}

// next returns the next change.
func (n *node) next() *pb.WatchResponse {
	n.Helper()
	select {
	case r := <-n.seen:
		return r
	case <-time.After(20 * time.Second):
		n.Fatal("no change of a lock was told")
		return nil
	}
}

func (n *node) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 45*time.Second)
	n.Cleanup(cancel)
	return ctx
}

// guest is one life of a guest with its process.
type guest struct {
	*node
	who       *pb.Owner
	process   *sanlocktest.Owner
	onFailure pb.Action
}

// prepare asks for a guest's locks as the core does.
func (n *node) prepare(who *pb.Owner, onFailure pb.Action, resources ...*pb.Resource) (*pb.PrepareResponse, error) {
	return n.m.Prepare(n.ctx(), &pb.PrepareRequest{Owner: who, Resources: resources, OnFailure: onFailure})
}

func newOwner(name string) *pb.Owner {
	return &pb.Owner{Uuid: uuid.NewString(), Name: name, Id: 7, Generation: 3, Uri: "qemu:///system"}
}

// newGuest prepares a guest and has its process register as it was told.
func (n *node) newGuest(name string, onFailure pb.Action, resources ...*pb.Resource) *guest {
	n.Helper()
	g := &guest{node: n, who: newOwner(name), onFailure: onFailure}
	resp, err := n.prepare(g.who, onFailure, resources...)
	if err != nil {
		n.Fatal(err)
	}
	if !resp.GetNeedsProcess() || len(resp.GetRegistrations()) != 1 {
		n.Fatalf("answer to prepare is %v", resp)
	}
	r := sanlocktest.Registration{Socket: resp.GetRegistrations()[0].GetSocket()}
	for _, e := range resp.GetRegistrations()[0].GetExchanges() {
		if int(e.GetReceive()) != len(e.GetWant()) {
			n.Fatalf("exchange is %v", e)
		}
		r.Exchanges = append(r.Exchanges, client.Exchange{Send: e.GetSend(), Want: e.GetWant(), Mask: e.GetMask()})
	}
	g.process = sanlocktest.NewOwner(n.TB, r)
	g.who.Pid, g.who.StartTime = int32(g.process.PID), g.process.StartTime
	return g
}

func (g *guest) acquire(resources ...*pb.Resource) (*pb.AcquireResponse, error) {
	return g.resume(nil, resources...)
}

func (g *guest) resume(state []byte, resources ...*pb.Resource) (*pb.AcquireResponse, error) {
	return g.m.Acquire(g.ctx(), &pb.AcquireRequest{Owner: g.who, Resources: resources, OnFailure: g.onFailure, State: state})
}

func (g *guest) acquired(resources ...*pb.Resource) []*pb.Lease {
	g.Helper()
	resp, err := g.acquire(resources...)
	if err != nil {
		g.Fatal(err)
	}
	return resp.GetLeases()
}

func (g *guest) release(suspend bool, resources ...*pb.Resource) *pb.ReleaseResponse {
	g.Helper()
	resp, err := g.m.Release(g.ctx(), &pb.ReleaseRequest{
		Owner: &pb.Owner{Uuid: g.who.GetUuid(), Generation: g.who.GetGeneration()}, Resources: resources, Suspend: suspend,
	})
	if err != nil {
		g.Fatal(err)
	}
	return resp
}

func (g *guest) recover(resources ...*pb.Resource) []*pb.Lease {
	g.Helper()
	resp, err := g.m.Recover(g.ctx(), &pb.RecoverRequest{Owner: g.who, Resources: resources, OnFailure: g.onFailure})
	if err != nil {
		g.Fatal(err)
	}
	return resp.GetLeases()
}

// holds reports whether the daemon counts the guest's process as owner of a disk's lease.
func (g *guest) holds(disk string) bool {
	g.Helper()
	st, err := g.host.Client.Status(g.ctx())
	if err != nil {
		g.Fatal(err)
	}
	return st.Of(g.process.PID, diskSpace, diskName(disk)) != nil
}

func (g *guest) lives() bool {
	select {
	case <-g.process.Done():
		return false
	default:
		return true
	}
}

func disk(path string) *pb.Resource { return &pb.Resource{Disk: path} }

func sharedDisk(path string) *pb.Resource { return &pb.Resource{Disk: path, Shared: true} }

func (n *node) list() []*pb.Lease {
	n.Helper()
	leases, err := n.m.List(n.ctx())
	if err != nil {
		n.Fatal(err)
	}
	return leases
}

// records counts what is kept in the core's state.
func (n *node) records() int {
	n.Helper()
	keys, err := n.core.State().List(n.ctx(), recordPrefix)
	if err != nil {
		n.Fatal(err)
	}
	return len(keys)
}

// operatorsLease makes a lockspace and a lease as an operator would, and has the host join.
func (n *node) operatorsLease(space, name string) *pb.Resource {
	n.Helper()
	path := filepath.Join(n.TempDir(), "leases")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		n.Fatal(err)
	}
	const size = 1 << 20
	if err := os.Truncate(path, 3*size); err != nil {
		n.Fatal(err)
	}
	r := &pb.Resource{Lockspace: space, Key: name, Path: path, Offset: 2 * size}
	for _, err := range []error{
		n.host.Client.InitLockspace(n.ctx(), n.spaceOf(r), sanlocktest.IOTimeout), n.host.Client.InitResource(n.ctx(), *namedLease(r)),
	} {
		if err != nil {
			n.Fatal(err)
		}
	}
	n.joins(r)
	return r
}

// spaceOf is the lockspace of a lease that operatorsLease has made.
func (n *node) spaceOf(r *pb.Resource) client.Lockspace {
	return client.Lockspace{Name: r.GetLockspace(), HostID: uint64(n.id), Disk: client.Disk{Path: r.GetPath()}}
}

// joins has the host join the lockspace of a lease that operatorsLease has made.
func (n *node) joins(r *pb.Resource) {
	n.Helper()
	if err := n.host.Client.Join(n.ctx(), n.spaceOf(r), sanlocktest.IOTimeout); err != nil {
		n.Fatal(err)
	}
}
