package domxml

import (
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// CheckStable compares two complete definitions and fails with ConfigUnsupported, naming the first difference, if a guest whose state was
// saved with the one cannot go on with the other: what the guest can see of its machine must be the same. Images, the host's side of
// network cards, consoles and displays, limits and descriptions may differ.
func CheckStable(before, after string) error {
	old, err := Parse(before)
	if err != nil {
		return err
	}
	changed, err := Parse(after)
	if err != nil {
		return err
	}
	for _, c := range []struct{ what, old, changed string }{
		{"domain virtualization type", old.Type, changed.Type},
		{"domain uuid", old.UUID, changed.UUID},
		{"domain name", old.Name, changed.Name},
	} {
		if c.old != c.changed {
			return verr.New(verr.ConfigUnsupported, "Target %s %s does not match source %s", c.what, c.changed, c.old)
		}
	}
	oldText, err := seen(old)
	if err != nil {
		return err
	}
	changedText, err := seen(changed)
	if err != nil {
		return err
	}
	return firstDifference(oldText, changedText)
}

// firstDifference names the first line in which two texts differ.
func firstDifference(before, after string) error {
	if before == after {
		return nil
	}
	old, changed := strings.Split(before, "\n"), strings.Split(after, "\n")
	for n := range max(len(old), len(changed)) {
		a, b := line(old, n), line(changed, n)
		if a != b {
			return verr.New(verr.ConfigUnsupported, "the saved guest has %s, and the definition %s: what the guest sees of its machine must stay as it is", a, b)
		}
	}
	return nil
}

func line(lines []string, n int) string {
	if n >= len(lines) {
		return "nothing more"
	}
	return strings.TrimSpace(lines[n])
}

// seen is a text of what a guest can see of its machine.
func seen(d *libvirtxml.Domain) (string, error) {
	d.ID, d.Title, d.Description, d.Metadata = nil, "", "", nil
	d.Resource, d.MemoryTune, d.BlockIOTune, d.CPUTune, d.NUMATune = nil, nil, nil, nil, nil
	d.MemoryBacking, d.CurrentMemory, d.SecLabel, d.Perf = nil, nil, nil, nil
	d.OnPoweroff, d.OnReboot, d.OnCrash = "", "", ""
	d.IOThreads, d.IOThreadIDs, d.DefaultIOThread = 0, nil, nil
	if d.VCPU != nil {
		d.VCPU.CPUSet, d.VCPU.Placement = "", ""
	}
	if d.OS != nil {
		d.OS.Kernel, d.OS.Initrd, d.OS.Cmdline, d.OS.DTB, d.OS.BootDevices = "", "", "", "", nil
		if d.OS.NVRam != nil {
			d.OS.NVRam = &libvirtxml.DomainNVRam{}
		}
	}
	if d.Devices != nil {
		seenDevices(d.Devices)
	}
	return Format(d)
}

// seenDevices leaves out the host's side of devices.
func seenDevices(list *libvirtxml.DomainDeviceList) {
	list.Emulator, list.Graphics, list.Audios, list.Leases = "", nil, nil, nil
	for i := range list.Disks {
		seenDisk(&list.Disks[i])
	}
	for i := range list.Interfaces {
		seenInterface(&list.Interfaces[i])
	}
	for i := range list.Filesystems {
		f := &list.Filesystems[i]
		f.Alias, f.Source, f.Binary, f.IDMap, f.Driver, f.AccessMode = nil, nil, nil, nil, nil, ""
		f.SpaceHardLimit, f.SpaceSoftLimit = nil, nil
	}
	for i := range list.RNGs {
		r := &list.RNGs[i]
		r.Alias, r.Backend, r.Rate = nil, nil, nil
	}
	for i := range list.TPMs {
		list.TPMs[i].Alias, list.TPMs[i].Backend = nil, nil
	}
	if list.VSock != nil {
		list.VSock.Alias, list.VSock.CID = nil, nil
	}
	seenCharacters(list)
}

// seenDisk leaves the target, the serial number and the like.
func seenDisk(d *libvirtxml.DomainDisk) {
	d.Alias, d.Driver, d.Auth, d.Source, d.BackingStore, d.Mirror = nil, nil, nil, nil, nil, nil
	d.IOTune, d.ThrottleFilters, d.Encryption, d.Boot, d.Shareable, d.Transient = nil, nil, nil, nil, nil, nil
	d.Snapshot, d.RawIO, d.SGIO = "", "", ""
	if d.Target != nil {
		d.Target.Tray = ""
	}
}

// seenInterface leaves the model, the address on the network and the like.
func seenInterface(n *libvirtxml.DomainInterface) {
	n.Alias, n.Source, n.Target, n.Script, n.DownScript, n.BackendDomain = nil, nil, nil, nil, nil, nil
	n.IP, n.Route, n.PortForward, n.VLan, n.VirtualPort, n.Guest, n.Backend = nil, nil, nil, nil, nil, nil, nil
	n.FilterRef, n.Tune, n.Link, n.Bandwidth, n.PortOptions, n.Coalesce, n.Boot = nil, nil, nil, nil, nil, nil, nil
	n.Managed, n.TrustGuestRXFilters = "", ""
}

// seenCharacters leaves what character devices are in the guest, and forgets what they are connected to.
func seenCharacters(list *libvirtxml.DomainDeviceList) {
	for i := range list.Serials {
		c := &list.Serials[i]
		c.Alias, c.Source, c.Protocol, c.Log = nil, nil, nil, nil
	}
	for i := range list.Parallels {
		c := &list.Parallels[i]
		c.Alias, c.Source, c.Protocol, c.Log = nil, nil, nil, nil
	}
	for i := range list.Consoles {
		c := &list.Consoles[i]
		c.Alias, c.Source, c.Protocol, c.Log, c.TTY = nil, nil, nil, nil, ""
	}
	for i := range list.Channels {
		c := &list.Channels[i]
		c.Alias, c.Source, c.Protocol, c.Log = nil, nil, nil, nil
		if c.Target != nil && c.Target.VirtIO != nil {
			c.Target.VirtIO.State = ""
		}
	}
	for i := range list.RedirDevs {
		c := &list.RedirDevs[i]
		c.Alias, c.Source, c.Protocol, c.Boot = nil, nil, nil, nil
	}
}
