package session

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/ceph"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
)

// dialer counts connections.
type dialer struct {
	made, closed atomic.Int64
	key          atomic.Value
}

type connection struct {
	ceph.Pool
	of *dialer
}

func (c *connection) Close() { c.of.closed.Add(1) }

func (d *dialer) dial(o ceph.Options) (ceph.Pool, error) {
	d.made.Add(1)
	d.key.Store(o.Key)
	return &connection{of: d}, nil
}

func ref(name, key string) *pb.Pool {
	return &pb.Pool{
		Uuid:    name,
		Xml:     "<pool type='rbd'><name>" + name + "</name><source><name>x</name><auth type='ceph' username='u'><secret usage='s'/></auth></source></pool>",
		Secrets: []*pb.Secret{{Value: []byte(key)}},
	}
}

// use connects, and gives the session back after all have connected.
func use(t *testing.T, s *Store, p *pb.Pool) *Session {
	t.Helper()
	x, err := s.Get(p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Link(t.Context()); err != nil {
		t.Fatal(err)
	}
	return x
}

// await waits for what another goroutine does.
func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

func TestAConnectionIsMadeOnceAndKept(t *testing.T) {
	defer goleak.VerifyNone(t)
	d := &dialer{}
	s := NewStore(d.dial, hclog.NewNullLogger())
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { use(t, s, ref("p", "key")).Release() })
	}
	all.Wait()
	if n := d.made.Load(); n != 1 || d.key.Load() != "a2V5" {
		t.Errorf("%d connections were made, with key %v", n, d.key.Load())
	}
	held := use(t, s, ref("p", "key"))
	use(t, s, ref("p", "another")).Release()
	if d.made.Load() != 2 || d.closed.Load() != 0 {
		t.Errorf("another secret: %d made, %d closed while it is in use", d.made.Load(), d.closed.Load())
	}
	held.Release()
	await(t, "the connection with the old secret is not closed", func() bool { return d.closed.Load() == 1 })
	x := use(t, s, ref("p", "another"))
	x.Broken(fmt.Errorf("call: %w", unix.ESHUTDOWN))
	x.Release()
	await(t, "a broken connection is not closed", func() bool { return d.closed.Load() == 2 })
	use(t, s, ref("p", "another")).Release()
	s.Drop("p")
	await(t, "the connection is not closed when its pool stops", func() bool { return d.closed.Load() == 3 })
}

func TestConnectionsThatAreNotUsedMakeRoom(t *testing.T) {
	d := &dialer{}
	s := NewStore(d.dial, hclog.NewNullLogger())
	for n := range maxSessions + 5 {
		use(t, s, ref(fmt.Sprint("p", n), "key")).Release()
	}
	await(t, "too many connections are kept", func() bool { return d.closed.Load() == 5 })
	use(t, s, ref("p4", "key")).Release()
	use(t, s, ref(fmt.Sprint("p", maxSessions), "key")).Release()
	if n := d.made.Load(); n != maxSessions+6 {
		t.Errorf("%d connections were made", n)
	}
}

func TestAMonitorIsKnownByItsFirstWords(t *testing.T) {
	if err := probe([]string{"127.0.0.1:1", "[::1]:1"}, time.Second); err == nil {
		t.Error("nobody is a monitor")
	}
	if err := probe(nil, time.Second); err != nil {
		t.Error(err)
	}
}
