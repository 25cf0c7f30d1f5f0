package driver

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/lodgevirt/lodge/plugins/esx/internal/settings"
	"github.com/lodgevirt/lodge/sdk/hypervisor"
	"github.com/lodgevirt/lodge/sdk/inventory"
	"github.com/lodgevirt/lodge/sdk/plugin"
	hv "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// name is the driver's, as in the manifest.
	name = "esx"
	// maxConnections is how many connections are open at a time.
	maxConnections = 256
	// idle is how long a connection is kept that nobody uses.
	idle = 10 * time.Minute
)

// Driver is the driver.
type Driver struct {
	core plugin.Core
	// idle is how long a connection is kept that nobody uses.
	idle      time.Duration
	endpoints endpoints

	mu          sync.Mutex // guards all below; not held across calls
	table       *settings.Table
	connections map[string]*connection
	closed      bool
	// closing counts connections that are being closed.
	closing sync.WaitGroup
}

var (
	_ inventory.Driver         = (*Driver)(nil)
	_ inventory.Guests         = (*Driver)(nil)
	_ inventory.Tuning         = (*Driver)(nil)
	_ inventory.Snapshots      = (*Driver)(nil)
	_ inventory.Migration      = (*Driver)(nil)
	_ inventory.Natives        = (*Driver)(nil)
	_ inventory.Networks       = (*Driver)(nil)
	_ inventory.Storage        = (*Driver)(nil)
	_ hypervisor.Lifecycle     = (*Driver)(nil)
	_ hypervisor.Screenshooter = (*Driver)(nil)
	_ hypervisor.Stats         = (*Driver)(nil)
	_ hypervisor.Capabilities  = (*Driver)(nil)
	_ plugin.Configurer        = (*Driver)(nil)
	_ plugin.Diagnoser         = (*Driver)(nil)
	_ plugin.Closer            = (*Driver)(nil)
)

// Plugin is the plugin of a version.
func Plugin(version string) plugin.Plugin {
	return plugin.Plugin{
		Name: name, Version: version, ConfigKeys: settings.Keys(),
		Inventory: func(core plugin.Core) (inventory.Driver, error) { return New(core) },
	}
}

// New returns a driver without endpoints.
func New(core plugin.Core) (*Driver, error) {
	table, err := settings.Parse(nil)
	if err != nil {
		return nil, err
	}
	return &Driver{core: core, idle: idle, table: table, connections: map[string]*connection{}}, nil
}

// Configure implements plugin.Configurer.
func (d *Driver) Configure(ctx context.Context, s plugin.Settings) error {
	table, err := settings.Parse(s.Config)
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.table = table
	all := make([]*connection, 0, len(d.connections))
	for _, c := range d.connections {
		all = append(all, c)
	}
	d.mu.Unlock()
	var wait sync.WaitGroup
	for _, c := range all {
		wait.Go(func() { c.configure(ctx, table) })
	}
	wait.Wait()
	return nil
}

// Open implements inventory.Driver.
func (d *Driver) Open(ctx context.Context, req *pb.OpenRequest) (*pb.OpenResponse, error) {
	d.mu.Lock()
	table := d.table
	d.mu.Unlock()
	target, err := table.Find(req.GetUri())
	if err != nil {
		return nil, err
	}
	config, err := table.Config(ctx, target, d.core.Secret)
	if err != nil {
		return nil, err
	}
	// A password that was replaced is taken up by the next client.
	d.mu.Lock()
	c := d.connections[target.Connection]
	d.mu.Unlock()
	if c != nil {
		c.adopt(config, nil)
	}
	return &pb.OpenResponse{Connection: target.Connection, Uri: target.URI}, nil
}

// Follow implements inventory.Driver.
func (d *Driver) Follow(ctx context.Context, connection string) (*inventory.Feed, func(), error) {
	c, done, err := d.use(ctx, connection)
	if err != nil {
		return nil, nil, err
	}
	return c.feed, done, nil
}

// use returns a connection, which is kept at least until done is called.
func (d *Driver) use(ctx context.Context, name string) (c *connection, done func(), err error) {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil, nil, verr.New(verr.InvalidConn, "the driver is ending").In(verr.FromESX)
	}
	c, ok := d.connections[name]
	if !ok {
		if c, err = d.make(name); err != nil {
			d.mu.Unlock()
			return nil, nil, err
		}
		d.connections[name] = c
	}
	c.users++
	table := d.table
	d.mu.Unlock()
	c.start(ctx, table)
	var once sync.Once
	return c, func() { once.Do(func() { d.release(c) }) }, nil
}

// make makes room for a connection and makes it; mu is held.
func (d *Driver) make(name string) (*connection, error) {
	target, err := d.table.Find(name)
	if err != nil {
		return nil, err
	}
	if len(d.connections) >= maxConnections {
		var oldest *connection
		for _, c := range d.connections {
			if c.users == 0 && (oldest == nil || c.since.Before(oldest.since)) {
				oldest = c
			}
		}
		if oldest == nil {
			return nil, verr.New(verr.ResourceBusy, "%d connections are in use, which is as many as can be", maxConnections).In(verr.FromESX)
		}
		d.drop(oldest)
	}
	return newConnection(name, target, d.core, &d.endpoints), nil
}

// release ends a use of a connection.
func (d *Driver) release(c *connection) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c.users--
	if c.users > 0 {
		return
	}
	c.since = time.Now()
	since := c.since
	time.AfterFunc(d.idle, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if c.users == 0 && c.since.Equal(since) && d.connections[c.name] == c {
			d.drop(c)
		}
	})
}

// drop forgets a connection and has it closed; mu is held.
func (d *Driver) drop(c *connection) {
	delete(d.connections, c.name)
	d.closing.Go(c.close)
}

// Close implements plugin.Closer.
func (d *Driver) Close(ctx context.Context) error {
	d.mu.Lock()
	d.closed = true
	for _, c := range d.connections {
		d.drop(c)
	}
	d.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		d.closing.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Diagnose implements plugin.Diagnoser.
func (d *Driver) Diagnose(context.Context) map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	facts := map[string]string{"connections": strconv.Itoa(len(d.connections))}
	for name, c := range d.connections {
		c.feed.Look(func(v *inventory.View) {
			facts["connection "+name] = strconv.Itoa(len(v.Guests)) + " guests, " + strconv.Itoa(c.users) + " users"
		})
	}
	return facts
}

// guest returns the connection of a guest, for one call.
func (d *Driver) guest(ctx context.Context, g *hv.Guest) (*parts, func(), error) {
	return d.parts(ctx, g.GetConnection())
}

// parts returns what does the work of a connection, for one call.
func (d *Driver) parts(ctx context.Context, name string) (*parts, func(), error) {
	c, done, err := d.use(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	p, err := c.working()
	if err != nil {
		done()
		return nil, nil, err
	}
	return p, done, nil
}
