package connection

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/host/internal/event"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func connect(t *testing.T, scheme, path string) *Connection {
	t.Helper()
	cat, err := catalog.Open(filepath.Join(t.TempDir(), "catalog.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cat.Close() })
	inv, err := domain.New(domain.Config{
		URI: scheme + ":///" + path, Catalog: cat, Events: event.NewBus(0), Log: hclog.NewNullLogger(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return New(Config{Scheme: scheme, Path: path, Type: strings.ToUpper(scheme), Domains: Kept(inv)})
}

func TestOpen(t *testing.T) {
	r := NewRouter()
	if _, err := r.Open(t.Context(), ""); !verr.Is(err, verr.NoConnect) {
		t.Fatalf("open on a host without drivers: %v", err)
	}
	qemu, test := connect(t, "qemu", "system"), connect(t, "test", "default")
	r.Add(qemu, "session")
	r.Add(test)
	tests := map[string]struct {
		uri  string
		want *Connection
		code verr.Code
	}{
		"no URI is the first driver":           {"", qemu, 0},
		"a canonical URI":                      {"test:///default", test, 0},
		"a further path of the connection":     {"qemu:///session", qemu, 0},
		"a transport that the client left in":  {"qemu+unix:///system", qemu, 0},
		"parameters that the client left in":   {"qemu:///system?foo=bar", qemu, 0},
		"a scheme that nobody serves":          {"xen:///system", nil, verr.NoConnect},
		"a path that the driver does not have": {"qemu:///nothing", nil, verr.Internal},
		"a host that is not this one":          {"qemu://elsewhere/system", nil, verr.Internal},
		"a URI that cannot be parsed":          {"qemu://[::1/system", nil, verr.InvalidArg},
		"a URI that is too long":               {"qemu:///" + strings.Repeat("x", maxURI), nil, verr.InvalidArg},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := r.Open(t.Context(), tt.uri)
			if got != tt.want || tt.code != 0 && !verr.Is(err, tt.code) {
				t.Fatalf("%v, %v; want code %d", got, err, tt.code)
			}
		})
	}
	if n := len(r.All()); n != 2 {
		t.Fatalf("%d connections, want 2", n)
	}
}

// opener notes what it is asked to open.
type opener struct{ asked []string }

func (o *opener) Open(_ context.Context, uri string) (*Connection, error) {
	o.asked = append(o.asked, uri)
	return nil, verr.New(verr.NoConnect, "%s", uri)
}

func TestAnOpenerGetsAllURIsOfItsScheme(t *testing.T) {
	r, o := NewRouter(), &opener{}
	r.AddOpener("far", o)
	r.Add(connect(t, "test", "default"))
	for _, uri := range []string{"far:///lab", "far+unix:///lab?x=1", "far://user@host:1/a/b?no_verify=1", "test:///default"} {
		if _, err := r.Open(t.Context(), uri); verr.Is(err, verr.NoConnect) != strings.HasPrefix(uri, "far") {
			t.Errorf("%s: %v", uri, err)
		}
	}
	want := "far:///lab far:///lab?x=1 far://user@host:1/a/b?no_verify=1"
	if got := strings.Join(o.asked, " "); got != want {
		t.Errorf("asked for %s, want %s", got, want)
	}
}
