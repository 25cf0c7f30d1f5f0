package conformance

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/sdk/faketest"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// patience is the longest that any call of the contract may take.
const patience = 2 * time.Minute

// bench is one check's workplace: a plugin in folders of its own.
type bench struct {
	*testing.T
	factory  Factory
	settings plugin.Settings
	host     *faketest.Host
	driver   pb.DriverServiceClient
	ids      int32
	guests   []*guest // to be stopped at the end
}

func newBench(t *testing.T, f Factory) *bench {
	t.Helper()
	b := &bench{T: t, factory: f, settings: folders(t)}
	b.plug(t)
	return b
}

// plug starts the plugin in the bench's folders; it ends with t. At the end of the check it stops all guests first.
func (b *bench) plug(t *testing.T) {
	t.Helper()
	b.host = faketest.Start(t, b.factory.Plugin())
	b.host.Settings = b.settings
	b.host.Configure(t, b.factory.Config)
	b.driver = pb.NewDriverServiceClient(b.host.Conn)
	if _, err := b.driver.Probe(b.ctx(), &pb.ProbeRequest{Connection: b.factory.Connection}); err != nil {
		t.Fatalf("probe: %v", err)
	}
	if t == b.T {
		t.Cleanup(b.sweep)
	}
}

// folders are a plugin's folders with paths that leave room for sockets.
func folders(t *testing.T) plugin.Settings {
	t.Helper()
	base, err := os.MkdirTemp("", "lodge")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	s := plugin.Settings{
		RuntimeDir: filepath.Join(base, "run"), StateDir: filepath.Join(base, "state"), LogDir: filepath.Join(base, "log"),
	}
	for _, dir := range []string{s.RuntimeDir, s.StateDir, s.LogDir} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// ctx is a context for one call.
func (b *bench) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	b.Cleanup(cancel)
	return ctx
}

// guest is a guest of the suite's.
type guest struct {
	*pb.Guest
	xml    string
	id     int32
	handle *pb.Handle
	// live is the live definition as the core knows it.
	live string
}

// newGuest defines a guest; whatever becomes of it, it is stopped at the end.
func (b *bench) newGuest(name string) *guest {
	b.Helper()
	b.ids++
	g := &guest{
		Guest: &pb.Guest{Connection: b.factory.Connection, Uuid: uuid.NewString(), Name: name, Generation: 1},
		id:    b.ids,
	}
	rsp, err := b.driver.Validate(b.ctx(), &pb.ValidateRequest{
		Connection: b.factory.Connection, Xml: b.factory.Definition(name, g.Uuid),
	})
	if err != nil {
		b.Fatalf("validate definition of guest %q: %v", name, err)
	}
	g.xml = rsp.GetXml()
	b.guests = append(b.guests, g)
	return g
}

// sweep stops all guests of the check, whatever became of them.
func (b *bench) sweep() {
	for _, g := range b.guests {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if _, err := b.driver.Stop(ctx, &pb.StopRequest{Guest: g.Guest, Handle: g.handle}); err != nil {
			b.Errorf("stop guest %q after the check: %v", g.Name, err)
		}
		cancel()
	}
	b.guests = nil
}

// try starts a guest.
func (b *bench) try(g *guest, leases ...*pb.Lease) (*pb.StartResponse, error) {
	return b.driver.Start(b.ctx(), b.startRequest(g, leases...))
}

func (b *bench) startRequest(g *guest, leases ...*pb.Lease) *pb.StartRequest {
	return &pb.StartRequest{
		Guest: g.Guest, Xml: g.xml, Id: g.id, Resolved: &pb.Resolved{Leases: leases}, RequestId: uuid.NewString(),
	}
}

// start starts a guest, which must succeed.
func (b *bench) start(g *guest, leases ...*pb.Lease) *pb.StartResponse {
	b.Helper()
	rsp, err := b.try(g, leases...)
	if err != nil {
		b.Fatalf("start guest %q: %v", g.Name, err)
	}
	g.handle, g.live = rsp.GetHandle(), rsp.GetLiveXml()
	return rsp
}

// started is a new guest that runs.
func (b *bench) started(name string) *guest {
	b.Helper()
	g := b.newGuest(name)
	b.start(g)
	return g
}

// stop stops a guest, which must succeed.
func (b *bench) stop(g *guest) *pb.Change {
	b.Helper()
	rsp, err := b.driver.Stop(b.ctx(), &pb.StopRequest{Guest: g.Guest, Handle: g.handle})
	if err != nil {
		b.Fatalf("stop guest %q: %v", g.Name, err)
	}
	return rsp.GetChange()
}

// inspect returns a guest's state.
func (b *bench) inspect(g *guest) pb.State {
	b.Helper()
	rsp, err := b.driver.Inspect(b.ctx(), &pb.InspectRequest{Guest: g.Guest, Handle: g.handle})
	if err != nil {
		b.Fatalf("inspect guest %q: %v", g.Name, err)
	}
	return rsp.GetState()
}

// recover asks what became of a guest.
func (b *bench) recover(g *guest, handle *pb.Handle) *pb.RecoverResponse {
	b.Helper()
	rsp, err := b.driver.Recover(b.ctx(), &pb.RecoverRequest{Guest: g.Guest, Handle: handle, Xml: g.xml, Id: g.id})
	if err != nil {
		b.Fatalf("recover guest %q: %v", g.Name, err)
	}
	return rsp
}

// has reports whether the driver has declared a service, by its short name.
func (b *bench) has(service string) bool {
	for _, s := range b.host.Description.GetServices() {
		if strings.HasSuffix(s.GetName(), "."+service) {
			return true
		}
	}
	return false
}

// need skips the check for drivers without a service.
func (b *bench) need(service string) {
	b.Helper()
	if !b.has(service) {
		b.Skipf("the driver has no %s", service)
	}
}

// wantCode fails unless an error has one of libvirt's codes.
func (b *bench) wantCode(what string, err error, codes ...verr.Code) {
	b.Helper()
	if err == nil || !slices.Contains(codes, verr.From(err).Code) {
		b.Errorf("%s: got %v, want an error of code %v", what, err, codes)
	}
}

// wantState fails unless a guest is in a state.
func (b *bench) wantState(g *guest, want pb.State) {
	b.Helper()
	if got := b.inspect(g); got != want {
		b.Errorf("guest %q is %v, want %v", g.Name, got, want)
	}
}

// tells reports whether a change has a lifecycle event.
func tells(c *pb.Change, event int32) bool {
	return slices.ContainsFunc(c.GetEvents(), func(e *pb.Event) bool {
		return e.GetLifecycle() != nil && e.GetLifecycle().GetEvent() == event
	})
}

// virDomainEventType of libvirt's public header.
const (
	eventStarted   = 2
	eventSuspended = 3
	eventResumed   = 4
	eventStopped   = 5
)
