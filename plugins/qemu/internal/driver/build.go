package driver

import (
	"context"
	"fmt"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// build turns the definition into a command line.
func (s *start) build(_ context.Context, d *libvirtxml.Domain) (*command, error) {
	if d.OS == nil || d.Memory == nil || d.Devices == nil {
		return nil, verr.New(verr.ConfigUnsupported, "definition without os, memory or devices")
	}
	id := int(s.req.GetId())
	d.ID = &id
	args := []string{
		"-name", "guest=" + d.Name + ",debug-threads=on", "-S", "-uuid", d.UUID, "-machine", "pc", "-accel", "tcg",
		"-m", fmt.Sprintf("%dk", d.Memory.Value), "-no-user-config", "-nodefaults", "-no-shutdown", "-display", "none",
		"-chardev", "socket,id=charmonitor,fd=3,server=on,wait=off", "-mon", "chardev=charmonitor,mode=control",
	}
	if d.OS.Kernel != "" {
		args = append(args, "-kernel", d.OS.Kernel, "-initrd", d.OS.Initrd, "-append", d.OS.Cmdline)
	}
	for i := range d.Devices.Serials {
		alias := fmt.Sprintf("serial%d", i)
		d.Devices.Serials[i].Alias = &libvirtxml.DomainAlias{Name: alias}
		args = append(args, "-chardev", "pty,id=char"+alias, "-serial", "chardev:char"+alias)
	}
	return &command{Path: d.Devices.Emulator, Args: args, Live: d}, nil
}
