package mirror

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/lodgevirt/lodge/host/internal/connection"
	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/host/internal/event"
	"github.com/lodgevirt/lodge/sdk/faketest"
	"github.com/lodgevirt/lodge/sdk/inventory"
	"github.com/lodgevirt/lodge/sdk/plugin"
	hypervisorv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	storagev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const uri = "fake:///lab"

// driver is a hypervisor's driver: what it has is in a feed, which a new process fills anew.
type driver struct {
	mu      sync.Mutex
	feed    *inventory.Feed
	looks   int
	volumes []*storagev1.Volume
}

func (d *driver) now() *inventory.Feed {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.feed
}

func (d *driver) Open(context.Context, *pb.OpenRequest) (*pb.OpenResponse, error) {
	return &pb.OpenResponse{Connection: "lab", Uri: uri}, nil
}

func (d *driver) Follow(context.Context, string) (*inventory.Feed, func(), error) {
	return d.now(), func() {}, nil
}

func (d *driver) set(uuid string, change func(*pb.GuestObject)) uint64 {
	g := proto.CloneOf(d.now().Guest(uuid))
	change(g)
	d.now().Apply(&pb.Objects{Guests: []*pb.GuestObject{g}, Events: []*pb.GuestEvent{
		{Uuid: uuid, Name: g.GetName(), Id: g.GetId(), Event: told("", 0, "", eventStarted, 0).GetEvent()},
	}})
	return d.now().Seq()
}

func (d *driver) Describe(_ context.Context, req *pb.DescribeRequest) (*pb.DescribeResponse, error) {
	d.set(req.GetGuest().GetUuid(), func(g *pb.GuestObject) { g.Xml = definition(g.GetName()) })
	return &pb.DescribeResponse{}, nil
}

func (d *driver) Start(_ context.Context, req *pb.StartRequest) (*pb.StartResponse, error) {
	return &pb.StartResponse{Seq: d.set(req.GetGuest().GetUuid(), running)}, nil
}

func running(g *pb.GuestObject) { g.Id, g.State = 5, hypervisorv1.State_STATE_RUNNING }

func (d *driver) Define(context.Context, *pb.DefineRequest) (*pb.DefineResponse, error) {
	return nil, errors.New("not here")
}

func (d *driver) Undefine(context.Context, *pb.UndefineRequest) (*pb.UndefineResponse, error) {
	return nil, errors.New("not here")
}

func (d *driver) Stop(context.Context, *pb.StopRequest) (*pb.StopResponse, error) {
	return nil, errors.New("not here")
}

func (d *driver) SetAutostart(context.Context, *pb.SetAutostartRequest) (*pb.SetAutostartResponse, error) {
	return nil, errors.New("not here")
}

func (d *driver) Storage() storage.Driver { return shelf{d} }

// shelf is the driver of the pools; only looking at them is asked of it.
type shelf struct{ d *driver }

var errNotHere = errors.New("nobody asks for that")

func (shelf) Capabilities(context.Context) ([]*storagev1.PoolType, error) { return nil, errNotHere }
func (shelf) Validate(context.Context, *storagev1.ValidateRequest) (*storagev1.ValidateResponse, error) {
	return nil, errNotHere
}
func (shelf) Check(context.Context, *storagev1.Pool) (bool, error) { return false, errNotHere }
func (shelf) Start(context.Context, *storagev1.Pool) error         { return errNotHere }
func (shelf) Stop(context.Context, *storagev1.Pool) error          { return errNotHere }

func (s shelf) Refresh(_ context.Context, p *storagev1.Pool, found func(...*storagev1.Volume) error) (*storagev1.PoolSize, error) {
	s.d.mu.Lock()
	s.d.looks++
	volumes := s.d.volumes
	s.d.mu.Unlock()
	if p.GetConnection() != "lab" {
		return nil, verr.New(verr.Internal, "the pool's connection is %q", p.GetConnection())
	}
	return &storagev1.PoolSize{Capacity: 10}, found(volumes...)
}

// dying carries calls to a driver whose process ends before it answers that a guest has started.
type dying struct {
	grpc.ClientConnInterface
	d *driver
	// made: the hypervisor has started it.
	made bool
}

func (c dying) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	req, ok := args.(*pb.StartRequest)
	if !ok {
		return c.ClientConnInterface.Invoke(ctx, method, args, reply, opts...)
	}
	g := proto.CloneOf(c.d.now().Guest(req.GetGuest().GetUuid()))
	if c.made {
		running(g)
	}
	fresh := inventory.NewFeed() // the new process'
	fresh.Apply(&pb.Objects{Guests: []*pb.GuestObject{g}})
	fresh.Synced()
	c.d.mu.Lock()
	c.d.feed = fresh
	c.d.mu.Unlock()
	return status.Error(codes.Unavailable, "the process has ended")
}

func definition(name string) string {
	return "<domain type='vmware'>\n  <name>" + name + "</name>\n  <description>of " + name + "</description>\n</domain>\n"
}

// bench is a mirror of a driver.
type bench struct {
	*Mirror
	t      *testing.T
	driver *driver
	conn   grpc.ClientConnInterface
	sub    *event.Subscription
	stop   context.CancelFunc
	ended  chan struct{}
}

func start(t *testing.T, d *driver) *bench {
	t.Helper()
	conn := faketest.Client(t, plugin.Plugin{
		Name: "fake", Version: "1.0.0", Inventory: func(plugin.Core) (inventory.Driver, error) { return d, nil },
	})
	bus := event.NewBus(0)
	b := &bench{t: t, driver: d, conn: conn, sub: bus.Subscribe(), Mirror: New(Config{
		URI: uri, Connection: "lab", Plugin: conn, Events: bus, Log: hclog.NewNullLogger(),
	})}
	t.Cleanup(b.sub.Close)
	b.follow()
	t.Cleanup(b.unfollow)
	return b
}

// follow follows the driver's present feed.
func (b *bench) follow() {
	ctx, cancel := context.WithCancel(context.Background())
	b.stop, b.ended = cancel, make(chan struct{})
	go func() {
		defer close(b.ended)
		_ = b.Follow(ctx, b.conn)
	}()
}

func (b *bench) unfollow() {
	b.stop()
	<-b.ended
}

func (b *bench) ready() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 10*time.Second)
	defer cancel()
	if err := b.Ready(ctx); err != nil {
		b.t.Fatal(err)
	}
}

// until waits for something that is told by the stream.
func (b *bench) until(what string, is func(progress) bool) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 10*time.Second)
	defer cancel()
	if _, err := b.wait(ctx, is); err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
}

// events are the lifecycle events of guests that have come.
func (b *bench) events() (all []string) {
	names := map[int32]string{0: "defined", 1: "undefined", 2: "started", 3: "suspended", 4: "resumed", 5: "stopped", 8: "crashed"}
	for {
		select {
		case e := <-b.sub.C():
			if l := e.Domain.GetLifecycle(); l != nil {
				all = append(all, e.Name+" "+names[l.GetEvent()])
			}
			if e.Network != nil {
				all = append(all, "network "+e.Name+" "+map[int32]string{0: "defined", 1: "undefined", 2: "started", 3: "stopped"}[e.Network.Lifecycle])
			}
			if e.Pool != nil {
				all = append(all, "pool "+e.Name+" "+map[int32]string{0: "defined", 1: "undefined", 2: "started", 3: "stopped"}[e.Pool.Lifecycle])
			}
			if e.URI != uri {
				b.t.Errorf("an event of %q", e.URI)
			}
		default:
			return all
		}
	}
}

func object(name string, change func(*pb.GuestObject)) *pb.GuestObject {
	g := &pb.GuestObject{
		Uuid: id(name).String(), Name: name, Id: -1, State: hypervisorv1.State_STATE_SHUTOFF, OsType: "hvm", MaxMemoryKib: 4096, Vcpus: 1,
	}
	if change != nil {
		change(g)
	}
	return g
}

func id(name string) uuid.UUID { return uuid.NewSHA1(uuid.Nil, []byte(name)) }

func newDriver(guests ...*pb.GuestObject) *driver {
	d := &driver{feed: inventory.NewFeed()}
	d.feed.Apply(&pb.Objects{Guests: guests, Host: &hypervisorv1.ProbeResponse{Version: 6007000}})
	return d
}

func TestQuestionsAreAnsweredFromThePicture(t *testing.T) {
	d := newDriver(object("web", func(g *pb.GuestObject) {
		g.Id, g.State, g.Title, g.Xml = 3, hypervisorv1.State_STATE_RUNNING, "the web", definition("web")
	}), object("db", nil))
	d.feed.Synced()
	b := start(t, d)
	b.ready()
	b.unfollow() // nothing is asked of the driver from here on
	if n := b.Count(domain.ListActive); n != 1 {
		t.Errorf("%d domains are active, want 1", n)
	}
	if views := b.List(domain.ListInactive); len(views) != 1 || views[0].Name != "db" || views[0].MaxMemoryKiB != 4096 {
		t.Errorf("inactive are %v", views)
	}
	web, err := b.ByID(3)
	if err != nil {
		t.Fatal(err)
	}
	live, err := web.XML(0)
	if err != nil || !strings.HasPrefix(live, "<domain type='vmware' id='3'>\n  <name>web") {
		t.Errorf("%s, %v", live, err)
	}
	if still, err := web.XML(xmlInactive); err != nil || still != definition("web") {
		t.Errorf("%s, %v", still, err)
	}
	for kind, want := range map[int32]string{0: "of web", 1: "the web"} {
		if text, err := web.Metadata(kind, "", 0); err != nil || text != want {
			t.Errorf("metadata %d is %q, %v", kind, text, err)
		}
	}
	if _, err := b.ByName("nobody"); !verr.Is(err, verr.NoDomain) {
		t.Errorf("nobody: %v", err)
	}
	if h, err := b.Host(t.Context()); err != nil || h.GetVersion() != 6007000 {
		t.Errorf("the host is %v, %v", h, err)
	}
	if all := b.events(); len(all) > 0 {
		t.Errorf("a first picture is no event: %q", all)
	}
}

func TestADefinitionThatIsNotThereIsRead(t *testing.T) {
	d := newDriver(object("web", nil))
	d.feed.Synced()
	b := start(t, d)
	b.ready()
	web, err := b.ByUUID(id("web"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := web.XML(0); !errors.Is(err, connection.ErrUnread) {
		t.Fatalf("%v, want that it is not read", err)
	}
	if err := web.(connection.Reader).Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	if xml, err := web.XML(0); err != nil || xml != definition("web") {
		t.Errorf("%s, %v", xml, err)
	}
}

func TestAClientSeesWhatItHasDone(t *testing.T) {
	d := newDriver(object("web", nil))
	d.feed.Synced()
	b := start(t, d)
	b.ready()
	web, err := b.ByUUID(id("web"))
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		d.set(id("web").String(), func(g *pb.GuestObject) { g.Id, g.State = -1, hypervisorv1.State_STATE_SHUTOFF })
		if err := web.Start(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		if v := web.View(); !v.Active() || v.State != domain.Running {
			t.Fatalf("after the start it is %v", v)
		}
	}
}

func TestADriverThatDiesInTheMiddleOfAChange(t *testing.T) {
	for name, made := range map[string]bool{"after it was made": true, "before it was made": false} {
		t.Run(name, func(t *testing.T) {
			d := newDriver(object("web", nil))
			d.feed.Synced()
			b := start(t, d)
			b.ready()
			b.cfg.Plugin = dying{b.conn, d, made}
			web, err := b.ByUUID(id("web"))
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			old := d.now()
			go func() { done <- web.Start(t.Context(), 0) }()
			for d.now() == old {
				time.Sleep(time.Millisecond)
			}
			b.unfollow()
			b.follow()
			if err := <-done; (err == nil) != made {
				t.Errorf("the start: %v", err)
			}
			if web.View().Active() != made {
				t.Errorf("it is active: %v", web.View().Active())
			}
		})
	}
}

func TestWhatHasChangedMeanwhileIsTold(t *testing.T) {
	d := newDriver(object("stays", nil), object("starts", nil), object("stops", running), object("goes", running), object("pauses", running))
	d.feed.Apply(&pb.Objects{Networks: []*pb.NetworkObject{{Uuid: id("net").String(), Name: "net", Active: true}}})
	d.feed.Synced()
	b := start(t, d)
	b.ready()
	b.unfollow()
	d.feed = inventory.NewFeed()
	d.feed.Apply(&pb.Objects{Guests: []*pb.GuestObject{
		object("stays", nil), object("starts", running), object("stops", nil), object("comes", running),
		object("pauses", func(g *pb.GuestObject) { g.Id, g.State = 5, hypervisorv1.State_STATE_PAUSED }),
	}})
	d.feed.Synced()
	before := b.now().stream
	b.follow()
	b.until("a second picture", func(p progress) bool { return p.stream > before })
	got := map[string]bool{}
	all := b.events()
	for _, e := range all {
		got[e] = true
	}
	want := []string{
		"starts started", "stops stopped", "goes stopped", "goes undefined", "comes defined", "comes started", "pauses suspended",
		"network net stopped", "network net undefined",
	}
	for _, e := range want {
		if !got[e] {
			t.Errorf("no event %q", e)
		}
	}
	if len(all) != len(want) {
		t.Errorf("events are %q", all)
	}
	if _, err := b.ByName("goes"); !verr.Is(err, verr.NoDomain) {
		t.Errorf("what has gone: %v", err)
	}
}

func TestAHypervisorOutOfReach(t *testing.T) {
	d := newDriver()
	d.feed.Stale(time.Now(), verr.New(verr.AuthFailed, "the password is wrong").In(verr.FromESX))
	b := start(t, d)
	if err := b.Ready(t.Context()); !verr.Is(err, verr.AuthFailed) || !strings.Contains(err.Error(), "the password is wrong") {
		t.Fatalf("%v, want why", err)
	}
	d.feed.Apply(&pb.Objects{Guests: []*pb.GuestObject{object("web", nil)}})
	d.feed.Synced()
	b.until("a picture", func(p progress) bool { return p.synced })
	d.feed.Stale(time.Now(), errors.New("gone"))
	b.until("the loss", func(p progress) bool { return p.cause != nil })
	if err := b.Ready(t.Context()); err != nil {
		t.Errorf("a picture that was true once is shown: %v", err)
	}
	if _, err := b.ByName("web"); err != nil {
		t.Errorf("the last picture is gone: %v", err)
	}
}

func TestPoolsAreLookedAtWhenSomebodyAsksAndSomethingMayHaveChanged(t *testing.T) {
	d := newDriver()
	d.volumes = []*storagev1.Volume{{Name: "a", Key: "a", Type: storagev1.VolumeType_VOLUME_TYPE_FILE}}
	pool := &pb.PoolObject{
		Uuid: id("pool").String(), Name: "ds", Type: "vmfs", Condition: 2, Capacity: 10, Revision: "1",
		Xml: "<pool type='vmfs'>\n  <name>ds</name>\n  <uuid>" + id("pool").String() + "</uuid>\n</pool>\n",
	}
	d.feed.Apply(&pb.Objects{Pools: []*pb.PoolObject{pool}})
	d.feed.Synced()
	b := start(t, d)
	b.ready()
	p, err := b.Pools().ByName("ds")
	if err != nil {
		t.Fatal(err)
	}
	if capacity, _, _, err := p.Size(t.Context()); err != nil || capacity != 10 || d.looks != 0 {
		t.Errorf("capacity %d, %v, %d looks", capacity, err, d.looks)
	}
	for range 3 {
		if n, err := p.Count(t.Context()); err != nil || n != 1 || d.looks != 1 {
			t.Errorf("%d volumes, %v, after %d looks", n, err, d.looks)
		}
	}
	again := proto.CloneOf(pool)
	again.Revision = "2"
	d.feed.Apply(&pb.Objects{Pools: []*pb.PoolObject{again}})
	seq := d.feed.Seq()
	b.until("the new revision", func(p progress) bool { return p.seq >= seq })
	if n, err := p.Count(t.Context()); err != nil || n != 1 || d.looks != 2 {
		t.Errorf("%d volumes, %v, after %d looks", n, err, d.looks)
	}
	for what, err := range map[string]error{
		"stop": p.Stop(t.Context()), "undefine": p.Undefine(t.Context()), "autostart": p.SetAutostart(t.Context(), false),
	} {
		if !verr.Is(err, verr.NoSupport) {
			t.Errorf("%s: %v", what, err)
		}
	}
	d.feed.Apply(&pb.Objects{GonePools: []string{pool.Uuid}})
	seq = d.feed.Seq()
	b.until("the pool's end", func(p progress) bool { return p.seq >= seq })
	if _, err := b.Pools().ByName("ds"); !verr.Is(err, verr.NoStoragePool) {
		t.Errorf("a pool that has gone: %v", err)
	}
	if all := b.events(); strings.Join(all, ", ") != "pool ds stopped, pool ds undefined" {
		t.Errorf("events are %q", all)
	}
}

func TestWhatADriverGetsWrongHarmsNobodyElse(t *testing.T) {
	d := newDriver(object("good", nil), &pb.GuestObject{Uuid: "no uuid", Name: "x"}, object("a/b", nil), object("", nil))
	d.feed.Apply(&pb.Objects{
		Networks: []*pb.NetworkObject{{Uuid: "?", Name: "n"}, {Uuid: id("n").String()}},
		Pools:    []*pb.PoolObject{{Uuid: "?", Name: "p"}, {Uuid: id("p").String()}},
	})
	d.feed.Synced()
	b := start(t, d)
	b.ready()
	if n := b.Count(0); n != 1 {
		t.Errorf("%d domains, want the good one", n)
	}
	if n, p := len(b.Networks().All()), len(b.Pools().All()); n != 0 || p != 0 {
		t.Errorf("%d networks and %d pools, want none", n, p)
	}
}
