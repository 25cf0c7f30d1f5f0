package guest

import (
	"context"
	"encoding/json"
	"os"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
)

// DeviceNews is what QEMU says about a device by itself.
type DeviceNews struct {
	// Alias of the device. It is empty if events were missed: any device may have gone.
	Alias string
	// Refused says that the guest does not give it up; else it has gone.
	Refused bool
}

// deviceEvents are QEMU's events about devices, by whether the guest has refused.
var deviceEvents = map[string]bool{"DEVICE_DELETED": false, "DEVICE_UNPLUG_GUEST_ERROR": true}

// followDevice hands an event about a device on. Parts of devices have no alias and mean nothing.
func (g *Guest) followDevice(ev qmp.Event) {
	refused, ok := deviceEvents[ev.Name]
	if !ok || g.cfg.Devices == nil {
		return
	}
	var data struct {
		Device string `json:"device"`
	}
	if err := json.Unmarshal(ev.Data, &data); err != nil {
		g.cfg.Log.Warn("event of guest not understood", "event", ev.Name, "error", err)
		return
	}
	if data.Device != "" {
		g.cfg.Devices(g, DeviceNews{Alias: data.Device, Refused: refused})
	}
}

// missDevices says that events may have been missed.
func (g *Guest) missDevices() {
	if g.cfg.Devices != nil {
		g.cfg.Devices(g, DeviceNews{})
	}
}

// SetFacts replaces the facts of the live definition. They take effect before the next event.
func (g *Guest) SetFacts(ctx context.Context, facts Facts) error {
	return g.with(ctx, func() error {
		g.machine.setFacts(facts)
		return nil
	})
}

// Background runs a function with a deadline of some seconds on a goroutine that the guest's end and Close wait for. It may only be called
// by what Config.Devices calls.
func (g *Guest) Background(f func(context.Context)) { g.background(f) }

// QueryWithFile sends one command to QEMU with a descriptor and waits for the answer. The file stays the caller's.
func (g *Guest) QueryWithFile(ctx context.Context, file *os.File, cmd *qmp.Command) error {
	mon := g.monitor()
	if mon == nil {
		return errNoMonitor
	}
	return mon.ExecuteWithFile(ctx, file, cmd.Name, cmd.Args, cmd.Reply)
}
