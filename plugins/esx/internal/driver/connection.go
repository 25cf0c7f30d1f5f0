package driver

import (
	"context"
	"net"
	"reflect"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	"github.com/lodgevirt/lodge/plugins/esx/internal/guests"
	"github.com/lodgevirt/lodge/plugins/esx/internal/settings"
	"github.com/lodgevirt/lodge/sdk/inventory"
	"github.com/lodgevirt/lodge/sdk/plugin"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// connection is a place of an endpoint with its feed.
type connection struct {
	name string
	feed *inventory.Feed
	core plugin.Core
	log  hclog.Logger
	// target never changes: the name is all that it is made of.
	target settings.Target

	// users and since are the driver's: how many use it, and since when nobody does.
	users int
	since time.Time

	mu     sync.Mutex // guards all below; held while parts are made or closed, which waits for nobody else
	config endpoint.Config
	parts  *parts
	// err is why there are no parts.
	err    error
	closed bool
}

// parts do the work of a connection.
type parts struct {
	endpoint *endpoint.Endpoint
	guests   *guests.Guests
}

// newConnection makes a connection that has not started.
func newConnection(name string, target settings.Target, core plugin.Core) *connection {
	return &connection{name: name, feed: inventory.NewFeed(), core: core, log: core.Logger().Named("connection"), target: target}
}

// start makes the parts if there are none.
func (c *connection) start(ctx context.Context, table *settings.Table) {
	c.mu.Lock()
	idle := c.parts == nil && !c.closed
	c.mu.Unlock()
	if !idle {
		return
	}
	config, err := table.Config(ctx, c.target, c.core.Secret)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.parts == nil && !c.closed {
		c.make(config, err)
	}
}

// make makes the parts, or tells why it cannot; mu is held.
func (c *connection) make(config endpoint.Config, err error) {
	if err == nil {
		c.config = config
		c.parts, err = c.open(config)
	}
	c.err = err
	if err != nil {
		c.feed.Stale(time.Now(), err)
	}
}

// open starts the parts, none of which needs the endpoint to be there.
func (c *connection) open(config endpoint.Config) (*parts, error) {
	e, err := endpoint.Open(config, c.log)
	if err != nil {
		return nil, err
	}
	server, _, err := net.SplitHostPort(config.Address)
	if err != nil {
		server = config.Address
	}
	g, err := guests.Start(e, guests.Options{
		Product: config.Product, Path: c.target.Path, Server: server, AutoAnswer: c.target.AutoAnswer, Ready: c.feed.Synced,
	}, c.feed, c.log)
	if err != nil {
		e.Close()
		return nil, err
	}
	return &parts{endpoint: e, guests: g}, nil
}

// configure makes the parts anew if their endpoint is another now.
func (c *connection) configure(ctx context.Context, table *settings.Table) {
	target, err := table.Find(c.name)
	if err == nil && target.Connection != c.name {
		err = verr.New(verr.NoConnect, "connection %q means another endpoint now", c.name).In(verr.FromESX)
	}
	var config endpoint.Config
	if err == nil {
		config, err = table.Config(ctx, target, c.core.Secret)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || err == nil && c.parts != nil && reflect.DeepEqual(config, c.config) {
		return
	}
	c.end()
	c.make(config, err)
}

// end closes the parts; mu is held.
func (c *connection) end() {
	if c.parts == nil {
		return
	}
	c.parts.endpoint.Close()
	c.parts.guests.Close()
	c.parts = nil
}

// close ends the connection for good.
func (c *connection) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.end()
}

// working returns the parts, or why there are none.
func (c *connection) working() (*parts, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.parts != nil:
		return c.parts, nil
	case c.err != nil:
		return nil, c.err
	}
	return nil, verr.New(verr.InvalidConn, "connection %q is closed", c.name).In(verr.FromESX)
}
