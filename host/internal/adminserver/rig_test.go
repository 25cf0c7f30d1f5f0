package adminserver_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/lodgevirt/lodge/host/internal/adminproto"
	"github.com/lodgevirt/lodge/host/internal/adminserver"
	"github.com/lodgevirt/lodge/host/internal/lockserver/hub"
	"github.com/lodgevirt/lodge/host/internal/logging"
	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/host/internal/xdr"
)

// patience is how long a test waits for what must happen before it fails instead of hanging.
const patience = 20 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service is a pretended one, as the lock daemon's would be.
type service struct {
	mu      sync.Mutex
	name    string
	clients []adminserver.Client
	limits  adminserver.Limits
}

func (s *service) Name() string { return s.name }

func (s *service) Clients() []adminserver.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.clients)
}

func (s *service) connect(clients ...adminserver.Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients = append(s.clients, clients...)
}

func (s *service) Disconnect(id uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.clients)
	s.clients = slices.DeleteFunc(s.clients, func(c adminserver.Client) bool { return c.ID == id })
	return len(s.clients) < before
}

func (s *service) Limits() adminserver.Limits {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.limits
	l.Clients = uint32(len(s.clients))
	return l
}

func (s *service) SetLimits(clients, unauthenticated uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits.MaxClients, s.limits.MaxUnauthenticated = clients, unauthenticated
}

// pooled is a service with workers and certificates, as lodged's would be.
type pooled struct {
	service
	workers atomic.Pointer[adminserver.Workers]
	updates atomic.Int32
}

func newPooled(clients ...adminserver.Client) *pooled {
	p := &pooled{service: service{name: "pool", clients: clients}}
	p.workers.Store(&adminserver.Workers{Min: 5, Max: 20, Current: 6, Free: 4, Priority: 5, Queue: 1})
	return p
}

func (p *pooled) Workers() adminserver.Workers { return *p.workers.Load() }

func (p *pooled) SetWorkers(least, most, priority uint32) error {
	if most > 100 {
		return errors.New("too many workers")
	}
	w := p.Workers()
	w.Min, w.Max, w.Priority = least, most, priority
	p.workers.Store(&w)
	return nil
}

func (p *pooled) UpdateTLS() error {
	p.updates.Add(1)
	return nil
}

// timeout remembers what it was told.
type timeout struct{ after atomic.Int64 }

func (t *timeout) SetTimeout(after time.Duration) { t.after.Store(int64(after)) }

// rig is a server with a log, two pretended services and its clients.
type rig struct {
	socket  string
	server  *adminserver.Server
	locks   *service
	pool    *pooled
	timeout *timeout
}

// serve runs a server with three services until the test ends.
func serve(t testing.TB, maxClients uint32) *rig {
	t.Helper()
	r := &rig{
		timeout: &timeout{},
		locks:   &service{name: "virtlockd", limits: adminserver.Limits{MaxClients: 1024, MaxUnauthenticated: 1024}},
		pool:    newPooled(),
	}
	r.start(t, maxClients, func(s *adminserver.Server) []adminserver.Service { return []adminserver.Service{s, r.locks, r.pool} })
	return r
}

// serveAsVirtlockd runs a server with the services that virtlockd has.
func serveAsVirtlockd(t testing.TB) *rig {
	t.Helper()
	r := &rig{timeout: &timeout{}, locks: &service{name: "virtlockd", limits: adminserver.Limits{MaxClients: 1024, MaxUnauthenticated: 1024}}}
	r.start(t, 5000, func(s *adminserver.Server) []adminserver.Service { return []adminserver.Service{s, r.locks} })
	return r
}

func (r *rig) start(t testing.TB, maxClients uint32, services func(*adminserver.Server) []adminserver.Service) {
	t.Helper()
	dir, err := os.MkdirTemp("", "admin")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	log, err := logging.New(logging.Config{Level: logging.Warning})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	r.socket = filepath.Join(dir, "sock")
	connections, err := hub.New(hclog.NewNullLogger(), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.server = adminserver.NewServer(connections, "admin", maxClients)
	r.server.Use(adminserver.NewProgram(adminserver.Config{
		Services: services(r.server), Log: log, Timeout: r.timeout, LibVersion: 9000000, Logger: hclog.NewNullLogger(),
	}))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: r.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := hub.FromNet(l, true)
	if err == nil {
		err = r.server.Listen(listener)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := connections.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
}

// caller is a client that sends what it is told.
type caller struct {
	conn   net.Conn
	reader *rpc.Reader
	writer *rpc.Writer
	serial uint32
}

func dial(t testing.TB, socket string) *caller {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return talk(t, conn)
}

func talk(t testing.TB, conn net.Conn) *caller {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &caller{conn: conn, reader: rpc.NewReader(conn, rpc.ReaderConfig{}), writer: rpc.NewWriter(conn, patience)}
}

// send sends a frame of a call, which change may make another one.
func (c *caller) send(procedure int32, args any, change func(*rpc.Header)) (rpc.Header, error) {
	payload, ok := args.([]byte)
	if !ok {
		var err error
		if payload, err = xdr.Append(nil, args); err != nil {
			return rpc.Header{}, err
		}
	}
	h := rpc.Header{Program: adminproto.Program, Version: adminproto.Version, Procedure: procedure, Serial: c.serial}
	c.serial++
	if change != nil {
		change(&h)
	}
	return h, c.writer.Send(h, payload)
}

// call sends a call and decodes its answer into ret, which may be nil. Its error is the one that was answered.
func (c *caller) call(procedure int32, args, ret any) error {
	h, err := c.send(procedure, args, nil)
	if err != nil {
		return err
	}
	f, err := c.reader.Next()
	if err != nil {
		return err
	}
	if f.Program != h.Program || f.Procedure != h.Procedure || f.Serial != h.Serial || f.Type != rpc.Reply {
		return fmt.Errorf("reply %+v to %+v", f.Header, h)
	}
	if f.Status == rpc.Failed {
		e, err := rpc.ParseError(f.Payload)
		if err != nil {
			return err
		}
		return e.Err()
	}
	if ret == nil {
		return nil
	}
	rest, err := xdr.Unmarshal(f.Payload, ret)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes behind the answer", len(rest))
	}
	return err
}

// must fails the test if a call does.
func (c *caller) must(t testing.TB, procedure int32, args, ret any) {
	t.Helper()
	if err := c.call(procedure, args, ret); err != nil {
		t.Fatalf("procedure %d: %v", procedure, err)
	}
}

func named(name string) adminproto.Server { return adminproto.Server{Name: name} }

func about(name string) *adminproto.ServerArgs { return &adminproto.ServerArgs{Server: named(name)} }

func uintParam(name string, n uint32) adminproto.Param {
	return adminproto.Param{Field: name, Value: adminproto.Value{D: adminproto.TypeUint, I: n}}
}

func set(name string, params ...adminproto.Param) *adminproto.SetParamsArgs {
	return &adminproto.SetParamsArgs{Server: named(name), Params: params}
}

// values are parameters by their names.
func values(params []adminproto.Param) map[string]any {
	out := map[string]any{}
	for _, p := range params {
		out[p.Field] = p.Value.I
	}
	return out
}

// eventually waits for something that happens by itself.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for give := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(give) {
			t.Fatal(what)
		}
	}
}
