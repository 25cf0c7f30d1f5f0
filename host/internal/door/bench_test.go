package door

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/host/internal/connection"
	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/host/internal/event"
	"github.com/lodgevirt/lodge/host/internal/lockmanager"
	"github.com/lodgevirt/lodge/host/internal/node"
	"github.com/lodgevirt/lodge/host/internal/pool"
	"github.com/lodgevirt/lodge/host/internal/pool/pooltest"
	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/host/internal/secret"
	"github.com/lodgevirt/lodge/host/internal/xdr"
	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/faketest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// patience bounds every wait of these tests.
const patience = 20 * time.Second

// fakeDriver runs guests that do nothing. Its console says what it hears, and "bye" ends it.
type fakeDriver struct {
	pb.UnimplementedDriverServiceServer
	pb.UnimplementedLifecycleServiceServer
	pb.UnimplementedConsoleServiceServer
	pb.UnimplementedStatsServiceServer

	mu sync.Mutex
	// gate, if set, holds Start until it is closed.
	gate chan struct{}
	// starting is told of every Start that is held.
	starting chan struct{}
}

func (f *fakeDriver) Probe(_ context.Context, req *pb.ProbeRequest) (*pb.ProbeResponse, error) {
	rsp := &pb.ProbeResponse{Version: 7002000, CapabilitiesXml: "<capabilities/>"}
	if req.Connection == "host" {
		rsp.Node = &pb.Node{Model: "x86_64", Hostname: mirrorHost, Cpus: 12}
	}
	return rsp, nil
}

func (f *fakeDriver) Validate(_ context.Context, req *pb.ValidateRequest) (*pb.ValidateResponse, error) {
	d, err := domxml.Parse(req.Xml)
	if err == nil {
		err = domxml.Complete(d)
	}
	if err != nil {
		return nil, verr.Status(err)
	}
	text, err := domxml.Format(d)
	return &pb.ValidateResponse{Xml: text, Summary: domxml.Summarize(d)}, verr.Status(err)
}

func (f *fakeDriver) Start(ctx context.Context, req *pb.StartRequest) (*pb.StartResponse, error) {
	f.mu.Lock()
	gate := f.gate
	f.mu.Unlock()
	if gate != nil {
		f.starting <- struct{}{}
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return &pb.StartResponse{
		Handle: &pb.Handle{Version: 1}, LiveXml: req.Xml,
		Change: &pb.Change{State: pb.State_STATE_RUNNING, Reason: 1, Events: []*pb.Event{lifecycle(4, 0), lifecycle(2, 0)}},
	}, nil
}

func (f *fakeDriver) Stop(context.Context, *pb.StopRequest) (*pb.StopResponse, error) {
	return &pb.StopResponse{Change: &pb.Change{
		State: pb.State_STATE_SHUTOFF, Reason: 2, Events: []*pb.Event{lifecycle(6, 2), lifecycle(5, 1)},
	}}, nil
}

func (f *fakeDriver) OpenConsole(stream grpc.BidiStreamingServer[pb.OpenConsoleRequest, pb.OpenConsoleResponse]) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	if err := stream.Send(&pb.OpenConsoleResponse{Message: &pb.OpenConsoleResponse_Opened{}}); err != nil {
		return err
	}
	for {
		msg, err := stream.Recv()
		if err != nil || bytes.Equal(msg.GetData(), []byte("bye")) {
			return err
		}
		if bytes.Equal(msg.GetData(), []byte("crash")) {
			return verr.Status(verr.New(verr.Internal, "device is on fire"))
		}
		if err := stream.Send(&pb.OpenConsoleResponse{Message: &pb.OpenConsoleResponse_Data{Data: msg.GetData()}}); err != nil {
			return err
		}
	}
}

func lifecycle(ev, detail int32) *pb.Event {
	return &pb.Event{Event: &pb.Event_Lifecycle{Lifecycle: &pb.LifecycleEvent{Event: ev, Detail: detail}}}
}

type noFiles struct{}

func (noFiles) SendFile(context.Context, []byte, *os.File) error { return nil }

// bench is a server with a core and a driver behind it, on a read-write and a read-only socket.
type bench struct {
	t       testing.TB
	server  *Server
	driver  *fakeDriver
	domains *domain.Inventory
	bus     *event.Bus
	shelf   *pooltest.Shelf
	mirror  *fakeMirror
	// folder is what guests' disks on this machine lie in: the one pool.
	folder     string
	path, ro   string
	serveErrs  chan error
	stopServer context.CancelFunc
}

func newBench(t testing.TB, limits Limits) *bench {
	t.Helper()
	return newBenchFor(t, limits, nil)
}

// newBenchFor is newBench with a policy of who may connect.
func newBenchFor(t testing.TB, limits Limits, policy Policy) *bench {
	t.Helper()
	goleakAtEnd(t)
	b := &bench{
		t: t, driver: &fakeDriver{starting: make(chan struct{}, 1000)}, bus: event.NewBus(0), folder: t.TempDir(),
		path: filepath.Join(t.TempDir(), "rw"), ro: filepath.Join(t.TempDir(), "ro"), serveErrs: make(chan error, 2),
	}
	conn := b.startDriver()
	cat, err := catalog.Open(filepath.Join(t.TempDir(), "catalog.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cat.Close() })
	b.domains, err = domain.New(domain.Config{
		URI: "test:///default", Connection: "default", Driver: "test", Plugin: conn, Incarnation: func() uint64 { return 1 },
		Files: noFiles{}, Catalog: cat, Events: b.bus, Locks: lockmanager.None{}, Log: hclog.NewNullLogger(),
		ProcessCPUTime: func(int32, uint64) (uint64, error) { return 0, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	b.shelf, b.mirror = pooltest.New(), newFakeMirror()
	secrets, err := secret.Open(cat, b.bus, secret.KeySource{File: filepath.Join(t.TempDir(), "key")})
	if err != nil {
		t.Fatal(err)
	}
	pools, err := pool.New(pool.Config{
		Catalog: cat, Events: b.bus, Secrets: secrets, Boot: "boot", Log: hclog.NewNullLogger(),
		Backends: map[string]grpc.ClientConnInterface{pooltest.Type: faketest.Client(t, b.shelf.Plugin())},
	})
	if err != nil {
		t.Fatal(err)
	}
	router := connection.NewRouter()
	host := node.New(node.Options{})
	router.Add(connection.New(connection.Config{
		Scheme: "test", Path: "default", Type: "Test", ErrorDomain: verr.FromTest, Domains: connection.Kept(b.domains), Plugin: conn, Host: host,
	}))
	router.Add(connection.New(connection.Config{
		Scheme: "local", Path: "system", Type: "Test", ErrorDomain: verr.FromTest, Domains: connection.Kept(b.domains), Plugin: conn, Host: host,
		Pools: pools, Secrets: secrets,
	}))
	far := connection.New(connection.Config{
		Scheme: "mirror", Path: "host", Type: "ESX", ErrorDomain: verr.FromESX, Domains: b.mirror, Plugin: conn, Host: host,
	})
	far.Networks, far.Interfaces = fakeNetworks{b.mirror}, fakeInterfaces{b.mirror}
	router.Add(far)
	b.server = New(Config{Router: router, Events: b.bus, Node: host, Limits: limits, Policy: policy})
	b.listen()
	return b
}

// goleakAtEnd checks, when all else has been cleaned up, that no goroutine is left.
func goleakAtEnd(t testing.TB) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		if err := goleak.Find(before); err != nil {
			t.Error(err)
		}
	})
}

// startDriver serves the fake driver in memory.
func (b *bench) startDriver() *grpc.ClientConn {
	lis := bufconn.Listen(1 << 20)
	srv := grpc.NewServer()
	pb.RegisterDriverServiceServer(srv, b.driver)
	pb.RegisterLifecycleServiceServer(srv, b.driver)
	pb.RegisterConsoleServiceServer(srv, b.driver)
	pb.RegisterStatsServiceServer(srv, b.driver)
	go func() { _ = srv.Serve(lis) }()
	conn, err := grpc.NewClient("passthrough:fake", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		_ = conn.Close()
		srv.Stop()
	})
	return conn
}

func (b *bench) listen() {
	ctx, cancel := context.WithCancel(context.Background())
	b.stopServer = cancel
	for _, s := range []struct {
		path     string
		readOnly bool
	}{{b.path, false}, {b.ro, true}} {
		l, err := net.Listen("unix", s.path)
		if err != nil {
			b.t.Fatal(err)
		}
		go func() { b.serveErrs <- b.server.Serve(ctx, l, s.readOnly) }()
	}
	b.t.Cleanup(func() {
		b.stopServer()
		for range 2 {
			if err := <-b.serveErrs; err != nil {
				b.t.Error(err)
			}
		}
		stop, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.server.Shutdown(stop); err != nil {
			b.t.Error(err)
		}
	})
}

func (b *bench) define(name string) *domain.Domain {
	b.t.Helper()
	d, err := b.domains.Define(context.Background(), guestXML(name), 0)
	if err != nil {
		b.t.Fatal(err)
	}
	return d
}

func guestXML(name string) string {
	return fmt.Sprintf(`<domain type='test'><name>%s</name><memory>8192</memory><os><type>hvm</type></os></domain>`, name)
}

// raw is a client that speaks frames.
type raw struct {
	t    testing.TB
	conn net.Conn
	r    *rpc.Reader
	w    *rpc.Writer
	next uint32
}

// dial connects without a word.
func (b *bench) dial(path string) *raw {
	b.t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		b.t.Fatal(err)
	}
	return &raw{t: b.t, conn: conn, r: rpc.NewReader(conn, rpc.ReaderConfig{}), w: rpc.NewWriter(conn, patience)}
}

// open connects and opens test:///default, whose guests have their disks elsewhere.
func (b *bench) open(path string) *raw {
	b.t.Helper()
	return b.openURI(path, "test:///default")
}

// openLocal connects and opens local:///system, which has the same guests with their disks here.
func (b *bench) openLocal(path string) *raw {
	b.t.Helper()
	return b.openURI(path, "local:///system")
}

func (b *bench) openURI(path, uri string) *raw {
	b.t.Helper()
	c := b.dial(path)
	c.must(procConnectOpen, openArgs(uri), nil)
	return c
}

type openRequest struct {
	Name  *string
	Flags uint32
}

func openArgs(uri string) *openRequest { return &openRequest{Name: &uri} }

// send sends a call of the remote program and returns its header.
func (c *raw) send(proc int32, args any) rpc.Header {
	c.t.Helper()
	h := rpc.Header{Program: remoteProgram, Version: 1, Procedure: proc, Serial: c.next}
	c.next++
	payload, err := xdr.Append(nil, args)
	if err != nil {
		c.t.Fatal(err)
	}
	c.frame(h, payload)
	return h
}

func (c *raw) frame(h rpc.Header, payload []byte) {
	c.t.Helper()
	if err := c.w.Send(h, payload); err != nil {
		c.t.Fatal(err)
	}
}

// recv returns the next frame.
func (c *raw) recv() rpc.Frame {
	c.t.Helper()
	f, err := c.r.Next()
	if err != nil {
		c.t.Fatal(err)
	}
	f.Payload = bytes.Clone(f.Payload)
	return f
}

// call makes a call, takes its reply and decodes it into ret if that is not nil. It returns the error that the server answered.
func (c *raw) call(proc int32, args, ret any) *rpc.Error {
	c.t.Helper()
	h := c.send(proc, args)
	f := c.recv()
	if f.Type != rpc.Reply || f.Serial != h.Serial || f.Procedure != proc || f.Program != h.Program {
		c.t.Fatalf("reply %+v to %+v", f.Header, h)
	}
	return c.decode(f, ret)
}

func (c *raw) decode(f rpc.Frame, ret any) *rpc.Error {
	c.t.Helper()
	if f.Status == rpc.Failed {
		e, err := rpc.ParseError(f.Payload)
		if err != nil {
			c.t.Fatal(err)
		}
		return e
	}
	if ret == nil {
		return nil
	}
	if rest, err := xdr.Unmarshal(f.Payload, ret); err != nil || len(rest) != 0 {
		c.t.Fatalf("reply of procedure %d: %d bytes too many, error %v", f.Procedure, len(rest), err)
	}
	return nil
}

// must is call for what cannot fail.
func (c *raw) must(proc int32, args, ret any) {
	c.t.Helper()
	if e := c.call(proc, args, ret); e != nil {
		c.t.Fatalf("procedure %d: %s", proc, *e.Message)
	}
}

// gone waits for the server to close the connection.
func (c *raw) gone() {
	c.t.Helper()
	for {
		if _, err := c.r.Next(); err != nil {
			if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
				c.t.Fatal("the connection is still open")
			}
			return
		}
	}
}
