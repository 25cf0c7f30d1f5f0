package pool

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/host/internal/event"
	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/faketest"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// shelf is a storage driver in memory. What is stored outlives it.
type shelf struct {
	mu     sync.Mutex
	pools  map[string]map[string][]byte // by name of the pool: the volumes' bytes
	active map[string]bool
	// refuse makes calls fail, by their names; hold makes refreshes wait until it is closed.
	refuse map[string]error
	hold   chan struct{}
	// secrets are the values that the last call brought.
	secrets []*pb.Secret
}

func (s *shelf) fail(call string, p *pb.Pool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets = p.GetSecrets()
	return s.refuse[call]
}

func (s *shelf) Capabilities(context.Context) ([]*pb.PoolType, error) {
	return []*pb.PoolType{{Name: "shelf", Supported: true}}, nil
}

func (s *shelf) Validate(_ context.Context, req *pb.ValidateRequest) (*pb.ValidateResponse, error) {
	name, err := domxml.RootChild(req.Xml, "pool", "name")
	if err != nil {
		return nil, err
	}
	id, err := domxml.RootChild(req.Xml, "pool", "uuid")
	if err != nil {
		return nil, err
	}
	if id == "" {
		id = uuid.NewSHA1(uuid.Nil, []byte(name)).String()
	}
	path, err := domxml.RootChild(req.Xml, "pool", "path")
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf("<pool type='shelf'>\n  <name>%s</name>\n  <uuid>%s</uuid>\n  <path>%s</path>\n</pool>\n", name, id, path)
	rsp := &pb.ValidateResponse{Xml: text, Uuid: id, Name: name, Type: "shelf", TargetPath: path, Exclusive: []string{path}}
	if strings.HasSuffix(path, "/secret") {
		rsp.Secrets = []*pb.SecretRef{{Usage: "shelf"}}
	}
	return rsp, nil
}

func (s *shelf) Check(_ context.Context, p *pb.Pool) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active[p.Name], nil
}

func (s *shelf) Start(_ context.Context, p *pb.Pool) error {
	if err := s.fail("start", p); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active[p.Name] = true
	if s.pools[p.Name] == nil {
		s.pools[p.Name] = map[string][]byte{}
	}
	return nil
}

func (s *shelf) Stop(_ context.Context, p *pb.Pool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.active, p.Name)
	return nil
}

func (s *shelf) volume(p *pb.Pool, name string) *pb.Volume {
	data := s.pools[p.Name][name]
	path := filepath.Join("/shelf", p.Name, name)
	return &pb.Volume{
		Name: name, Key: path, Path: path, Type: pb.VolumeType_VOLUME_TYPE_FILE, Capacity: uint64(len(data)), Allocation: uint64(len(data)),
		Format: "raw",
	}
}

func (s *shelf) Refresh(ctx context.Context, p *pb.Pool, found func(...*pb.Volume) error) (*pb.PoolSize, error) {
	if err := s.fail("refresh", p); err != nil {
		return nil, err
	}
	s.mu.Lock()
	var all []*pb.Volume
	used := uint64(0)
	for name, data := range s.pools[p.Name] {
		all = append(all, s.volume(p, name))
		used += uint64(len(data))
	}
	hold := s.hold
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return &pb.PoolSize{Capacity: 1000, Allocation: used, Available: 1000 - used}, found(all...)
}

func (s *shelf) Create(_ context.Context, req *pb.CreateRequest, progress storage.Progress) (*pb.Volume, error) {
	if err := s.fail("create", req.Pool); err != nil {
		return nil, err
	}
	name, err := domxml.RootChild(req.Xml, "volume", "name")
	if err != nil {
		return nil, err
	}
	progress(1, 2)
	s.mu.Lock()
	defer s.mu.Unlock()
	data := make([]byte, 10)
	if req.From != nil {
		data = slices.Clone(s.pools[req.FromPool.Name][req.From.Name])
	}
	s.pools[req.Pool.Name][name] = data
	if err := s.refuse["created"]; err != nil {
		return nil, err
	}
	return s.volume(req.Pool, name), nil
}

func (s *shelf) Remove(_ context.Context, req *pb.RemoveRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pools[req.Pool.Name], req.Volume.Name)
	return s.refuse["removed"]
}

func (s *shelf) Look(_ context.Context, p *pb.Pool, name string) (*pb.Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.pools[p.Name][name]; !ok {
		return nil, verr.New(verr.NoStorageVol, "no volume '%s'", name)
	}
	return s.volume(p, name), nil
}

func (s *shelf) Resize(_ context.Context, req *pb.ResizeRequest) (*pb.Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pools[req.Pool.Name][req.Volume.Name] = make([]byte, req.Capacity)
	return s.volume(req.Pool, req.Volume.Name), nil
}

func (s *shelf) Download(_ context.Context, req *pb.DownloadRequest) (storage.Source, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data := s.pools[req.Pool.Name][req.Volume.Name]
	return &reading{bytes.NewReader(slices.Clone(data))}, nil
}

type reading struct{ *bytes.Reader }

func (r *reading) Next(context.Context) ([]byte, uint64, error) {
	b := make([]byte, 4)
	n, err := r.Read(b)
	return b[:n], 0, err
}

func (r *reading) Close() error { return nil }

func (s *shelf) Upload(_ context.Context, begin *pb.UploadBegin) (storage.Sink, error) {
	return &writing{shelf: s, begin: begin}, nil
}

type writing struct {
	shelf *shelf
	begin *pb.UploadBegin
	data  []byte
}

func (w *writing) Write(_ context.Context, data []byte) error {
	if len(w.data)+len(data) > 100 {
		return verr.New(verr.OperationFailed, "the shelf is full")
	}
	w.data = append(w.data, data...)
	return nil
}

func (w *writing) Hole(_ context.Context, n uint64) error {
	w.data = append(w.data, make([]byte, n)...)
	return nil
}

func (w *writing) Finish(context.Context) error {
	w.shelf.mu.Lock()
	defer w.shelf.mu.Unlock()
	w.shelf.pools[w.begin.Pool.Name][w.begin.Volume.Name] = w.data
	return nil
}

func (w *writing) Abort() {}

// drawer has one secret.
type drawer struct{}

func (drawer) Values(_ context.Context, refs []catalog.SecretRef) ([]*pb.Secret, error) {
	var out []*pb.Secret
	for _, r := range refs {
		if r.Usage != "shelf" {
			return nil, verr.New(verr.NoSecret, "no secret for %v", r)
		}
		out = append(out, &pb.Secret{Usage: r.Usage, Value: []byte("open sesame")})
	}
	return out, nil
}

// bench is an inventory with a driver.
type bench struct {
	*Inventory
	*testing.T
	shelf *shelf
	conn  grpc.ClientConnInterface
	cat   *catalog.Catalog
	bus   *event.Bus
	sub   *event.Subscription
	path  string
	boot  string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{
		T: t, path: filepath.Join(t.TempDir(), "catalog.db"), bus: event.NewBus(0), boot: "first",
		shelf: &shelf{pools: map[string]map[string][]byte{}, active: map[string]bool{}, refuse: map[string]error{}},
	}
	b.conn = faketest.Client(t, plugin.Plugin{
		Name: "shelf", Version: "1.0.0", Storage: func(plugin.Core) (storage.Driver, error) { return b.shelf, nil },
	})
	b.sub = b.bus.Subscribe()
	t.Cleanup(b.sub.Close)
	b.up()
	t.Cleanup(func() { _ = b.cat.Close() })
	return b
}

// up is a start of the core.
func (b *bench) up() {
	b.Helper()
	var err error
	if b.cat, err = catalog.Open(b.path); err != nil {
		b.Fatal(err)
	}
	b.Inventory, err = New(Config{
		Catalog: b.cat, Events: b.bus, Secrets: drawer{}, Boot: b.boot, Log: hclog.NewNullLogger(),
		Backends: map[string]grpc.ClientConnInterface{"shelf": b.conn},
	})
	if err != nil {
		b.Fatal(err)
	}
}

// restart is a SIGKILL of the core and its return.
func (b *bench) restart() {
	b.Helper()
	if err := b.cat.Close(); err != nil {
		b.Fatal(err)
	}
	b.up()
}

func poolXML(name, path string) string {
	return fmt.Sprintf("<pool type='shelf'><name>%s</name><path>%s</path></pool>", name, path)
}

func volXML(name string) string { return "<volume><name>" + name + "</name></volume>" }

// running defines and starts a pool.
func (b *bench) running(name string) *Pool {
	b.Helper()
	p, err := b.Define(b.Context(), poolXML(name, "/"+name))
	if err == nil {
		err = p.Start(b.Context(), 0)
	}
	if err != nil {
		b.Fatal(err)
	}
	return p
}

// volume makes a volume.
func (b *bench) volume(p *Pool, name string) Volume {
	b.Helper()
	v, err := p.CreateVolume(b.Context(), volXML(name), 0, nil)
	if err != nil {
		b.Fatal(err)
	}
	return v
}

func (b *bench) names(p *Pool) string {
	b.Helper()
	all, err := p.Volumes(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	var names []string
	for _, v := range all {
		names = append(names, v.Name)
	}
	return strings.Join(names, " ")
}

// told reads n events of pools.
func (b *bench) told(n int) string {
	b.Helper()
	var got []string
	for len(got) < n {
		select {
		case e := <-b.sub.C():
			what := fmt.Sprint(e.Pool.Lifecycle)
			if e.Pool.Refreshed {
				what = "refreshed"
			}
			got = append(got, e.Name+" "+what)
		case <-time.After(10 * time.Second):
			b.Fatalf("only %v of %d events", got, n)
		}
	}
	return strings.Join(got, ", ")
}

// read reads a whole volume.
func (b *bench) read(v Volume) []byte {
	b.Helper()
	d, err := v.Download(b.Context(), 0, 0, false)
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	var all []byte
	for {
		data, _, err := d.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, data...)
	}
}

// isLooking reports whether a look is under way.
func (m *mirror) isLooking() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.during != nil
}
