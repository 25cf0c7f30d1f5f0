package driver

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// beat is how often a running guest counts on its console.
const beat = 100 * time.Millisecond

// echoes is how many writes a console takes before one waits for its reader.
const echoes = 16

// console is a connection to a pretended serial port. The guest counts the beats that its vCPUs ran, and echoes what is typed; while
// it is paused it does not count. The count goes on over restarts of this process, for it is worked out from the record.
type console struct {
	g      *guest
	device string
	typed  chan []byte
	closed chan struct{}
	once   sync.Once
	beats  *time.Ticker
	rest   []byte // read by nobody yet; Read's own
}

// OpenConsole connects to a serial port, console or channel.
func (d *Driver) OpenConsole(ctx context.Context, target *pb.ConsoleTarget) (io.ReadWriteCloser, error) {
	g, err := d.find(target.GetGuest())
	if err != nil {
		return nil, err
	}
	if err := d.pass(ctx, g, "console"); err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return nil, notRunning()
	}
	devices := g.record.Shape.Consoles
	if target.GetChannel() {
		devices = g.record.Shape.Channels
	}
	device := target.GetDevice()
	if device == "" && len(devices) > 0 {
		device = devices[0]
	}
	if !slices.Contains(devices, device) {
		return nil, verr.New(verr.Internal, "cannot find character device '%s'", device)
	}
	return g.connect(device, target.GetForce())
}

// connect makes the only connection to a device. Called with the mutex held.
func (g *guest) connect(device string, force bool) (*console, error) {
	if old := g.consoles[device]; old != nil {
		if !force {
			return nil, verr.New(verr.OperationFailed, "Active console session exists for this domain")
		}
		old.shut()
	}
	c := &console{
		g: g, device: device, typed: make(chan []byte, echoes), closed: make(chan struct{}), beats: time.NewTicker(beat),
	}
	if g.consoles == nil {
		g.consoles = make(map[string]*console)
	}
	g.consoles[device] = c
	return c, nil
}

// Read returns what the guest says next.
func (c *console) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		select {
		case <-c.closed:
			return 0, io.EOF
		case c.rest = <-c.typed:
		case now := <-c.beats.C:
			if r := c.g.snapshot(); !r.RunningSince.IsZero() {
				c.rest = fmt.Appendf(nil, "%s: %d\r\n", r.Name, r.Uptime(now)/beat)
			}
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// Write types.
func (c *console) Write(p []byte) (int, error) {
	select {
	case <-c.closed: // which the other select may overlook when there is room
		return 0, io.ErrClosedPipe
	default:
	}
	select {
	case <-c.closed:
		return 0, io.ErrClosedPipe
	case c.typed <- slices.Clone(p):
		return len(p), nil
	}
}

// Close ends the connection and frees the device.
func (c *console) Close() error {
	c.shut()
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	if c.g.consoles[c.device] == c {
		delete(c.g.consoles, c.device)
	}
	return nil
}

// shut ends the connection: Read and Write return.
func (c *console) shut() {
	c.once.Do(func() {
		c.beats.Stop()
		close(c.closed)
	})
}
