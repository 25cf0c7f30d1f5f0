package driver

import (
	"context"
	"errors"
	"net"
	"reflect"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	"github.com/lodgevirt/lodge/plugins/esx/internal/guests"
	"github.com/lodgevirt/lodge/plugins/esx/internal/network"
	"github.com/lodgevirt/lodge/plugins/esx/internal/settings"
	"github.com/lodgevirt/lodge/plugins/esx/internal/storage"
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
	// endpoints are shared by all connections.
	endpoints *endpoints
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
	// release gives the endpoint back.
	release func()
	guests  *guests.Guests
	// store and networks are nil for a connection to all of a vCenter server.
	store    *storage.Store
	networks *network.Networks
}

// newConnection makes a connection that has not started.
func newConnection(name string, target settings.Target, core plugin.Core, endpoints *endpoints) *connection {
	return &connection{
		name: name, feed: inventory.NewFeed(), core: core, log: core.Logger().Named("connection"), endpoints: endpoints, target: target,
	}
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
		var made *parts
		if made, err = c.open(config); err == nil {
			c.parts = made
		}
	}
	c.err = err
	if err != nil {
		c.feed.Stale(time.Now(), err)
	}
}

// open starts the parts, none of which needs the endpoint to be there.
func (c *connection) open(config endpoint.Config) (_ *parts, err error) {
	p := &parts{}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	e, release, err := c.endpoints.get(config, c.log)
	if err != nil {
		return nil, err
	}
	p.release = release
	server, _, err := net.SplitHostPort(config.Address)
	if err != nil {
		server = config.Address
	}
	made := make(chan struct{})
	p.guests, err = guests.Start(e, guests.Options{
		Product: config.Product, Path: c.target.Path, Server: server, AutoAnswer: c.target.AutoAnswer,
		Ready: func(ctx context.Context) error {
			<-made
			return p.ready(ctx)
		},
	}, c.feed, c.log)
	defer close(made)
	if err != nil || config.Product == endpoint.VPX && len(c.target.Path) == 0 {
		return p, err // storage and networks are a host's
	}
	if p.store, err = storage.Start(e, p.guests.Host, c.feed, c.log); err != nil {
		return nil, err
	}
	p.networks, err = network.Start(e, p.guests.Host, c.feed, c.log)
	return p, err
}

// ready waits until storage and networks were read.
func (p *parts) ready(ctx context.Context) error {
	if p.store == nil || p.networks == nil {
		return nil
	}
	return errors.Join(p.store.Ready(ctx), p.networks.Ready(ctx))
}

// close ends the parts and waits for them. An endpoint that others use stays.
func (p *parts) close() {
	var wait sync.WaitGroup
	if p.store != nil {
		wait.Go(p.store.Close)
	}
	if p.networks != nil {
		wait.Go(p.networks.Close)
	}
	if p.guests != nil {
		wait.Go(p.guests.Close)
	}
	wait.Wait()
	if p.release != nil {
		p.release()
	}
}

// configure makes the parts anew if their endpoint is another now.
func (c *connection) configure(ctx context.Context, table *settings.Table) {
	target, err := table.Find(c.name)
	if err == nil && target.Connection != c.name {
		err = verr.New(verr.NoConnect, "connection %q: it means another endpoint now", c.name).In(verr.FromESX)
	}
	var config endpoint.Config
	if err == nil {
		config, err = table.Config(ctx, target, c.core.Secret)
	}
	c.adopt(config, err)
}

// adopt makes the parts anew if a configuration is another than theirs, or ends them if there is none any more.
func (c *connection) adopt(config endpoint.Config, err error) {
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
	c.parts.close()
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
