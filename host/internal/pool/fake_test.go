package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/host/internal/event"
	"github.com/lodgevirt/lodge/host/internal/pool/pooltest"
	"github.com/lodgevirt/lodge/sdk/faketest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

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

func (drawer) OfVolume(string) string { return "" }

// bench is an inventory with a driver.
type bench struct {
	*Inventory
	*testing.T
	shelf *pooltest.Shelf
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
		shelf: pooltest.New(),
	}
	b.conn = faketest.Client(t, b.shelf.Plugin())
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
		if errors.Is(err, io.EOF) {
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
