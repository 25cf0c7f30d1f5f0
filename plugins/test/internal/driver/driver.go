// Package driver is the test driver, and the one to read before writing another: a whole hypervisor driver whose hypervisor is a
// folder of small files. Read it in this order: driver.go (what there is), start.go, stop.go and recover.go (the required methods that
// make and end lives), guest.go (one life), lifecycle.go (changes of state), devices.go (changes of devices), then the optional services
// save.go, console.go, screen.go, stats.go and capabilities.go. Package fault tells how to make it fail at any point.
//
// The core owns the definitions. The driver owns nothing that it cannot find again: a guest is a file (package record), a life that
// this process is in charge of is a guest in memory, made by Start or Recover. Descriptors of locks are kept open by this process
// for as long as it is in charge; there is no other process that could inherit them.
//
// All methods are safe concurrently. For one guest the core sends one change at a time, but Stop may break into any other
// call, which fails then. Nothing here waits but for a fault that was asked for, and that ends with the call's context.
package driver

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/lodgevirt/lodge/plugins/test/internal/define"
	"github.com/lodgevirt/lodge/plugins/test/internal/fault"
	"github.com/lodgevirt/lodge/plugins/test/internal/record"
	"github.com/lodgevirt/lodge/plugins/test/internal/sample"
	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/failpoint"
	"github.com/lodgevirt/lodge/sdk/hypervisor"
	"github.com/lodgevirt/lodge/sdk/plugin"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Driver is the test driver.
type Driver struct {
	core    plugin.Core
	log     hclog.Logger
	records *record.Store
	book    fault.Book

	mu       sync.Mutex // guards all below; a guest's is taken before it
	guests   map[string]*guest
	starting map[string]*starting
	faults   *failpoint.Set // of all guests, from the plugin's configuration
}

// What the driver is able to do: the SDK registers a service for each.
var (
	_ hypervisor.Driver        = (*Driver)(nil)
	_ hypervisor.Lifecycle     = (*Driver)(nil)
	_ hypervisor.Keyboard      = (*Driver)(nil)
	_ hypervisor.Devices       = (*Driver)(nil)
	_ hypervisor.Console       = (*Driver)(nil)
	_ hypervisor.Screenshooter = (*Driver)(nil)
	_ hypervisor.Stats         = (*Driver)(nil)
	_ hypervisor.Capabilities  = (*Driver)(nil)
	_ hypervisor.Saver         = (*Driver)(nil)
	_ plugin.Configurer        = (*Driver)(nil)
	_ plugin.Closer            = (*Driver)(nil)
)

// Plugin describes the driver to the SDK.
func Plugin(version string) plugin.Plugin {
	return plugin.Plugin{
		Name:    "test",
		Version: version,
		ConfigKeys: []*basev1.ConfigKey{{
			Name: "faults", Kind: basev1.ValueKind_VALUE_KIND_STRING, DefaultValue: `""`,
			Help: `what goes wrong with every guest, for example "start=1*error(55:no)->off;stop.done=delay(100)"`,
		}},
		Hypervisor: func(core plugin.Core) (hypervisor.Driver, error) { return New(core), nil },
	}
}

// New returns a driver without guests.
func New(core plugin.Core) *Driver {
	return &Driver{
		core:     core,
		log:      core.Logger(),
		records:  record.NewStore(func() string { return core.Settings().RuntimeDir }),
		guests:   make(map[string]*guest),
		starting: make(map[string]*starting),
	}
}

// Configure takes the plugin's own settings.
func (d *Driver) Configure(_ context.Context, settings plugin.Settings) error {
	var config struct {
		Faults string `json:"faults"`
	}
	if len(settings.Config) > 0 {
		if err := json.Unmarshal(settings.Config, &config); err != nil {
			return verr.New(verr.ConfigUnsupported, "read configuration: %w", err)
		}
	}
	faults, err := failpoint.Parse(config.Faults)
	if err != nil {
		return verr.New(verr.ConfigUnsupported, "read faults: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = faults
	return nil
}

// Close lets go of all guests, which live on. Those that are being saved go on first.
func (d *Driver) Close(ctx context.Context) error {
	d.mu.Lock()
	guests := d.guests
	d.guests = make(map[string]*guest)
	d.mu.Unlock()
	for _, g := range guests {
		if err := g.giveUpSave(ctx); err != nil {
			d.log.Warn("guest is left in the middle of a save", "guest", g.identity.GetName(), "error", err)
		}
		g.release()
	}
	return nil
}

// Probe describes the pretended host.
func (d *Driver) Probe(context.Context, *pb.ProbeRequest) (*pb.ProbeResponse, error) {
	return sample.Probe(), nil
}

// Validate completes a definition.
func (d *Driver) Validate(ctx context.Context, req *pb.ValidateRequest) (*pb.ValidateResponse, error) {
	def, err := domxml.Parse(req.GetXml())
	if err != nil {
		return nil, err
	}
	if err := define.Complete(def); err != nil {
		return nil, err
	}
	xml, err := domxml.Format(def)
	if err != nil {
		return nil, err
	}
	script, err := fault.Parse(xml)
	if err != nil {
		return nil, err
	}
	if err := d.book.Note(def.UUID, script); err != nil {
		return nil, err
	}
	if err := d.hit(ctx, def.UUID, "validate"); err != nil {
		return nil, err
	}
	return &pb.ValidateResponse{Xml: xml, Summary: domxml.Summarize(def)}, nil
}

// hit passes a point where the configuration or the guest's definition may have put a fault.
func (d *Driver) hit(ctx context.Context, uuid, point string) error {
	d.mu.Lock()
	general := d.faults
	d.mu.Unlock()
	if err := general.Hit(ctx, point); err != nil {
		return reason(ctx, err)
	}
	return reason(ctx, d.book.Of(uuid).Hit(ctx, point))
}

// reason says why a context ended, where that is all that an error says.
func reason(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
