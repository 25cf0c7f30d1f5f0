package hardware

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// plan collects changes of devices.
type plan struct {
	spec *types.VirtualMachineConfigSpec
	now  []types.BaseVirtualDevice
	// controllers are the keys of controllers by "scsi0", "ide1", "sio".
	controllers map[string]int32
	// next is the key for the next new device: below 0, as the API wants it.
	next int32
}

// add plans a new device, edit a change of one, and remove the end of one, whose files stay.
func (p *plan) add(v types.BaseVirtualDevice) { p.change(types.VirtualDeviceConfigSpecOperationAdd, v) }

func (p *plan) edit(v types.BaseVirtualDevice) {
	p.change(types.VirtualDeviceConfigSpecOperationEdit, v)
}

func (p *plan) remove(v types.BaseVirtualDevice) {
	p.change(types.VirtualDeviceConfigSpecOperationRemove, v)
}

func (p *plan) change(operation types.VirtualDeviceConfigSpecOperation, v types.BaseVirtualDevice) {
	p.spec.DeviceChange = append(p.spec.DeviceChange, &types.VirtualDeviceConfigSpec{Operation: operation, Device: v})
}

// key is the key for a new device.
func (p *plan) key() int32 {
	p.next--
	return p.next
}

// all are the devices that the machine will have.
func (p *plan) all() []types.BaseVirtualDevice {
	left := slices.Clone(p.now)
	for _, c := range p.spec.DeviceChange {
		change := c.GetVirtualDeviceConfigSpec()
		key := change.Device.GetVirtualDevice().Key
		left = slices.DeleteFunc(left, func(v types.BaseVirtualDevice) bool { return v.GetVirtualDevice().Key == key })
		if change.Operation != types.VirtualDeviceConfigSpecOperationRemove {
			left = append(left, change.Device)
		}
	}
	return left
}

// apply plans what leads from one definition to another: first what goes, then controllers, then the rest.
func (p *plan) apply(have, want definition, present []device) error {
	real := map[string]types.BaseVirtualDevice{}
	for _, d := range present {
		real[d.key] = d.real
	}
	matchCards(have, want, real)
	for _, key := range slices.Sorted(maps.Keys(have.devices)) {
		if want.devices[key] == nil && real[key] != nil && !isController(key) {
			p.remove(real[key])
		}
	}
	for _, key := range slices.Sorted(maps.Keys(want.devices)) {
		if !isController(key) {
			continue
		}
		if err := p.controller(key, have.devices[key], want.devices[key]); err != nil {
			return err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(want.devices)) {
		if isController(key) || have.devices[key] != nil && maps.Equal(have.devices[key], want.devices[key]) {
			continue
		}
		if err := p.device(key, want.devices[key], real[key]); err != nil {
			return err
		}
	}
	p.video(have.machine, want.machine, real["svga"])
	return nil
}

// isController says whether a key is a controller's: "scsi0".
func isController(key string) bool {
	return !strings.Contains(key, ":") && slices.ContainsFunc([]string{"scsi", "sata", "nvme"}, func(p string) bool {
		return strings.HasPrefix(key, p)
	})
}

// matchCards gives network cards that are the same by their MAC address the same key on both sides.
func matchCards(have, want definition, real map[string]types.BaseVirtualDevice) {
	const prefix = "ethernet"
	old := map[string]string{}
	for key, e := range have.devices {
		if strings.HasPrefix(key, prefix) {
			old[macOf(e)] = key
		}
	}
	renamed := map[string]entries{}
	for _, key := range slices.Sorted(maps.Keys(want.devices)) {
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		e := want.devices[key]
		delete(want.devices, key)
		to, known := old[macOf(e)]
		if !known || macOf(e) == "" {
			to = "new-" + key
		}
		delete(old, macOf(e))
		renamed[to] = e
	}
	maps.Copy(want.devices, renamed)
}

// controller plans a controller that is missing.
func (p *plan) controller(key string, have, want entries) error {
	model := want["virtualDev"]
	if _, there := p.controllers[key]; there {
		if model != "" && have != nil && have["virtualDev"] != model {
			return verr.New(verr.ConfigUnsupported, "element <controller>: the model of SCSI controller %s cannot be changed from '%s' to '%s'; "+
				"put the disks on another controller", strings.TrimPrefix(key, "scsi"), have["virtualDev"], model)
		}
		return nil
	}
	number, err := strconv.ParseInt(strings.TrimLeft(key, "acdeimnstv"), 10, 32)
	if err != nil {
		return verr.New(verr.Internal, "controller %q: %w", key, err)
	}
	c := types.VirtualController{VirtualDevice: types.VirtualDevice{Key: p.key()}, BusNumber: int32(number)}
	p.controllers[key] = c.Key
	scsi := types.VirtualSCSIController{VirtualController: c, SharedBus: types.VirtualSCSISharingNoSharing}
	switch {
	case strings.HasPrefix(key, "sata"):
		p.add(&types.VirtualAHCIController{VirtualSATAController: types.VirtualSATAController{VirtualController: c}})
	case strings.HasPrefix(key, "nvme"):
		p.add(&types.VirtualNVMEController{VirtualController: c})
	case model == "buslogic":
		p.add(&types.VirtualBusLogicController{VirtualSCSIController: scsi})
	case model == "lsisas1068":
		p.add(&types.VirtualLsiLogicSASController{VirtualSCSIController: scsi})
	case model == "pvscsi":
		p.add(&types.ParaVirtualSCSIController{VirtualSCSIController: scsi})
	default:
		p.add(&types.VirtualLsiLogicController{VirtualSCSIController: scsi})
	}
	return nil
}

// device plans a device that is new or different.
func (p *plan) device(key string, e entries, present types.BaseVirtualDevice) error {
	made, err := p.make(key, e)
	if err != nil {
		return err
	}
	if present == nil {
		p.add(made)
		return nil
	}
	if !sameKind(present, made) {
		p.remove(present)
		p.add(made)
		return nil
	}
	v, old := made.GetVirtualDevice(), present.GetVirtualDevice()
	v.Key, v.ControllerKey, v.UnitNumber = old.Key, old.ControllerKey, old.UnitNumber
	switch present := present.(type) {
	case *types.VirtualDisk:
		changed := *present
		changed.Backing = remode(present.Backing, v.Backing.(*types.VirtualDiskFlatVer2BackingInfo))
		made = &changed
	case *types.VirtualCdrom, *types.VirtualFloppy: // another medium is connected, whatever the one before was
	default:
		if old.Connectable != nil {
			v.Connectable = old.Connectable
		}
	}
	p.edit(made)
	return nil
}

// remode is the backing of a disk, of whatever kind, with another mode.
func remode(have types.BaseVirtualDeviceBackingInfo, want *types.VirtualDiskFlatVer2BackingInfo) types.BaseVirtualDeviceBackingInfo {
	switch b := have.(type) {
	case *types.VirtualDiskFlatVer2BackingInfo:
		changed := *b
		changed.DiskMode, changed.WriteThrough = want.DiskMode, want.WriteThrough
		return &changed
	case *types.VirtualDiskSparseVer2BackingInfo:
		changed := *b
		changed.DiskMode, changed.WriteThrough = want.DiskMode, want.WriteThrough
		return &changed
	case *types.VirtualDiskSeSparseBackingInfo:
		changed := *b
		changed.DiskMode, changed.WriteThrough = want.DiskMode, want.WriteThrough
		return &changed
	case *types.VirtualDiskRawDiskMappingVer1BackingInfo:
		changed := *b
		changed.DiskMode = want.DiskMode
		return &changed
	}
	return want
}

// sameKind says whether a device can become another by an edit. A disk with another image is another disk.
func sameKind(a, b types.BaseVirtualDevice) bool {
	switch a := a.(type) {
	case *types.VirtualDisk:
		b, ok := b.(*types.VirtualDisk)
		return ok && fileName(a.Backing) == fileName(b.Backing)
	case *types.VirtualCdrom:
		_, ok := b.(*types.VirtualCdrom)
		return ok
	case types.BaseVirtualEthernetCard:
		c, ok := b.(types.BaseVirtualEthernetCard)
		return ok && slices.IndexFunc(cards, func(x card) bool { return x.is(a) }) == slices.IndexFunc(cards, func(x card) bool { return x.is(c) })
	case *types.VirtualFloppy:
		_, ok := b.(*types.VirtualFloppy)
		return ok
	case *types.VirtualSerialPort:
		_, ok := b.(*types.VirtualSerialPort)
		return ok
	case *types.VirtualParallelPort:
		_, ok := b.(*types.VirtualParallelPort)
		return ok
	}
	return false
}

// video plans another size of the video memory, where the machine has a card.
func (p *plan) video(have, want entries, present types.BaseVirtualDevice) {
	video, ok := present.(*types.VirtualMachineVideoCard)
	if !ok || want["svga.vramSize"] == "" || have["svga.vramSize"] == want["svga.vramSize"] {
		return
	}
	bytes, err := strconv.ParseInt(want["svga.vramSize"], 10, 64)
	if err != nil {
		return
	}
	changed := *video
	changed.VideoRamSizeInKB, changed.UseAutoDetect = bytes>>10, types.NewBool(false)
	p.edit(&changed)
}
