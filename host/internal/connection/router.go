package connection

import (
	"context"
	"net/url"
	"strings"
	"time"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// seedWait bounds the wait of a first client.
const seedWait = 5 * time.Second

// openWait bounds the wait for a remote hypervisor.
const openWait = 20 * time.Second

// maxURI is the longest URI in bytes.
const maxURI = 4096

// Router knows every connection that the host's drivers offer.
type Router struct {
	byURI   map[string]*Connection
	schemes map[string]bool
	openers map[string]Opener
	first   *Connection
}

// Opener opens connections of a scheme whose URIs are the driver's to understand.
type Opener interface {
	// Open finds the connection that a URI means, freed from a transport, and waits until it can be used.
	Open(ctx context.Context, uri string) (*Connection, error)
}

// NewRouter returns an empty router.
func NewRouter() *Router {
	return &Router{byURI: map[string]*Connection{}, schemes: map[string]bool{}, openers: map[string]Opener{}}
}

// Add makes a connection reachable under its URI and under further paths of the same scheme. The first connection that is added is the
// host's default.
func (r *Router) Add(c *Connection, aliases ...string) {
	r.schemes[c.cfg.Scheme] = true
	for _, path := range append([]string{c.cfg.Path}, aliases...) {
		r.byURI[c.cfg.Scheme+":///"+path] = c
	}
	if r.first == nil {
		r.first = c
	}
}

// AddOpener has all URIs of a scheme opened by an opener.
func (r *Router) AddOpener(scheme string, o Opener) { r.openers[scheme] = o }

// Open finds the connection for a URI as it arrives in REMOTE_PROC_CONNECT_OPEN; "" is the host's default connection. It answers
// from memory, but for a connection that is used for the first time ever and whose driver brings guests, for which it waits at most
// seedWait, and for one of a remote hypervisor that is not known yet, at most openWait. An unknown scheme is NoConnect, an unknown path of a known one Internal, as libvirt has it.
func (r *Router) Open(ctx context.Context, uri string) (*Connection, error) {
	c, err := r.find(ctx, uri)
	if err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, seedWait)
	defer cancel()
	select {
	case <-c.settled:
	case <-wait.Done():
	}
	return c, nil
}

func (r *Router) find(ctx context.Context, uri string) (*Connection, error) {
	if uri == "" {
		if r.first == nil {
			return nil, verr.New(verr.NoConnect, "no connection driver available: no plugin is enabled")
		}
		return r.first, nil
	}
	if len(uri) > maxURI {
		return nil, verr.New(verr.InvalidArg, "URI of %d bytes is longer than %d", len(uri), maxURI)
	}
	u, err := url.Parse(uri)
	if err != nil {
		return nil, verr.New(verr.InvalidArg, "cannot parse URI %q: %w", uri, err)
	}
	scheme, _, _ := strings.Cut(u.Scheme, "+") // a transport is the client's affair
	if o := r.openers[scheme]; o != nil {
		u.Scheme = scheme
		ctx, cancel := context.WithTimeout(ctx, openWait)
		defer cancel()
		return o.Open(ctx, u.String())
	}
	if !r.schemes[scheme] {
		return nil, verr.New(verr.NoConnect, "no connection driver available for %s", uri)
	}
	c := r.byURI[scheme+":///"+strings.Trim(u.Path, "/")]
	if c == nil || u.Host != "" {
		return nil, verr.New(verr.Internal, "unexpected %s URI path '%s', try %s", scheme, u.Path, r.example(scheme))
	}
	return c, nil
}

// All returns the connections in no order.
func (r *Router) All() []*Connection {
	seen := map[*Connection]bool{}
	var all []*Connection
	for _, c := range r.byURI {
		if !seen[c] {
			seen[c] = true
			all = append(all, c)
		}
	}
	return all
}

// example is a URI of a scheme that works.
func (r *Router) example(scheme string) string {
	for _, c := range r.byURI {
		if c.cfg.Scheme == scheme {
			return c.URI
		}
	}
	return ""
}
