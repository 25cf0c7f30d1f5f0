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

	// changing is held by who makes or closes parts. Only others who want the same wait for it. It is taken before mu.
	changing sync.Mutex

	mu     sync.Mutex // guards all below; not held across calls
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
	if !c.idle() {
		return
	}
	config, err := table.Config(ctx, c.target, c.core.Secret)
	c.changing.Lock()
	defer c.changing.Unlock()
	if c.idle() {
		c.make(config, err)
	}
}

// idle says whether parts are to be made.
func (c *connection) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.parts == nil && !c.closed
}

// make makes the parts, or tells why it cannot; changing is held.
func (c *connection) make(config endpoint.Config, err error) {
	var made *parts
	if err == nil {
		made, err = c.open(config)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.config, c.parts, c.err = config, made, err
	if err != nil {
		c.parts = nil
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
	c.changing.Lock()
	defer c.changing.Unlock()
	c.mu.Lock()
	stays := c.closed || err == nil && c.parts != nil && reflect.DeepEqual(config, c.config)
	c.mu.Unlock()
	if !stays {
		c.end()
		c.make(config, err)
	}
}

// end closes the parts; changing is held.
func (c *connection) end() {
	c.mu.Lock()
	old := c.parts
	c.parts, c.err = nil, verr.New(verr.OperationAborted, "connection %q is being made anew", c.name).In(verr.FromESX)
	c.mu.Unlock()
	if old != nil {
		old.close()
	}
}

// close ends the connection for good.
func (c *connection) close() {
	c.changing.Lock()
	defer c.changing.Unlock()
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.end()
}

// working returns the parts, or why there are none.
func (c *connection) working() (*parts, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.parts != nil:
		return c.parts, nil
	case c.err != nil && !c.closed:
		return nil, c.err
	}
	return nil, verr.New(verr.InvalidConn, "connection %q is closed", c.name).In(verr.FromESX)
}
