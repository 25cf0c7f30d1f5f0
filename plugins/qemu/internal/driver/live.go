package driver

import (
	"context"
	"fmt"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/cmdline"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/guest"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
)

// chardev is one answer of query-chardev.
type chardev struct {
	Label    string `json:"label"`
	Filename string `json:"filename"`
}

// learn fills what only QEMU knows into the live definition, after telling QEMU the setup in the same breath, and keeps it.
func (l *life) learn(ctx context.Context, mon *qmp.Client, live *libvirtxml.Domain, setup ...*qmp.Command) error {
	var devices []chardev
	query := &qmp.Command{Name: "query-chardev", Reply: &devices}
	if err := mon.Batch(ctx, append(setup, query)...); err != nil {
		return err
	}
	files := map[string]string{}
	for _, c := range devices {
		files[c.Label] = c.Filename
	}
	if live.Devices != nil {
		cmdline.SetPTYs(live, files)
	}
	return l.show(live)
}

// load reads the live definition back.
func (l *life) load() error {
	text, err := l.folder.read(liveName)
	if err != nil {
		return err
	}
	live, err := l.parseLive(string(text))
	if err != nil {
		return fmt.Errorf("read live xml: %w", err)
	}
	l.shown.Store(&shown{live, string(text)})
	return nil
}

// character is a character device of a definition.
type character struct {
	alias  string
	name   string
	source *libvirtxml.DomainChardevSource
}

// characters returns the devices that a console can be opened on, consoles first, as libvirt looks for them.
func characters(d *libvirtxml.Domain) []character {
	var list []character
	if d.Devices == nil {
		return nil
	}
	add := func(alias *libvirtxml.DomainAlias, source *libvirtxml.DomainChardevSource) {
		if alias != nil && source != nil {
			list = append(list, character{alias: alias.Name, source: source})
		}
	}
	for i := range d.Devices.Consoles {
		add(d.Devices.Consoles[i].Alias, d.Devices.Consoles[i].Source)
	}
	for i := range d.Devices.Serials {
		add(d.Devices.Serials[i].Alias, d.Devices.Serials[i].Source)
	}
	for i := range d.Devices.Parallels {
		add(d.Devices.Parallels[i].Alias, d.Devices.Parallels[i].Source)
	}
	return list
}

// channels returns the channels, with their target names.
func channels(d *libvirtxml.Domain) []character {
	var list []character
	if d.Devices == nil {
		return nil
	}
	for i := range d.Devices.Channels {
		c := &d.Devices.Channels[i]
		if c.Alias == nil || c.Source == nil {
			continue
		}
		one := character{alias: c.Alias.Name, source: c.Source}
		if c.Target != nil && c.Target.VirtIO != nil {
			one.name = c.Target.VirtIO.Name
		}
		list = append(list, one)
	}
	return list
}

const agentChannel = "org.qemu.guest_agent.0"

// facts are what of a live definition matters to its guest.
func facts(d *libvirtxml.Domain) guest.Facts {
	f := guest.Facts{
		OnPoweroff: actions[d.OnPoweroff], OnReboot: actions[d.OnReboot], OnCrash: actions[d.OnCrash], Disks: map[string]guest.Disk{},
	}
	for _, c := range channels(d) {
		if c.name == agentChannel && c.source.UNIX != nil {
			f.AgentAlias, f.AgentPath = c.alias, c.source.UNIX.Path
		}
	}
	if d.Devices == nil {
		return f
	}
	for i := range d.Devices.Disks {
		disk := &d.Devices.Disks[i]
		if disk.Alias == nil {
			continue
		}
		one := guest.Disk{Alias: disk.Alias.Name, Path: diskPath(disk)}
		f.Disks[disk.Alias.Name] = one
		if disk.Source != nil && disk.Source.Index != 0 {
			f.Disks[fmt.Sprintf("libvirt-%d-format", disk.Source.Index)] = one
			f.Disks[fmt.Sprintf("libvirt-%d-storage", disk.Source.Index)] = one
		}
	}
	return f
}

// actions are the definition's actions; coredump-* dump nothing, and are refused before a start.
var actions = map[string]guest.Action{
	"destroy": guest.Destroy, "restart": guest.Restart, "preserve": guest.Preserve, "rename-restart": guest.Restart,
	"coredump-destroy": guest.Destroy, "coredump-restart": guest.Restart,
}

func diskPath(disk *libvirtxml.DomainDisk) string {
	switch {
	case disk.Source == nil:
		return ""
	case disk.Source.File != nil:
		return disk.Source.File.File
	case disk.Source.Block != nil:
		return disk.Source.Block.Dev
	default:
		return ""
	}
}
