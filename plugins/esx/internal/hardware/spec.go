package hardware

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/vim25/types"
	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vmx"
	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Parse reads a definition, completes it and refuses what ESX lacks.
func Parse(doc string) (*libvirtxml.Domain, error) {
	d, err := domxml.Parse(doc)
	if err != nil {
		return nil, err
	}
	// Completing names a boot device, which here would forbid all others.
	boots := d.OS != nil && len(d.OS.BootDevices) > 0
	if err := complete(d); err != nil {
		return nil, err
	}
	if !boots {
		d.OS.BootDevices = nil
	}
	return d, check(d)
}

// complete completes a domain whose name may have slashes, which ESX allows.
func complete(d *libvirtxml.Domain) error {
	name := d.Name
	d.Name = strings.ReplaceAll(name, "/", "|")
	err := domxml.Complete(d)
	d.Name = name
	return err
}

// entries are those of a device, or of a machine, by what comes after the device's key.
type entries map[string]string

// definition is a domain in the entries of a .vmx file.
type definition struct {
	machine entries
	// devices are by their keys.
	devices map[string]entries
}

// prefixes begin the keys of devices' entries.
var prefixes = []string{"scsi", "sata", "nvme", "ide", "floppy", "ethernet", "serial", "parallel"}

// define writes the entries of a domain. The domain is copied first, since writing changes it.
func define(d *libvirtxml.Domain) (definition, error) {
	text, err := domxml.Format(d)
	if err != nil {
		return definition{}, err
	}
	clone, err := domxml.Parse(text)
	if err != nil {
		return definition{}, err
	}
	clone.OS.BootDevices = nil
	f, err := vmx.NewFile(clone, vmx.Context{
		Names:     paths{},
		SCSIModel: func(*libvirtxml.DomainDisk) (string, error) { return "lsilogic", nil },
	})
	if err != nil {
		return definition{}, err
	}
	out := definition{machine: entries{}, devices: map[string]entries{}}
	for _, e := range f.Entries() {
		key, rest, ok := strings.Cut(e.Key, ".")
		if !ok || !slices.ContainsFunc(prefixes, func(p string) bool {
			number, ours := strings.CutPrefix(key, p)
			return ours && number != "" && number[0] >= '0' && number[0] <= '9'
		}) {
			out.machine[e.Key] = e.Value
			continue
		}
		if out.devices[key] == nil {
			out.devices[key] = entries{}
		}
		out.devices[key][rest] = e.Value
	}
	maps.DeleteFunc(out.devices, func(_ string, e entries) bool { return e["present"] != "true" })
	return out, nil
}

// Create makes the specification of a new machine.
func Create(d *libvirtxml.Domain) (*types.VirtualMachineConfigSpec, error) {
	want, err := define(d)
	if err != nil {
		return nil, err
	}
	spec := &types.VirtualMachineConfigSpec{
		Name: vmx.EscapeName(d.Name), Uuid: d.UUID, GuestId: guestID(want), Annotation: want.machine["annotation"],
	}
	if err := sizes(spec, want.machine); err != nil {
		return nil, err
	}
	firmware(spec, want.machine)
	for _, key := range extra {
		if value := want.machine[key]; value != "" {
			spec.ExtraConfig = append(spec.ExtraConfig, &types.OptionValue{Key: key, Value: value})
		}
	}
	p := &plan{spec: spec, controllers: map[string]int32{"ide0": ideKey, "ide1": ideKey + 1, "sio": sioKey}, next: -1}
	if err := p.apply(definition{}, want, nil); err != nil {
		return nil, err
	}
	if spec.BootOptions, err = bootOptions(d, p.all()); err != nil {
		return nil, err
	}
	secureBoot(spec, want.machine)
	return spec, nil
}

// Change makes the specification that turns a machine into what a domain says, nil if it is that already.
func Change(now *types.VirtualMachineConfigInfo, d *libvirtxml.Domain) (*types.VirtualMachineConfigSpec, error) {
	present, err := Domain(now, Context{})
	if err != nil {
		return nil, err
	}
	if err := complete(present); err != nil {
		return nil, err
	}
	have, err := define(present)
	if err != nil {
		return nil, err
	}
	want, err := define(d)
	if err != nil {
		return nil, err
	}
	spec := &types.VirtualMachineConfigSpec{ChangeVersion: now.ChangeVersion}
	changed, err := changeMachine(spec, have.machine, want.machine)
	if err != nil {
		return nil, err
	}
	if have.machine["guestOS"] != want.machine["guestOS"] {
		spec.GuestId, changed = guestID(want), true
	}
	p := &plan{spec: spec, now: now.Hardware.Device, controllers: map[string]int32{}, next: -1}
	for _, v := range now.Hardware.Device {
		if s, _, ok := controller(v); ok {
			key := s.bus + strconv.Itoa(int(s.number))
			if s.bus == "sio" {
				key = s.bus
			}
			p.controllers[key] = v.GetVirtualDevice().Key
		}
	}
	if err := p.apply(have, want, devices(now.Hardware.Device)); err != nil {
		return nil, err
	}
	boot, err := bootOptions(d, p.all())
	if err != nil {
		return nil, err
	}
	if boot != nil && !sameBoot(now.BootOptions, boot) {
		spec.BootOptions, changed = boot, true
	}
	if !changed && len(spec.DeviceChange) == 0 {
		return nil, nil
	}
	return spec, nil
}

// changeMachine takes over what differs beside the devices, and says whether something does.
func changeMachine(spec *types.VirtualMachineConfigSpec, have, want entries) (bool, error) {
	differs := func(keys ...string) bool {
		return slices.ContainsFunc(keys, func(k string) bool { return have[k] != want[k] })
	}
	changed := false
	if differs("memsize", "sched.mem.max", "sched.mem.minsize", "numvcpus", "cpuid.coresPerSocket", "sched.cpu.affinity", "sched.cpu.shares") {
		changed = true
		if err := sizes(spec, want); err != nil {
			return false, err
		}
		if have["sched.cpu.affinity"] != "" && want["sched.cpu.affinity"] == "" {
			spec.CpuAffinity = &types.VirtualMachineAffinityInfo{AffinitySet: []int32{}}
		}
	}
	if differs("firmware") {
		changed = true
		firmware(spec, want)
	}
	if differs("uefi.secureBoot.enabled") {
		changed = true
		spec.BootOptions = &types.VirtualMachineBootOptions{EfiSecureBootEnabled: types.NewBool(want["uefi.secureBoot.enabled"] == "true")}
	}
	if differs("annotation") {
		if want["annotation"] == "" {
			return false, verr.New(verr.ConfigUnsupported, "element <description>: ESX cannot make a description empty, put a space there")
		}
		spec.Annotation, changed = want["annotation"], true
	}
	for _, key := range extra {
		if differs(key) {
			spec.ExtraConfig = append(spec.ExtraConfig, &types.OptionValue{Key: key, Value: want[key]})
			changed = true
		}
	}
	return changed, nil
}

// guestID is the API's name for an unknown guest.
func guestID(d definition) string {
	if d.machine["guestOS"] == "other-64" {
		return string(types.VirtualMachineGuestOsIdentifierOtherGuest64)
	}
	return string(types.VirtualMachineGuestOsIdentifierOtherGuest)
}

// sizes takes over memory and CPUs.
func sizes(spec *types.VirtualMachineConfigSpec, e entries) error {
	number := func(key string, otherwise int64) int64 {
		n, err := strconv.ParseInt(e[key], 10, 64)
		if err != nil {
			return otherwise
		}
		return n
	}
	spec.MemoryMB = number("memsize", 0)
	limit, reservation := number("sched.mem.max", -1), number("sched.mem.minsize", 0)
	spec.MemoryAllocation = &types.ResourceAllocationInfo{Limit: &limit, Reservation: &reservation}
	spec.NumCPUs = int32(number("numvcpus", 1))
	spec.NumCoresPerSocket = types.NewInt32(int32(number("cpuid.coresPerSocket", 1)))
	if words := e["sched.cpu.affinity"]; words != "" {
		spec.CpuAffinity = &types.VirtualMachineAffinityInfo{}
		for word := range strings.SplitSeq(words, ",") {
			n, err := strconv.ParseInt(word, 10, 32)
			if err != nil {
				return verr.New(verr.Internal, "set of CPUs %q", words)
			}
			spec.CpuAffinity.AffinitySet = append(spec.CpuAffinity.AffinitySet, int32(n))
		}
	}
	if shares := e["sched.cpu.shares"]; shares != "" {
		spec.CpuAllocation = &types.ResourceAllocationInfo{Shares: sharesOf(shares)}
	}
	return nil
}

// sharesOf reads a level or a number of shares.
func sharesOf(text string) *types.SharesInfo {
	if n, err := strconv.ParseInt(text, 10, 32); err == nil {
		return &types.SharesInfo{Level: types.SharesLevelCustom, Shares: int32(n)}
	}
	return &types.SharesInfo{Level: types.SharesLevel(text)}
}

func firmware(spec *types.VirtualMachineConfigSpec, e entries) {
	spec.Firmware = string(types.GuestOsDescriptorFirmwareTypeBios)
	if e["firmware"] == "efi" {
		spec.Firmware = string(types.GuestOsDescriptorFirmwareTypeEfi)
	}
}

func secureBoot(spec *types.VirtualMachineConfigSpec, e entries) {
	if e["uefi.secureBoot.enabled"] != "true" {
		return
	}
	if spec.BootOptions == nil {
		spec.BootOptions = &types.VirtualMachineBootOptions{}
	}
	spec.BootOptions.EfiSecureBootEnabled = types.NewBool(true)
}

// Video makes the specification that gives a machine the video memory of a domain, nil if it has it.
func Video(now *types.VirtualMachineConfigInfo, d *libvirtxml.Domain) *types.VirtualMachineConfigSpec {
	if len(d.Devices.Videos) == 0 || d.Devices.Videos[0].Model.VRam == 0 {
		return nil
	}
	spec := &types.VirtualMachineConfigSpec{}
	p := &plan{spec: spec}
	want := entries{"svga.vramSize": strconv.FormatUint(uint64(d.Devices.Videos[0].Model.VRam)<<10, 10)}
	for _, v := range now.Hardware.Device {
		if card, ok := v.(*types.VirtualMachineVideoCard); ok {
			p.video(entries{"svga.vramSize": strconv.FormatInt(card.VideoRamSizeInKB<<10, 10)}, want, card)
		}
	}
	if len(spec.DeviceChange) == 0 {
		return nil
	}
	return spec
}
