package driver

import (
	"context"
	"os"
	"slices"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/cmdline"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/define"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/guest"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/tap"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// AttachDevice implements hypervisor.Devices. A controller that a device needs is plugged in before it, and stays whatever becomes of the
// device.
func (d *Driver) AttachDevice(ctx context.Context, req *pb.AttachDeviceRequest) (*pb.AttachDeviceResponse, error) {
	dev, c, err := d.beginDevice(ctx, req)
	if err != nil {
		return nil, err
	}
	defer c.end(ctx)
	locks, err := d.takeLocks(ctx, req.GetLeases())
	defer locks.close()
	if err != nil {
		return nil, err
	}
	c.life.know(req.GetDisks())
	if k, ok := dev.Value.(*libvirtxml.DomainDisk); ok {
		resolveVolume(k, req.GetDisks())
	}
	resp := &pb.AttachDeviceResponse{Change: &pb.Change{}}
	for {
		next, last, err := c.complete(ctx, dev)
		if err != nil {
			return nil, err
		}
		p := &plugging{change: c, dev: next, live: next.live, plan: c.plan(req.GetDisks())}
		if last {
			p.locks = locks
		}
		if err := p.run(ctx); err != nil {
			return nil, err
		}
		resp.Change.Events = append(resp.Change.Events, added(next.Alias()).GetEvents()...)
		if !last {
			continue
		}
		resp.LiveXml = c.life.xml()
		resp.DeviceXml, err = printDevice(next.Device)
		return resp, err
	}
}

// newDevice is a device in a copy of the live definition.
type newDevice struct {
	domxml.Device
	live *libvirtxml.Domain
}

// complete completes a device for the guest as it is. What it returns is the device, or a controller that it needs first.
func (c *change) complete(ctx context.Context, dev domxml.Device) (next newDevice, last bool, err error) {
	if err := checkCard(dev); err != nil {
		return next, false, err
	}
	env, err := c.env(ctx)
	if err != nil {
		return next, false, err
	}
	live := cmdline.Clone(c.life.live())
	news, err := define.Plug(live, dev, env)
	if err != nil {
		return next, false, err
	}
	if len(news) == 1 {
		return newDevice{news[0], live}, true, nil
	}
	first, err := domxml.AddDevice(&libvirtxml.DomainDeviceList{}, news[0])
	if err != nil {
		return next, false, err
	}
	live = cmdline.Clone(c.life.live())
	if news, err = define.Plug(live, first, env); err != nil {
		return next, false, err
	}
	return newDevice{news[0], live}, false, nil
}

// checkCard refuses a network card that a definition could not hold.
func checkCard(dev domxml.Device) error {
	alone := &libvirtxml.Domain{Devices: &libvirtxml.DomainDeviceList{}}
	if _, err := domxml.AddDevice(alone.Devices, dev); err != nil {
		return err
	}
	return checkTaps(alone)
}

// plugging is one device that is being plugged in.
type plugging struct {
	*change
	dev   newDevice
	live  *libvirtxml.Domain
	plan  cmdline.Plan
	locks locks
	tap   *os.File
	steps []cmdline.Step
}

// tapName is under which QEMU has the tap of a card until the card takes it.
const tapName = "lodge-tap"

func (p *plugging) run(ctx context.Context) error {
	if err := p.openTap(); err != nil {
		return err
	}
	if p.tap != nil {
		defer p.tap.Close()
	}
	var err error
	if p.steps, err = cmdline.Plug(p.live, p.dev.Device, p.plan); err != nil {
		return err
	}
	i, err := p.intend(ctx)
	if err != nil {
		p.life.takeBack(i.Given)
		return err
	}
	if err := p.orders(ctx); err != nil {
		return p.life.undo(ctx, p.talk, i, err)
	}
	if err := p.life.pass(ctx); err != nil {
		return err
	}
	if err := p.life.complete(ctx, p.talk, i); err != nil {
		// QEMU has it: whoever asks next goes on from here.
		return verr.New(verr.OperationFailed, "device '%s' was plugged in, and could not be noted: %w", i.Alias, err)
	}
	return p.guest.SetFacts(ctx, facts(p.life.live()))
}

// openTap opens the tap of an ethernet card.
func (p *plugging) openTap() error {
	n, ok := p.dev.Value.(*libvirtxml.DomainInterface)
	if !ok || n.Source == nil || n.Source.Ethernet == nil {
		return nil
	}
	cfg, err := tapOf(n)
	if err != nil {
		return err
	}
	file, name, err := tap.Open(cfg)
	if err != nil {
		return tapError(cfg, err)
	}
	if n.Target == nil {
		n.Target = &libvirtxml.DomainInterfaceTarget{}
	}
	n.Target.Dev, p.tap, p.plan.TapName = name, file, tapName
	return nil
}

// intend gives the device's files to the guest's user and notes the change. The intent is there with an error, too, as far as it came.
func (p *plugging) intend(ctx context.Context) (*intent, error) {
	i := &intent{Alias: p.dev.Alias(), Locks: p.locks.names(), User: lockUser(p.dev.Device)}
	for n := range p.steps {
		switch s := p.steps[n]; {
		case s.Do.Name == "device_add":
		case s.Undo.Name == "":
			i.Finish = append(i.Finish, s.Do)
		default:
			i.Undo = append(i.Undo, s.Undo)
		}
	}
	slices.Reverse(i.Undo)
	if p.tap != nil {
		i.Undo = append(i.Undo, cmdline.CloseFile(tapName))
	}
	var err error
	if i.Live, err = printLive(p.live); err != nil {
		return i, err
	}
	if k, ok := p.dev.Value.(*libvirtxml.DomainDisk); ok {
		if i.Given, err = p.give(k); err != nil {
			return i, err
		}
	}
	if err := p.life.pass(ctx); err != nil {
		return i, err
	}
	return i, i.write(p.life)
}

// give gives the files of a disk to the guest's user.
func (c *change) give(k *libvirtxml.DomainDisk) ([]target, error) {
	to, err := c.driver.labelOfLive(c.life.live())
	if err != nil {
		return nil, err
	}
	return c.life.giveFiles(to, diskTargets(k))
}

// orders tells QEMU everything up to the device itself.
func (p *plugging) orders(ctx context.Context) error {
	if err := p.locks.hand(ctx, p.change); err != nil {
		return err
	}
	if p.tap != nil {
		if err := p.sendFile(ctx, p.tap, tapName); err != nil {
			return err
		}
	}
	for _, s := range p.steps {
		if s.Undo.Name == "" {
			continue // once the device is there
		}
		if err := p.life.pass(ctx); err != nil {
			return err
		}
		if err := p.talk.tell(ctx, s.Do); err != nil {
			return guest.Explain(ctx, s.Do.Name, err)
		}
	}
	return nil
}

// sendFile sends QEMU a descriptor under a name. One that it has under the name is closed then.
func (c *change) sendFile(ctx context.Context, file *os.File, name string) error {
	if err := c.life.pass(ctx); err != nil {
		return err
	}
	err := c.guest.QueryWithFile(ctx, file, &qmp.Command{Name: "getfd", Args: map[string]string{"fdname": name}})
	if err != nil {
		return guest.Explain(ctx, "getfd", err)
	}
	return nil
}
