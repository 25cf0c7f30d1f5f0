package driver_test

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/plugins/esx/internal/driver"
	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
	"github.com/lodgevirt/lodge/sdk/faketest"
	"github.com/lodgevirt/lodge/sdk/plugin"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	hv "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// roleKey is the variable that makes the test's program the plugin.
const roleKey = "ESX_TEST_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(roleKey) == "plugin" {
		plugin.Serve(driver.Plugin("0.0.1"))
	}
	goleak.VerifyTestMain(m)
}

// process is the plugin's.
func process() *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleKey+"=plugin")
	return cmd
}

// slack is the longest that a test waits for something to happen.
const slack = 30 * time.Second

// secretID is the secret that has the simulators' password.
const secretID = "3c1c0b5e-97d3-4c39-8d3b-2f6a7c3f7a10"

// rig is the driver's plugin within a core, with simulated endpoints by the names of their tables.
type rig struct {
	t    testing.TB
	host *faketest.Host
	conn *grpc.ClientConn
}

// table is the configuration of an endpoint.
func table(s *vimtest.Server, product string) map[string]any {
	return map[string]any{
		"address": s.Address(), "user": vimtest.User, "secret": secretID, "thumbprint": s.SHA256(), "product": product,
	}
}

func start(t *testing.T, endpoints map[string]any) *rig {
	t.Helper()
	r := &rig{t: t, host: faketest.StartWith(t, driver.Plugin("0.0.1"), config(t, endpoints, ""))}
	r.host.SetSecret(secretID, []byte(vimtest.Password))
	r.conn = r.host.Conn
	return r
}

func config(t testing.TB, endpoints map[string]any, authFile string) []byte {
	t.Helper()
	text, err := json.Marshal(map[string]any{"endpoints": endpoints, "auth_file": authFile})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// lab starts a driver with one simulated endpoint, "lab", and follows all of it.
func lab(t *testing.T, o vimtest.Options) (*rig, *vimtest.Server, *picture) {
	t.Helper()
	s := vimtest.Start(t, o)
	product := "esx"
	if o.VPX {
		product = "vpx"
	}
	r := start(t, map[string]any{"lab": table(s, product)})
	uri := "esx:///lab"
	if o.VPX {
		uri = "vpx:///lab/DC0/DC0_H0"
	}
	p := r.follow(uri)
	p.synced()
	return r, s, p
}

// ctx ends after slack.
func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), slack)
	r.t.Cleanup(cancel)
	return ctx
}

func (r *rig) open(uri string) (*pb.OpenResponse, error) {
	res, err := pb.NewInventoryServiceClient(r.conn).Open(r.ctx(), &pb.OpenRequest{Uri: uri})
	return res, err
}

// picture is what a follower sees.
type picture struct {
	t          testing.TB
	connection string
	messages   chan *pb.FollowResponse
	seq        uint64
	host       *hv.ProbeResponse
	guests     map[string]*pb.GuestObject
	events     []string
	isSynced   bool
	stale      *pb.Stale
}

func (r *rig) follow(uri string) *picture {
	r.t.Helper()
	opened, err := r.open(uri)
	if err != nil {
		r.t.Fatalf("open %s: %v", uri, err)
	}
	return r.followName(opened.GetConnection())
}

func (r *rig) followName(connection string) *picture {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := pb.NewInventoryServiceClient(r.conn).Follow(ctx, &pb.FollowRequest{Connection: connection})
	if err != nil {
		r.t.Fatalf("follow %s: %v", connection, err)
	}
	p := &picture{t: r.t, connection: connection, messages: make(chan *pb.FollowResponse, 10000), guests: map[string]*pb.GuestObject{}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(p.messages)
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			p.messages <- m
		}
	}()
	r.t.Cleanup(func() {
		cancel()
		<-ended
	})
	return p
}

// take takes in a message.
func (p *picture) take(m *pb.FollowResponse) {
	p.seq = m.GetSeq()
	if m.GetSynced() != nil {
		p.isSynced, p.stale = true, nil
	}
	if m.GetStale() != nil {
		p.stale = m.GetStale()
	}
	o := m.GetObjects()
	if o.GetHost() != nil {
		p.host = o.GetHost()
	}
	for _, g := range o.GetGuests() {
		p.guests[g.GetUuid()] = g
	}
	for _, id := range o.GetGoneGuests() {
		delete(p.guests, id)
	}
	for _, e := range o.GetEvents() {
		if l := e.GetEvent().GetLifecycle(); l != nil {
			p.events = append(p.events, strings.Join([]string{e.GetName(), eventNames[l.GetEvent()]}, " "))
		}
	}
}

// eventNames are virDomainEventType.
var eventNames = []string{"defined", "undefined", "started", "suspended", "resumed", "stopped", "shutdown", "pmsuspended", "crashed"}

// until takes messages until something holds.
func (p *picture) until(what string, holds func() bool) {
	p.t.Helper()
	limit := time.After(slack)
	for !holds() {
		select {
		case m, ok := <-p.messages:
			if !ok {
				p.t.Fatalf("the stream ended before %s", what)
			}
			p.take(m)
		case <-limit:
			p.t.Fatalf("%s is not told; guests %v, stale %v", what, slices.Sorted(maps.Keys(p.names())), p.stale)
		}
	}
}

// synced waits until all is told.
func (p *picture) synced() {
	p.t.Helper()
	p.until("synced", func() bool { return p.isSynced && p.stale == nil })
}

// at takes messages up to the one that an answer names, and no more: what the answer promises must be there.
func (p *picture) at(seq uint64) {
	p.t.Helper()
	p.until("the message of the answer", func() bool { return p.seq >= seq })
}

func (p *picture) names() map[string]*pb.GuestObject {
	names := map[string]*pb.GuestObject{}
	for _, g := range p.guests {
		names[g.GetName()] = g
	}
	return names
}

// guest finds a guest by its name.
func (p *picture) guest(name string) *pb.GuestObject {
	p.t.Helper()
	g := p.names()[name]
	if g == nil {
		p.t.Fatalf("guest %q is not among %v", name, slices.Sorted(maps.Keys(p.names())))
	}
	return g
}

// ref names a guest in a call.
func (p *picture) ref(name string) *hv.Guest {
	p.t.Helper()
	return &hv.Guest{Connection: p.connection, Uuid: p.guest(name).GetUuid(), Name: name}
}

// refused fails unless an error has a code and names things.
func refused(t *testing.T, err error, code verr.Code, names ...string) {
	t.Helper()
	e := verr.From(err)
	if e == nil || e.Code != code {
		t.Fatalf("error is %v, want code %d", err, code)
	}
	for _, name := range names {
		if !strings.Contains(e.Message, name) {
			t.Errorf("error %q does not name %q", e.Message, name)
		}
	}
}

// write makes a file of the test's.
func write(t *testing.T, mode os.FileMode, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func both(t *testing.T, test func(t *testing.T, o vimtest.Options)) {
	for name, vpx := range map[string]bool{"ESX": false, "VPX": true} {
		t.Run(name, func(t *testing.T) { test(t, vimtest.Options{VPX: vpx}) })
	}
}

func TestTheWholePictureIsTold(t *testing.T) {
	both(t, func(t *testing.T, o vimtest.Options) {
		_, s, p := lab(t, o)
		for _, name := range s.Machines() {
			if o.VPX && !strings.HasPrefix(name, "DC0_H0") {
				continue // on the cluster's hosts
			}
			p.until("the definition of "+name, func() bool { return p.guest(name).GetXml() != "" })
			g := p.guest(name)
			if g.GetState() != hv.State_STATE_RUNNING || g.GetId() <= 0 || g.GetUuid() != s.UUID(name) || g.GetOsType() != "hvm" ||
				g.GetMaxMemoryKib() == 0 || g.GetMemoryKib() != g.GetMaxMemoryKib() || g.GetVcpus() == 0 || g.GetScheduler() != "allocation" ||
				len(g.GetSchedulerParameters()) != 3 {
				t.Errorf("guest is %v", g)
			}
			for _, part := range []string{
				"<domain type='vmware'", "<name>" + name + "</name>", "<uuid>" + g.GetUuid() + "</uuid>", "<disk type='file' device='disk'>",
				"<interface type='",
			} {
				if !strings.Contains(g.GetXml(), part) {
					t.Errorf("definition has no %s:\n%s", part, g.GetXml())
				}
			}
			if strings.Contains(g.GetXml(), "<vmware:datacenterpath>DC0</vmware:datacenterpath>") != o.VPX {
				t.Errorf("definition has the wrong datacenter:\n%s", g.GetXml())
			}
		}
		if n := len(p.guests); n != 2 {
			t.Errorf("%d guests are told", n)
		}
		if h := p.host; h.GetType() != "ESX" || h.GetVersion() == 0 || h.GetMaxVcpus()[""] != vimtest.MaxVCPUs ||
			!strings.Contains(h.GetCapabilitiesXml(), "<domain type='vmware'/>") || h.GetNode().GetMemoryKib() == 0 ||
			h.GetNode().GetHostname() == "" || len(h.GetNode().GetCellFreeKib()) != int(h.GetNode().GetNodes()) {
			t.Errorf("host is %v", h)
		}
	})
}

// shortly is a context that ends soon.
func shortly(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// configureClient sends a configuration and returns the plugin's answer.
func configureClient(r *rig, config []byte) (*basev1.ConfigureResponse, error) {
	s := r.host.Settings
	return basev1.NewPluginServiceClient(r.conn).Configure(r.ctx(), &basev1.ConfigureRequest{
		ConfigJson: config, RuntimeDir: s.RuntimeDir, StateDir: s.StateDir, LogDir: s.LogDir,
	})
}
