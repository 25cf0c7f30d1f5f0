package driver

import (
	"context"
	"slices"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/cmdline"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/guest"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// How long a guest that has locked its tray is waited for, and how often it is looked at.
const (
	trayTime  = 10 * time.Second
	trayPause = 100 * time.Millisecond
	// trayTries is how often a tray is opened that the guest, or its firmware, closes before the medium is changed.
	trayTries = 5
)

// UpdateDevice implements hypervisor.Devices: the media of drives, and the links of network cards.
func (d *Driver) UpdateDevice(ctx context.Context, req *pb.UpdateDeviceRequest) (*pb.UpdateDeviceResponse, error) {
	dev, c, err := d.beginDevice(ctx, req)
	if err != nil {
		return nil, err
	}
	defer c.end(ctx)
	c.life.know(req.GetDisks())
	if k, ok := dev.Value.(*libvirtxml.DomainDisk); ok {
		resolveVolume(k, req.GetDisks())
	}
	live := cmdline.Clone(c.life.live())
	present, err := domxml.FindDevice(live.Devices, dev)
	if err != nil {
		return nil, err
	}
	u := &updating{change: c, live: live, present: present, want: dev, req: req}
	resp := &pb.UpdateDeviceResponse{Change: &pb.Change{}}
	switch dev.Kind {
	case "disk":
		resp.Change, err = u.disk(ctx)
	case "interface":
		err = u.link(ctx)
	default:
		err = verr.New(verr.OperationUnsupported, "live update of device '%s' is not supported", dev.Kind)
	}
	if err != nil {
		return nil, err
	}
	if err := c.guest.SetFacts(ctx, facts(c.life.live())); err != nil {
		return nil, err
	}
	resp.LiveXml = c.life.xml()
	resp.DeviceXml, err = printDevice(present)
	return resp, err
}

// updating is one device that is being changed.
type updating struct {
	*change
	live *libvirtxml.Domain
	// present is the device in a copy of the live definition, which becomes what is wanted.
	present, want domxml.Device
	req           *pb.UpdateDeviceRequest
}

// link plugs the cable of a network card in or out.
func (u *updating) link(ctx context.Context) error {
	if field := domxml.Difference(u.want, u.present, "link"); field != "" {
		return verr.New(verr.OperationUnsupported, "cannot modify field '%s' of the network interface", field)
	}
	have, want := u.present.Value.(*libvirtxml.DomainInterface), u.want.Value.(*libvirtxml.DomainInterface)
	have.Link = want.Link
	up := want.Link == nil || want.Link.State != "down"
	i := &intent{Alias: u.present.Alias(), Finish: []cmdline.Order{cmdline.SetLink(u.present.Alias(), up)}}
	var err error
	if i.Live, err = printLive(u.live); err != nil {
		return err
	}
	if err := i.write(u.life); err != nil {
		return err
	}
	if err := u.life.pass(ctx); err != nil {
		return err
	}
	if err := u.life.complete(ctx, u.talk, i); err != nil {
		return guest.Explain(ctx, "set_link", err)
	}
	return nil
}

// disk changes the medium of a drive.
func (u *updating) disk(ctx context.Context) (*pb.Change, error) {
	drive, want := u.present.Value.(*libvirtxml.DomainDisk), u.want.Value.(*libvirtxml.DomainDisk)
	if field := domxml.Difference(u.want, u.present, "source", "driver", "backingStore", "mirror", "auth", "encryption"); field != "" {
		return nil, verr.New(verr.OperationUnsupported, "cannot modify field '%s' of the disk", field)
	}
	before, after := sourceName(drive.Source), sourceName(want.Source)
	same := domxml.SameSource(drive.Source, want.Source)
	switch {
	case drive.Device != "cdrom" && drive.Device != "floppy":
		if !same {
			return nil, verr.New(verr.OperationUnsupported, "cannot modify field 'source' of the disk")
		}
		return &pb.Change{}, nil
	case same:
		return &pb.Change{}, nil
	}
	m, err := u.medium(drive, want)
	if err != nil {
		return nil, err
	}
	if err := m.run(ctx); err != nil {
		return nil, err
	}
	return &pb.Change{Events: []*pb.Event{{Event: &pb.Event_DiskChange{DiskChange: &pb.DiskChangeEvent{
		Alias: u.present.Alias(), OldPath: before, NewPath: after,
	}}}}}, nil
}

// sourceName is the path of an image, or the name of one that is elsewhere, as events tell it.
func sourceName(s *libvirtxml.DomainDiskSource) string {
	if path := domxml.SourcePath(s); path != "" || s == nil || s.Network == nil {
		return path
	}
	return s.Network.Name
}

// medium is the change of a drive's medium.
type medium struct {
	*updating
	intent *intent
	locks  locks
	steps  []cmdline.Step
	drive  *libvirtxml.DomainDisk
}

// medium turns the drive into what it will be, and prepares the way there.
func (u *updating) medium(drive, want *libvirtxml.DomainDisk) (*medium, error) {
	m := &medium{updating: u, drive: drive, intent: &intent{
		Alias: u.present.Alias(), Medium: true, Old: cmdline.TopNode(drive), Drop: cmdline.MediumDel(drive), Back: diskTargets(drive),
		User: u.present.Alias(),
	}}
	drive.Source, drive.BackingStore, drive.Auth, drive.Encryption = nil, nil, nil, nil
	if !domxml.HasSource(want.Source) {
		return m, nil
	}
	drive.Source, drive.BackingStore, drive.Auth, drive.Encryption = want.Source, want.BackingStore, want.Auth, want.Encryption
	drive.Source.Index = 0
	if drive.Driver == nil {
		drive.Driver = &libvirtxml.DomainDiskDriver{Name: "qemu"}
	}
	drive.Driver.Type = "raw"
	if want.Driver != nil && want.Driver.Type != "" {
		drive.Driver.Type = want.Driver.Type
	}
	var err error
	if m.steps, err = cmdline.Medium(u.life.live(), drive, u.plan(u.req.GetDisks())); err != nil {
		return nil, err
	}
	for _, s := range m.steps {
		m.intent.Undo = append(m.intent.Undo, s.Undo)
	}
	slices.Reverse(m.intent.Undo)
	m.intent.New = cmdline.TopNode(drive)
	return m, nil
}

func (m *medium) run(ctx context.Context) error {
	var err error
	m.locks, err = m.driver.takeLocks(ctx, m.req.GetLeases())
	defer m.locks.close()
	if err == nil {
		err = m.intend()
	}
	if err != nil {
		m.life.takeBack(m.intent.Given)
		return err
	}
	if err := m.orders(ctx); err != nil {
		return m.life.undo(ctx, m.talk, m.intent, err)
	}
	if err := m.life.pass(ctx); err != nil {
		return err
	}
	if err := m.life.complete(ctx, m.talk, m.intent); err != nil {
		return verr.New(verr.OperationFailed, "medium of '%s' was changed, and could not be noted: %w", m.intent.Alias, err)
	}
	return nil
}

// intend gives the new medium to the guest's user and notes the change.
func (m *medium) intend() error {
	i := m.intent
	i.Locks = m.locks.names()
	i.Finish = []cmdline.Order{cmdline.CloseTray(i.Alias)}
	var err error
	if i.Live, err = printLive(m.live); err != nil {
		return err
	}
	if i.Given, err = m.give(m.drive); err != nil {
		return err
	}
	return i.write(m.life)
}

// orders opens the new medium, then the tray, and changes the media.
func (m *medium) orders(ctx context.Context) error {
	if err := m.locks.hand(ctx, m.change); err != nil {
		return err
	}
	var list []cmdline.Order
	for _, s := range m.steps {
		list = append(list, s.Do)
	}
	if err := m.tell(ctx, list...); err != nil {
		return err
	}
	for try := 1; ; try++ {
		err := m.exchange(ctx)
		if err == nil || try == trayTries || !isRefusal(err) {
			return err
		}
		drive, lookErr := lookAtDrive(ctx, m.talk, m.intent.Alias)
		if lookErr != nil || drive.open {
			return err
		}
	}
}

// exchange opens the tray and changes what is in it. It may be repeated.
func (m *medium) exchange(ctx context.Context) error {
	i := m.intent
	if err := m.tell(ctx, cmdline.OpenTray(i.Alias, m.req.GetForce())); err != nil {
		return err
	}
	drive, err := m.awaitTray(ctx)
	if err != nil {
		return err
	}
	var list []cmdline.Order
	if i.Old != "" && drive.node == i.Old {
		list = append(list, cmdline.RemoveMedium(i.Alias))
	}
	if i.New != "" {
		list = append(list, cmdline.InsertMedium(i.Alias, i.New))
	}
	return m.tell(ctx, list...)
}

func (m *medium) tell(ctx context.Context, orders ...cmdline.Order) error {
	for _, o := range orders {
		if err := m.life.pass(ctx); err != nil {
			return err
		}
		if err := m.talk.tell(ctx, o); err != nil {
			return guest.Explain(ctx, o.Name, err)
		}
	}
	return nil
}

// awaitTray waits for a guest that was asked to open its tray, and returns the drive as it is then.
func (m *medium) awaitTray(ctx context.Context) (driveState, error) {
	late := time.NewTimer(trayTime)
	defer late.Stop()
	for {
		drive, err := lookAtDrive(ctx, m.talk, m.intent.Alias)
		if err != nil {
			return driveState{}, guest.Explain(ctx, "query-block", err)
		}
		if drive.open {
			return drive, nil
		}
		pause := time.Duration(0)
		if drive.locked {
			pause = trayPause
		} else if err := m.tell(ctx, cmdline.OpenTray(m.intent.Alias, m.req.GetForce())); err != nil { // it was closed again
			return driveState{}, err
		}
		select {
		case <-late.C:
			return driveState{}, verr.New(verr.OperationFailed, "timed out waiting to open tray of '%s': the guest has locked it", m.drive.Target.Dev)
		case <-ctx.Done():
			return driveState{}, verr.New(verr.OperationTimeout, "wait for tray of '%s': %w", m.drive.Target.Dev, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// driveState is what QEMU says of a drive.
type driveState struct {
	// node is the block node of the medium, or empty.
	node string
	// open says that the tray is, or that there is none; locked that the guest has locked it.
	open, locked bool
}

func lookAtDrive(ctx context.Context, t talk, alias string) (driveState, error) {
	var list []struct {
		QDev     string `json:"qdev"`
		Locked   bool   `json:"locked"`
		TrayOpen *bool  `json:"tray_open"`
		Inserted *struct {
			Node string `json:"node-name"`
		} `json:"inserted"`
	}
	if err := t(ctx, &qmp.Command{Name: "query-block", Reply: &list}); err != nil {
		return driveState{}, err
	}
	for _, b := range list {
		if !isDevice(b.QDev, alias) {
			continue
		}
		state := driveState{open: b.TrayOpen == nil || *b.TrayOpen, locked: b.Locked}
		if b.Inserted != nil {
			state.node = b.Inserted.Node
		}
		return state, nil
	}
	return driveState{}, verr.New(verr.OperationFailed, "QEMU knows no drive '%s'", alias)
}

// insertWhatIsOpen finds out whether a drive has its new medium. One that has lost the old one gets the new one now.
func (l *life) insertWhatIsOpen(ctx context.Context, t talk, i *intent) (happened bool, err error) {
	drive, err := lookAtDrive(ctx, t, i.Alias)
	if err != nil || drive.node == i.New {
		return err == nil, err
	}
	if drive.node == i.Old {
		return false, nil
	}
	err = insert(ctx, t, i.Alias, i.New)
	if err == nil {
		return true, nil
	}
	if !isRefusal(err) {
		return false, err
	}
	return false, insert(ctx, t, i.Alias, i.Old)
}

// insert puts a medium into an empty drive, whose tray is opened if the guest has closed it.
func insert(ctx context.Context, t talk, alias, node string) error {
	for try := 1; ; try++ {
		err := t.tell(ctx, cmdline.InsertMedium(alias, node))
		if err == nil || try == trayTries || !isRefusal(err) {
			return err
		}
		drive, lookErr := lookAtDrive(ctx, t, alias)
		if lookErr != nil || drive.open {
			return err
		}
		// There is nothing in the drive that a guest could use.
		if openErr := t.tell(ctx, cmdline.OpenTray(alias, true)); openErr != nil {
			return err
		}
	}
}
