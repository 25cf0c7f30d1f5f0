package domain

import (
	"context"
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
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/host/internal/event"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	storagev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// fakeDriver is a driver whose guests outlive it: restart forgets all but them. Hooks let a test fail, hold or kill a call.
type fakeDriver struct {
	pb.UnimplementedDriverServiceServer
	pb.UnimplementedLifecycleServiceServer

	mu     sync.Mutex
	alive  map[string]uint64 // generation by UUID
	stands map[string]bool   // vCPUs are stopped
	starts map[string]int
	asked  int // calls of Recover
	// before and after run around Start's effect; an error ends the call there.
	before, after func(ctx context.Context) error
	events        chan *pb.WatchEvent
	// resumed counts the locks of each Resume; stubborn refuses it.
	resumed  []int
	stubborn error
	fakeDevices
}

func (f *fakeDriver) Validate(_ context.Context, req *pb.ValidateRequest) (*pb.ValidateResponse, error) {
	d, err := domxml.Parse(req.Xml)
	if err != nil {
		return nil, verr.Status(err)
	}
	if err := domxml.Complete(d); err != nil {
		return nil, verr.Status(err)
	}
	text, err := domxml.Format(d)
	if err != nil {
		return nil, verr.Status(err)
	}
	return &pb.ValidateResponse{Xml: text, Summary: domxml.Summarize(d)}, nil
}

func (f *fakeDriver) Start(ctx context.Context, req *pb.StartRequest) (*pb.StartResponse, error) {
	f.mu.Lock()
	before, after := f.before, f.after
	f.mu.Unlock()
	if before != nil {
		if err := before(ctx); err != nil {
			return nil, verr.Status(err)
		}
	}
	f.mu.Lock()
	f.alive[req.Guest.Uuid] = req.Guest.Generation
	f.starts[req.Guest.Uuid]++
	f.mu.Unlock()
	f.open(req.GetResolved().GetDisks())
	if after != nil {
		if err := after(ctx); err != nil {
			return nil, verr.Status(err)
		}
	}
	return &pb.StartResponse{
		Handle: &pb.Handle{Version: 1, Data: []byte("h")}, LiveXml: req.Xml,
		Change: &pb.Change{
			State: pb.State_STATE_RUNNING, Reason: 1,
			Events: []*pb.Event{lifecycle(4, 0), lifecycle(2, 0)},
		},
	}, nil
}

func (f *fakeDriver) Stop(_ context.Context, req *pb.StopRequest) (*pb.StopResponse, error) {
	if err := f.hit("stop"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	delete(f.alive, req.Guest.Uuid)
	delete(f.stands, req.Guest.Uuid)
	f.mu.Unlock()
	if err := f.hit("stop.done"); err != nil {
		return nil, err
	}
	return &pb.StopResponse{Change: &pb.Change{
		State: pb.State_STATE_SHUTOFF, Reason: 2, Events: []*pb.Event{lifecycle(6, 2), lifecycle(5, 1)},
	}}, nil
}

func (f *fakeDriver) Recover(_ context.Context, req *pb.RecoverRequest) (*pb.RecoverResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	f.volumes = req.Volumes
	gen, ok := f.alive[req.Guest.Uuid]
	change := &pb.Change{State: pb.State_STATE_RUNNING, Reason: 1}
	if f.stands[req.Guest.Uuid] {
		change = &pb.Change{State: pb.State_STATE_PAUSED, Reason: 3}
	}
	switch {
	case ok && gen == req.Guest.Generation:
		return &pb.RecoverResponse{
			Verdict: pb.Verdict_VERDICT_RUNNING, Handle: &pb.Handle{Version: 1, Data: []byte("h")}, LiveXml: f.liveXML(req.Guest, req.Xml),
			Change: change,
		}, nil
	case ok:
		return &pb.RecoverResponse{Verdict: pb.Verdict_VERDICT_FOREIGN}, nil
	case req.Handle == nil:
		return &pb.RecoverResponse{Verdict: pb.Verdict_VERDICT_NOT_STARTED}, nil
	}
	return &pb.RecoverResponse{Verdict: pb.Verdict_VERDICT_GONE, Change: &pb.Change{
		State: pb.State_STATE_SHUTOFF, Reason: 3, Events: []*pb.Event{lifecycle(5, 2)},
	}}, nil
}

func (f *fakeDriver) Suspend(_ context.Context, req *pb.SuspendRequest) (*pb.SuspendResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stands[req.Guest.Uuid] = true
	return &pb.SuspendResponse{Change: &pb.Change{
		State: pb.State_STATE_PAUSED, Reason: 1, Events: []*pb.Event{lifecycle(3, 0)},
	}}, nil
}

func (f *fakeDriver) Resume(_ context.Context, req *pb.ResumeRequest) (*pb.ResumeResponse, error) {
	if err := f.hit("resume"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	if err := f.stubborn; err != nil {
		f.mu.Unlock()
		return nil, verr.Status(err)
	}
	f.resumed = append(f.resumed, len(req.Leases))
	delete(f.stands, req.Guest.Uuid)
	f.mu.Unlock()
	if err := f.hit("resume.done"); err != nil {
		return nil, err
	}
	change := &pb.Change{State: pb.State_STATE_RUNNING, Reason: 5, Events: []*pb.Event{lifecycle(4, 0)}}
	if req.Reason != 0 {
		change = &pb.Change{State: pb.State_STATE_RUNNING, Reason: req.Reason, Events: []*pb.Event{lifecycle(4, 2)}}
	}
	return &pb.ResumeResponse{Change: change}, nil
}

func (f *fakeDriver) Watch(_ *pb.WatchRequest, stream grpc.ServerStreamingServer[pb.WatchResponse]) error {
	hello := &pb.WatchResponse{Message: &pb.WatchResponse_Hello{Hello: &pb.Hello{Epoch: 1}}}
	if err := stream.Send(hello); err != nil {
		return err
	}
	for {
		select {
		case e := <-f.events:
			if err := stream.Send(&pb.WatchResponse{Message: &pb.WatchResponse_Event{Event: e}}); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

func newFakeDriver() *fakeDriver {
	return &fakeDriver{
		alive: map[string]uint64{}, stands: map[string]bool{}, starts: map[string]int{}, events: make(chan *pb.WatchEvent),
	}
}

// hook sets what runs around the effect of Start.
func (f *fakeDriver) hook(before, after func(context.Context) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before, f.after = before, after
}

func (f *fakeDriver) lives(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.alive[id]
	return ok
}

func (f *fakeDriver) recovers() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

// fakeLocks is a lock table in memory.
type fakeLocks struct {
	mu   sync.Mutex
	held map[string]Owner
	file *os.File // given with each lock
	// state is what the last Acquire brought.
	state []byte
	// away fails every call.
	away error
}

func (l *fakeLocks) Prepare(context.Context, Owner, Wants) (Prepared, error) { return Prepared{}, nil }

func (l *fakeLocks) Acquire(_ context.Context, o Owner, wants Wants) ([]HeldLock, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away != nil {
		return nil, l.away
	}
	for _, d := range wants.Disks {
		if h, ok := l.held[d.Path]; ok && (h.UUID != o.UUID || h.Generation != o.Generation) {
			return nil, verr.New(verr.ResourceBusy, "%s is locked by %s", d.Path, h.Name)
		}
	}
	l.state = wants.State
	var out []HeldLock
	for _, d := range wants.Disks {
		l.held[d.Path] = o
		out = append(out, HeldLock{Resource: d.Path, Disk: d.Path, File: l.file})
	}
	return out, nil
}

func (l *fakeLocks) Claim(context.Context, Owner, Wants) error { return nil }

func (l *fakeLocks) Reaffirm(context.Context, Owner, Wants, []HeldLock) ([]HeldLock, []LostLock, error) {
	return nil, nil, nil
}

func (l *fakeLocks) Release(_ context.Context, o Owner, what Release) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away != nil {
		return nil, l.away
	}
	for path, h := range l.held {
		only := what.Only == nil
		if !only {
			only = slices.ContainsFunc(what.Only.Disks, func(d LockedDisk) bool { return d.Path == path })
		}
		if only && h.UUID == o.UUID && h.Generation == o.Generation {
			delete(l.held, path)
		}
	}
	if what.Suspend {
		return []byte("state of " + o.Name), nil
	}
	return nil, nil
}

func (l *fakeLocks) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.held)
}

// sentFiles counts descriptors that the driver was sent, and keeps those that fakeSaver takes.
type sentFiles struct {
	n     atomic.Int32
	files sync.Map // *os.File by token
}

func (s *sentFiles) SendFile(_ context.Context, token []byte, file *os.File) error {
	s.n.Add(1)
	s.files.Store(string(token), file)
	return nil
}

// bench is an inventory with all that it needs.
type bench struct {
	*Inventory
	t           *testing.T
	driver      *fakeDriver
	locks       *fakeLocks
	bus         *event.Bus
	path        string
	cat         *catalog.Catalog
	incarnation atomic.Uint64
	files       sentFiles
	conn        *grpc.ClientConn
	server      *grpc.Server
	shelf       *shelf
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{
		t: t, bus: event.NewBus(0), path: filepath.Join(t.TempDir(), "catalog.db"),
		driver: newFakeDriver(),
		locks:  &fakeLocks{held: map[string]Owner{}},
		shelf:  &shelf{volumes: map[string]*storagev1.Volume{}, values: map[catalog.SecretRef]string{}},
	}
	t.Cleanup(func() { b.down() })
	b.up()
	return b
}

// up starts core and driver; down ends them and leaves disk, guests and locks.
func (b *bench) up() {
	b.t.Helper()
	lis := bufconn.Listen(1 << 20)
	b.server = grpc.NewServer()
	pb.RegisterDriverServiceServer(b.server, b.driver)
	pb.RegisterLifecycleServiceServer(b.server, b.driver)
	pb.RegisterSaveServiceServer(b.server, &fakeSaver{driver: b.driver, files: &b.files})
	pb.RegisterDeviceServiceServer(b.server, &b.driver.fakeDevices)
	go b.server.Serve(lis)
	var err error
	b.conn, err = grpc.NewClient("passthrough:fake", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		b.t.Fatal(err)
	}
	if b.cat, err = catalog.Open(b.path); err != nil {
		b.t.Fatal(err)
	}
	b.incarnation.Add(1)
	b.Inventory, err = New(Config{
		URI: "fake:///default", Connection: "default", Driver: "fake", Plugin: b.conn, Incarnation: b.incarnation.Load,
		Files: &b.files, Catalog: b.cat, Events: b.bus, Locks: b.locks, Log: hclog.NewNullLogger(),
		SaveDir: filepath.Join(filepath.Dir(b.path), "save"), Volumes: b.shelf, Secrets: b.shelf,
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) down() {
	b.conn.Close()
	b.server.Stop()
	b.cat.Close()
}

// restart is a SIGKILL of the core and its return.
func (b *bench) restart() {
	b.t.Helper()
	b.down()
	b.up()
	if err := b.Recover(b.t.Context(), pb.NewDriverServiceClient(b.conn)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) define(name string) *Domain {
	b.t.Helper()
	d, err := b.Define(b.t.Context(), guestXML(name), 0)
	if err != nil {
		b.t.Fatal(err)
	}
	return d
}

func guestXML(name string) string { return guestThat(name, "") }

// guestThat is a guest with an action on the loss of a lock, or none.
func guestThat(name, onLockFailure string) string {
	if onLockFailure != "" {
		onLockFailure = "<on_lockfailure>" + onLockFailure + "</on_lockfailure>"
	}
	return fmt.Sprintf(`<domain type='test'><name>%s</name><memory>1024</memory><os><type>hvm</type></os>%s<devices>
<disk type='file' device='disk'><source file='/images/%s'/><target dev='vda'/></disk></devices></domain>`, name, onLockFailure, name)
}

// lifecycles reads n lifecycle events as "event/detail@id".
func lifecycles(t *testing.T, s *event.Subscription, n int) []string {
	t.Helper()
	var got []string
	timeout := time.After(10 * time.Second)
	for len(got) < n {
		select {
		case e := <-s.C():
			l := e.Domain.GetLifecycle()
			got = append(got, fmt.Sprintf("%d/%d@%d", l.GetEvent(), l.GetDetail(), e.ID))
		case <-timeout:
			t.Fatalf("only %v of %d events", got, n)
		}
	}
	return got
}
