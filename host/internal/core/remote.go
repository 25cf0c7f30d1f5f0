package core

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/host/internal/connection"
	"github.com/lodgevirt/lodge/host/internal/manifest"
	"github.com/lodgevirt/lodge/host/internal/mirror"
	"github.com/lodgevirt/lodge/host/internal/supervise"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Bounds of what clients can open at remote hypervisors.
const (
	// maxRemotes is how many connections one driver has.
	maxRemotes = 256
	// maxSpellings is how many URIs are remembered for them.
	maxSpellings = 4096
	// unusedAfter is how long a connection that nobody has open stays.
	unusedAfter = 30 * time.Minute
	// unusedLook is the time between two looks for those.
	unusedLook = time.Minute
	// maxConnectionName is the longest name of a connection in bytes.
	maxConnectionName = 1024
)

// remote is the plugin of a hypervisor that keeps its objects itself, with the connections that clients have opened.
type remote struct {
	part
	// work are the goroutines that follow connections; they end with the process that they follow.
	work sync.WaitGroup

	mu       sync.Mutex // guards all below; never held across a call
	byURI    map[string]*followed
	byName   map[string]*followed
	process  grpc.ClientConnInterface // the present process, nil if there is none
	lifetime context.Context          // of that process
}

// followed is a connection that the core follows.
type followed struct {
	name, uri string // uri is one that means it
	conn      *connection.Connection
	mirror    *mirror.Mirror
	seen      time.Time // when somebody opened it or had it open last
	// stop ends the following by the present process.
	stop context.CancelFunc
}

func (h *Host) addRemote(m *manifest.Manifest) error {
	settings, err := h.settings(m)
	if err != nil || settings.Disabled {
		return err
	}
	r := &remote{part: part{host: h, manifest: m, settings: settings}, byURI: map[string]*followed{}, byName: map[string]*followed{}}
	r.plugin = r.supervised(func(c *supervise.Config) {
		c.Recover = r.recover
		c.Idle = func() bool { return len(r.open()) == 0 }
	})
	for _, scheme := range m.Schemes {
		h.router.AddOpener(scheme, r)
	}
	h.remotes = append(h.remotes, r)
	return nil
}

// run supervises the plugin until the context ends.
func (r *remote) run(ctx context.Context) error {
	r.work.Go(func() { r.sweep(ctx) })
	err := r.plugin.Run(ctx)
	r.work.Wait()
	return err
}

// open are the connections that are followed.
func (r *remote) open() []*followed {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*followed, 0, len(r.byName))
	for _, f := range r.byName {
		all = append(all, f)
	}
	return all
}

func (r *remote) uris() []string {
	var uris []string
	for _, f := range r.open() {
		uris = append(uris, f.conn.URI)
	}
	slices.Sort(uris)
	return uris
}

// trouble says which hypervisors are out of reach, "" if none is.
func (r *remote) trouble() string {
	var all []string
	for _, f := range r.open() {
		if cause := f.mirror.Cause(); cause != nil {
			all = append(all, f.conn.URI+" is out of reach: "+cause.Error())
		}
	}
	slices.Sort(all)
	return strings.Join(all, "; ")
}

// Open finds the connection that a URI means, and waits until its hypervisor has told what it has.
func (r *remote) Open(ctx context.Context, uri string) (*connection.Connection, error) {
	r.mu.Lock()
	f := r.byURI[uri]
	r.mu.Unlock()
	if f == nil {
		rsp, err := pb.NewInventoryServiceClient(r.plugin).Open(ctx, &pb.OpenRequest{Uri: uri})
		if err != nil {
			return nil, err
		}
		if f, err = r.enter(uri, rsp); err != nil {
			return nil, err
		}
	}
	if err := f.mirror.Ready(ctx); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f.seen = time.Now()
	return f.conn, nil
}

// enter finds the connection that the driver has named, or begins to follow it.
func (r *remote) enter(uri string, named *pb.OpenResponse) (*followed, error) {
	name := named.GetConnection()
	if name == "" || len(name) > maxConnectionName || named.GetUri() == "" {
		return nil, verr.New(verr.Internal, "driver %q has opened a connection without a name", r.manifest.Name)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.byName[name]
	if f == nil {
		if len(r.byName) >= maxRemotes {
			return nil, verr.New(verr.OperationFailed, "driver %q has %d connections open, no more are allowed", r.manifest.Name, maxRemotes)
		}
		f = r.connect(uri, named)
		r.byName[name] = f
		r.start(f)
	}
	if len(r.byURI) < maxSpellings {
		r.byURI[uri] = f
	}
	return f, nil
}

// connect makes a connection.
func (r *remote) connect(uri string, named *pb.OpenResponse) *followed {
	h := r.host
	m := mirror.New(mirror.Config{
		URI: named.GetUri(), Connection: named.GetConnection(), Plugin: r.plugin, Events: h.events, Tasks: &h.tasks,
		Log: h.cfg.Log.Named("mirror"),
	})
	return &followed{
		name: named.GetConnection(), uri: uri, mirror: m, seen: time.Now(), stop: func() {},
		conn: connection.New(connection.Config{
			URI: named.GetUri(), Path: named.GetConnection(), Type: r.manifest.Type, ErrorDomain: verr.Domain(r.manifest.ErrorDomain),
			Domains: m, Pools: m.Pools(), Networks: m.Networks(), Interfaces: m.Interfaces(), Plugin: r.plugin, Probed: m.Host,
			Host: h.machine,
		}),
	}
}

// start has the present process, if there is one, followed; mu is held.
func (r *remote) start(f *followed) {
	if r.process == nil || r.lifetime.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancel(r.lifetime)
	f.stop = cancel
	process := r.process
	r.work.Go(func() {
		defer cancel()
		r.follow(ctx, process, f)
	})
}

// recover has everything followed by a process that has just come up. Nobody waits for that: questions are answered from memory.
func (r *remote) recover(ctx context.Context, conn grpc.ClientConnInterface, _ uint64, _ bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.process, r.lifetime = conn, ctx
	for _, f := range r.byName {
		r.start(f)
	}
	return nil
}

// follow follows a connection for as long as the process lives.
func (r *remote) follow(ctx context.Context, process grpc.ClientConnInterface, f *followed) {
	for ctx.Err() == nil {
		rsp, err := pb.NewInventoryServiceClient(process).Open(ctx, &pb.OpenRequest{Uri: f.uri})
		switch {
		case err == nil && rsp.GetConnection() != f.name:
			err = verr.New(verr.NoConnect, "%s means another connection since the driver's configuration was changed: open it again", f.uri)
			f.mirror.Failed(err)
			r.drop(f)
		case err == nil:
			err = f.mirror.Follow(ctx, process)
		}
		if ctx.Err() != nil {
			return
		}
		f.mirror.Failed(err)
		r.log().Warn("hypervisor cannot be followed", "uri", f.conn.URI, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(rewatchPause):
		}
	}
}

// sweep drops connections that nobody has had open for long.
func (r *remote) sweep(ctx context.Context) {
	tick := time.NewTicker(unusedLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, f := range r.open() {
			r.mu.Lock()
			if f.conn.Used() {
				f.seen = time.Now()
			}
			old := time.Since(f.seen) > unusedAfter
			r.mu.Unlock()
			if old {
				r.drop(f)
			}
		}
	}
}

// drop ends the following of a connection.
func (r *remote) drop(f *followed) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f.stop()
	if r.byName[f.name] == f {
		delete(r.byName, f.name)
	}
	for uri, g := range r.byURI {
		if g == f {
			delete(r.byURI, uri)
		}
	}
}
