package driver

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/cmdline"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/define"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/guest"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// How a guest's devices are changed. Before QEMU is told anything, an intent is written into the folder of the life: the live definition as it
// will be, and the orders that take everything back. The definition is replaced once the device is in QEMU, then the intent goes. Whoever
// finds an intent (Recover, or the next change after one that failed without an answer) asks QEMU whether the device is there, and goes on
// or back. A device that has gone from QEMU while nobody looked is found by comparing the live definition with QEMU's own list.

// Times of changes of devices.
const (
	// unplugTime is how long a guest is waited for that is asked to give a device up; libvirt's.
	unplugTime = 5 * time.Second
	// undoTime bounds taking back what has failed.
	undoTime = 5 * time.Second
	// newsRoom is how much news about one device waits for who asked for it.
	newsRoom = 4
)

// shown is the definition of a living guest as clients see it.
type shown struct {
	live *libvirtxml.Domain
	xml  string
}

// live is the live definition, only to be read.
func (l *life) live() *libvirtxml.Domain {
	if s := l.shown.Load(); s != nil {
		return s.live
	}
	return nil
}

// xml is the live definition as text.
func (l *life) xml() string {
	if s := l.shown.Load(); s != nil {
		return s.xml
	}
	return ""
}

// show replaces the live definition, for Recover first and then for everybody. It is not to be changed any more.
func (l *life) show(live *libvirtxml.Domain) error {
	text, err := printLive(live)
	if err != nil {
		return err
	}
	if err := l.put(liveName, []byte(text)); err != nil {
		return err
	}
	l.shown.Store(&shown{live, text})
	return nil
}

// put writes a file of a guest whose life has not ended.
func (l *life) put(name string, text []byte) error {
	l.files.Lock()
	defer l.files.Unlock()
	if l.removed {
		return errNotRunning
	}
	return l.folder.write(name, text)
}

// devices is what a life needs for changes of its devices.
type devices struct {
	// turn holds a token while somebody changes devices.
	turn chan struct{}
	// unsettled says that an intent may be left of a change that failed, overdue that devices may have gone unseen.
	unsettled, overdue atomic.Bool

	mu      sync.Mutex // guards waiting
	waiting map[string]chan guest.DeviceNews
}

func newDevices() devices {
	return devices{turn: make(chan struct{}, 1), waiting: map[string]chan guest.DeviceNews{}}
}

// talk sends commands to QEMU in one go, as guest.Query and qmp.Client.Batch do.
type talk func(ctx context.Context, cmds ...*qmp.Command) error

// tell sends one order.
func (t talk) tell(ctx context.Context, o cmdline.Order) error {
	return t(ctx, &qmp.Command{Name: o.Name, Args: o.Args})
}

// change is the right to change a guest's devices, with what that needs.
type change struct {
	driver *Driver
	life   *life
	guest  *guest.Guest
	talk   talk
}

// begin waits for the right to change a guest's devices. What an earlier change has left open is settled first.
func (d *Driver) begin(ctx context.Context, ref *pb.Guest) (*change, error) {
	l, g, err := d.living(ref)
	if err != nil {
		return nil, err
	}
	return d.beginWith(ctx, l, g)
}

// beginDevice is begin for a request that is about a device.
func (d *Driver) beginDevice(ctx context.Context, req interface {
	GetGuest() *pb.Guest
	GetDeviceXml() string
},
) (domxml.Device, *change, error) {
	dev, err := domxml.ParseDevice(req.GetDeviceXml())
	if err != nil {
		return domxml.Device{}, nil, err
	}
	c, err := d.begin(ctx, req.GetGuest())
	return dev, c, err
}

func (d *Driver) beginWith(ctx context.Context, l *life, g *guest.Guest) (*change, error) {
	select {
	case l.devices.turn <- struct{}{}:
	case <-g.Finished():
		return nil, errNotRunning
	case <-ctx.Done():
		return nil, verr.New(verr.OperationTimeout, "another change of the domain's devices is under way: %w", ctx.Err())
	}
	c := &change{driver: d, life: l, guest: g, talk: g.Query}
	if err := c.settle(ctx); err != nil {
		c.end(ctx)
		return nil, err
	}
	return c, nil
}

// settle does what an earlier change has left open.
func (c *change) settle(ctx context.Context) error {
	if !c.life.devices.unsettled.Load() {
		return nil
	}
	if err := c.life.settleIntent(ctx, c.talk); err != nil {
		return guest.Explain(ctx, "query", err)
	}
	return c.guest.SetFacts(ctx, facts(c.life.live()))
}

// end gives the right up, and looks for devices that have gone meanwhile.
func (c *change) end(ctx context.Context) {
	defer func() { <-c.life.devices.turn }()
	if !c.life.devices.overdue.Swap(false) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	c.look(ctx)
}

// look compares QEMU's devices with the live definition and tells of those that have gone by themselves.
func (c *change) look(ctx context.Context) {
	gone, err := c.life.dropMissing(ctx, c.talk)
	if err != nil {
		c.life.log.Warn("devices of guest not compared", "error", err)
	}
	if len(gone) == 0 {
		return
	}
	if err := c.guest.SetFacts(ctx, facts(c.life.live())); err != nil {
		c.life.log.Debug("guest has ended", "error", err)
	}
	c.driver.core.Publish(&pb.WatchEvent{Guest: c.life.ref, Change: removed(gone...), LiveXml: c.life.xml()})
}

// hear takes in news about a device: whoever waits for it is told, else it is looked into. It runs on the goroutine that owns the guest.
func (d *Driver) hear(l *life, g *guest.Guest, news guest.DeviceNews) {
	if l.devices.pass(news) {
		return
	}
	if news.Refused {
		d.publish(l, refused(news.Alias))
		return
	}
	l.devices.overdue.Store(true)
	g.Background(func(ctx context.Context) {
		c, err := d.beginWith(ctx, l, g)
		if err != nil {
			l.log.Debug("devices of guest are looked at later", "error", err)
			return
		}
		c.end(ctx)
	})
}

// pass hands news to who waits for it. News of any device is for everybody who waits.
func (v *devices) pass(news guest.DeviceNews) (waited bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for alias, w := range v.waiting {
		if news.Alias != alias && news.Alias != "" {
			continue
		}
		select {
		case w <- news:
			waited = news.Alias != ""
		default: // it has news enough
		}
	}
	return waited
}

// await has news about a device handed to a channel until forget is called.
func (v *devices) await(alias string) (news <-chan guest.DeviceNews, forget func()) {
	w := make(chan guest.DeviceNews, newsRoom)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.waiting[alias] = w
	return w, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.waiting, alias)
		if len(w) > 0 {
			v.overdue.Store(true) // it came too late for who waited
		}
	}
}

// added, removed and refused are the events about devices; one without an alias is not told.
func added(alias string) *pb.Change {
	if alias == "" {
		return &pb.Change{}
	}
	return &pb.Change{Events: []*pb.Event{{Event: &pb.Event_DeviceAdded{DeviceAdded: &pb.DeviceAddedEvent{Alias: alias}}}}}
}

func removed(aliases ...string) *pb.Change {
	change := &pb.Change{}
	for _, alias := range aliases {
		if alias != "" {
			e := &pb.Event{Event: &pb.Event_DeviceRemoved{DeviceRemoved: &pb.DeviceRemovedEvent{Alias: alias}}}
			change.Events = append(change.Events, e)
		}
	}
	return change
}

func refused(alias string) *pb.Change {
	e := &pb.Event_DeviceRemovalFailed{DeviceRemovalFailed: &pb.DeviceRemovalFailedEvent{Alias: alias}}
	return &pb.Change{Events: []*pb.Event{{Event: e}}}
}

// env is what the emulator of a living guest can do.
func (c *change) env(ctx context.Context) (define.Env, error) {
	b, err := c.driver.emulator(ctx, c.life.live())
	if err != nil {
		return define.Env{}, err
	}
	return c.driver.envs.of(b), nil
}

// plan is what is known of a change that the definition does not say.
func (c *change) plan(disks []*pb.Disk) cmdline.Plan {
	return cmdline.Plan{RuntimeDir: c.life.folder.path(ownName), Images: images{}, Secret: secretsOf(disks)}
}

// pass passes a point between two steps of a change, where a test may end the driver.
func (l *life) pass(ctx context.Context) error { return l.points.Hit(ctx, "device") }

// isRefusal reports whether QEMU has answered with an error, so that it has done nothing.
func isRefusal(err error) bool {
	var e *qmp.Error
	return errors.As(err, &e)
}
