package domain

import (
	"context"
	"slices"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// deviceChange is one change of a domain's devices.
type deviceChange struct {
	// edit makes it in a definition.
	edit func(*libvirtxml.Domain) error
	// plan says what is to be asked of the driver, given the live definition.
	plan func(live *libvirtxml.Domain) (*deviceCall, error)
}

// deviceCall is what is to be asked of a driver.
type deviceCall struct {
	// opens is the device whose image is to be opened and whose locks are needed, if it is one that may have some.
	opens domxml.Device
	// ask makes the call.
	ask func(context.Context, *deviceContext) (*deviceAnswer, error)
	// happened reports whether a live definition is one after the change.
	happened func(*libvirtxml.Domain) bool
}

// deviceContext is what a call is made with.
type deviceContext struct {
	client pb.DeviceServiceClient
	guest  *pb.Guest
	handle *pb.Handle
	live   string
	leases []*pb.Lease
	disks  []*pb.Disk
}

// deviceAnswer is what a driver has made of it; the live definition is empty if it is the same.
type deviceAnswer struct {
	change *pb.Change
	live   string
}

// changeDevice makes a change in the definition, in the living guest, or in both.
func (d *Domain) changeDevice(ctx context.Context, what string, flags uint32, c deviceChange) error {
	j, err := d.begin(ctx, what)
	if err != nil {
		return err
	}
	defer j.end()
	live, lasting, err := d.state.Load().impact(flags)
	if err != nil {
		return err
	}
	var config *newConfig
	if lasting {
		if config, err = j.editConfig(c.edit); err != nil {
			return err
		}
	}
	if !live {
		s := *d.state.Load()
		return j.keep(&s, "", config)
	}
	s, err := j.living(d.inv.driver)
	if err != nil {
		return err
	}
	return j.alter(s, c, config)
}

// newConfig is a definition that is to be the one that outlives the guest; nil is none.
type newConfig struct{ *pb.ValidateResponse }

// editConfig edits the definition and has the driver check what comes of it. Nothing is stored.
func (j *job) editConfig(edit func(*libvirtxml.Domain) error) (*newConfig, error) {
	i := j.d.inv
	text, err := j.d.text(j.d.state.Load(), false)
	if err != nil {
		return nil, err
	}
	def, err := parseWithDevices(text)
	if err != nil {
		return nil, err
	}
	if err := edit(def); err != nil {
		return nil, err
	}
	edited, err := domxml.Format(def)
	if err != nil {
		return nil, err
	}
	action, err := domxml.OnLockFailure(text)
	if err != nil {
		return nil, err
	}
	if edited, err = domxml.SetOnLockFailure(edited, action); err != nil {
		return nil, err
	}
	rsp, _, err := i.validate(j.ctx, edited, false)
	if err != nil {
		return nil, err
	}
	return &newConfig{rsp}, nil
}

// describe puts what a new definition says into a state.
func (c *newConfig) describe(s *state) {
	switch {
	case c == nil:
	case s.phase == catalog.Inactive:
		s.describe(c.Summary)
	default:
		s.Updated = true
		s.hasSecrets = s.hasSecrets || c.Summary.GetHasSecrets()
	}
}

// put writes it.
func (c *newConfig) put(tx *catalog.Tx, d *Domain) error {
	if c == nil {
		return nil
	}
	return tx.PutConfig(d.inv.cfg.URI, d.uuid, c.Xml)
}

// parseWithDevices reads a definition, which then has a list of devices.
func parseWithDevices(text string) (*libvirtxml.Domain, error) {
	def, err := domxml.Parse(text)
	if err == nil && def.Devices == nil {
		def.Devices = &libvirtxml.DomainDeviceList{}
	}
	return def, err
}

// alter makes a change in a living guest. Its locks are taken before the driver is asked; what the answer or, without one, the live
// definition that the driver then brings does not need is freed.
func (j *job) alter(now *state, c deviceChange, config *newConfig) error {
	s := *now
	text, err := j.d.text(&s, true)
	if err != nil {
		return err
	}
	live, err := parseWithDevices(text)
	if err != nil {
		return err
	}
	present := inUse(s.volumes, live)
	call, err := c.plan(live)
	if err != nil {
		return err
	}
	o, wants, err := j.openDevice(&s, call.opens, present)
	if err != nil {
		return err
	}
	held, err := j.leaseMore(&s, wants)
	if err != nil {
		return err
	}
	if s.PID == 0 {
		j.d.leases = append(j.d.leases, held...) // closed by tidy if it comes to nothing
	} else {
		defer closeAll(held)
	}
	answer, err := j.ask(&s, call, &deviceContext{live: text, disks: o.disks}, held)
	if err == nil {
		return j.applyWith(answer.change, answer.live, config)
	}
	return j.findOut(call, config, err)
}

// openDevice finds out what a driver needs to open a device's image, and what of it is to be locked. What a volume stands for is on disk
// before the driver is asked; what is in use is taken as it is.
func (j *job) openDevice(s *state, dev domxml.Device, present []catalog.DiskVolume) (*opening, Wants, error) {
	if dev.Value == nil {
		return &opening{}, Wants{}, nil
	}
	alone := &libvirtxml.Domain{Devices: &libvirtxml.DomainDeviceList{}}
	if err := addCopy(alone.Devices, dev); err != nil {
		return nil, Wants{}, err
	}
	o, err := j.d.inv.open(j.ctx, alone, present)
	if err != nil {
		return nil, Wants{}, err
	}
	wants := lockedBy(alone)
	for n := range o.volumes {
		v := &o.volumes[n]
		if slices.ContainsFunc(present, func(p catalog.DiskVolume) bool { return p.Names(v) }) {
			continue
		}
		s.volumes = append(slices.DeleteFunc(slices.Clone(s.volumes), func(old catalog.DiskVolume) bool { return old.Names(v) }), *v)
		if err := j.save(s, nil); err != nil {
			return nil, Wants{}, err
		}
	}
	return o, wants, nil
}

// addCopy adds a copy of a device to a list that may be changed without changing the device.
func addCopy(list *libvirtxml.DomainDeviceList, dev domxml.Device) error {
	text, err := dev.XML()
	if err != nil {
		return err
	}
	own, err := domxml.ParseDevice(text)
	if err != nil {
		return err
	}
	_, err = domxml.AddDevice(list, own)
	return err
}

// ask hands the driver the locks and asks it. One that is restarted in between is handed them in its turn.
func (j *job) ask(s *state, call *deviceCall, with *deviceContext, held []HeldLock) (answer *deviceAnswer, err error) {
	i := j.d.inv
	with.client, with.guest, with.handle = pb.NewDeviceServiceClient(i.cfg.Plugin), s.guest(i.cfg.Connection), s.handle
	for range maxHandings {
		incarnation := i.cfg.Incarnation()
		if with.leases, err = j.hand(held); err != nil {
			continue
		}
		answer, err = call.ask(j.ctx, with)
		if err == nil || outcomeOf(err) != refused || incarnation == i.cfg.Incarnation() {
			break
		}
	}
	return answer, err
}

// findOut learns what became of a call that has failed, by the live definition that Recover brings. A change that has happened is a
// success.
func (j *job) findOut(call *deviceCall, config *newConfig, cause error) error {
	d := j.d
	if neverSent(cause) {
		s := *d.state.Load()
		j.tidy(&s)
		return cause
	}
	if err := j.recover(d.inv.driver); err != nil || d.state.Load().Unknown {
		return verr.New(verr.OperationFailed, "%s of domain '%s': %w; whether it happened is not known", j.what, d.View().Name, cause)
	}
	s := *d.state.Load()
	if s.phase != catalog.Active {
		return cause
	}
	text, err := d.text(&s, true)
	if err != nil {
		return err
	}
	live, err := parseWithDevices(text)
	if err != nil {
		return err
	}
	if !call.happened(live) {
		return cause
	}
	d.inv.cfg.Log.Debug("change of a device has happened although its call failed", "guest", s.Name, "gen", s.Generation, "error", cause)
	return j.keep(&s, "", config)
}

// tellDevices adds events for devices that are in only one of a guest's live definitions, before and after a recovery, to a change that does
// not tell of them. An empty definition is one that has not changed.
func tellDevices(change *pb.Change, before, after string) *pb.Change {
	if after == "" {
		return change
	}
	had, has := aliases(before), aliases(after)
	told := &pb.Change{State: change.GetState(), Reason: change.GetReason(), Events: slices.Clone(change.GetEvents())}
	knows := func(alias string) bool {
		return slices.ContainsFunc(change.GetEvents(), func(e *pb.Event) bool {
			return e.GetDeviceAdded().GetAlias() == alias || e.GetDeviceRemoved().GetAlias() == alias
		})
	}
	for _, alias := range had {
		if !slices.Contains(has, alias) && !knows(alias) {
			told.Events = append(told.Events, &pb.Event{Event: &pb.Event_DeviceRemoved{DeviceRemoved: &pb.DeviceRemovedEvent{Alias: alias}}})
		}
	}
	for _, alias := range has {
		if !slices.Contains(had, alias) && !knows(alias) {
			told.Events = append(told.Events, &pb.Event{Event: &pb.Event_DeviceAdded{DeviceAdded: &pb.DeviceAddedEvent{Alias: alias}}})
		}
	}
	return told
}

// aliases are the names of a live definition's devices.
func aliases(live string) []string {
	def, err := domxml.Parse(live)
	if err != nil {
		return nil
	}
	var names []string
	for _, d := range domxml.Devices(def.Devices) {
		if a := d.Alias(); a != "" {
			names = append(names, a)
		}
	}
	return names
}
