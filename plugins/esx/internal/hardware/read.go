package hardware

import (
	"strconv"
	"strings"

	"github.com/vmware/govmomi/vim25/types"
	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vmx"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Properties are what of a machine's configuration is translated, for a property collector.
var Properties = []string{
	"config.name", "config.uuid", "config.version", "config.changeVersion", "config.guestId", "config.annotation", "config.firmware",
	"config.bootOptions", "config.hardware", "config.cpuAllocation", "config.memoryAllocation", "config.cpuAffinity", "config.extraConfig",
	"config.files",
}

// extra are entries of the file that the API has no property for, and hosts keep as they are given.
var extra = []string{
	"RemoteDisplay.vnc.enabled", "RemoteDisplay.vnc.port", "RemoteDisplay.vnc.ip", "RemoteDisplay.vnc.keymap",
	"RemoteDisplay.vnc.password", "smbios.reflecthost", "vm.genid", "vm.genidX",
}

// paths are the API's names of files, which are libvirt's.
type paths struct{}

var _ vmx.Names = paths{}

// Source implements vmx.Names.
func (paths) Source(file string) (string, error) { return file, nil }

// File implements vmx.Names: "[datastore] path" without parts that leave the datastore, or a device of the host.
func (paths) File(source string) (string, error) {
	if strings.HasPrefix(source, "/") && !strings.HasPrefix(source, "/vmfs/volumes/") {
		return source, nil
	}
	return source, CheckPath(source)
}

// CheckPath fails with InvalidArg for what is not "[datastore] path", or has parts that a name of a file on a datastore cannot have.
func CheckPath(path string) error {
	rest, ok := strings.CutPrefix(path, "[")
	datastore, name, cut := strings.Cut(rest, "]")
	name = strings.TrimPrefix(name, " ")
	bad := !ok || !cut || datastore == "" || name == "" || strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/") ||
		strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f })
	for part := range strings.SplitSeq(name, "/") {
		bad = bad || part == "" || part == "." || part == ".."
	}
	if bad {
		return verr.New(verr.InvalidArg, "file '%s' is not of the form '[datastore] folder/file'", path)
	}
	return nil
}

// Context is what a translation has to know beside the machine.
type Context struct {
	// DatacenterPath, if not empty, is put into the XML as <vmware:datacenterpath>.
	DatacenterPath string
}

// XML prints a machine as libvirt does.
func XML(config *types.VirtualMachineConfigInfo, ctx Context) (string, error) {
	d, err := Domain(config, ctx)
	if err != nil {
		return "", err
	}
	return vmx.Print(d)
}

// Domain reads a machine.
func Domain(config *types.VirtualMachineConfigInfo, ctx Context) (*libvirtxml.Domain, error) {
	d, err := file(config).Domain(vmx.Context{Names: paths{}, DatacenterPath: ctx.DatacenterPath})
	if err != nil {
		return nil, err
	}
	readBoot(d, config)
	return d, nil
}

// file writes the entries of a machine.
func file(config *types.VirtualMachineConfigInfo) *vmx.File {
	f := &vmx.File{}
	f.Set("config.version", "8")
	version := strings.TrimPrefix(config.Version, "vmx-")
	if n, err := strconv.Atoi(version); err != nil || n < 4 {
		version = "4"
	}
	f.Set("virtualHW.version", strings.TrimLeft(version, "0"))
	f.Set("displayName", config.Name)
	f.Set("uuid.bios", config.Uuid)
	if config.Annotation != "" {
		f.Set("annotation", config.Annotation)
	}
	writeSizes(f, config)
	f.Set("guestOS", guestOS(config.GuestId))
	if config.Firmware == string(types.GuestOsDescriptorFirmwareTypeEfi) {
		f.Set("firmware", "efi")
		if o := config.BootOptions; o != nil && o.EfiSecureBootEnabled != nil && *o.EfiSecureBootEnabled {
			f.Set("uefi.secureBoot.enabled", "true")
		}
	}
	for _, option := range config.ExtraConfig {
		o := option.GetOptionValue()
		value, ok := o.Value.(string)
		for _, key := range extra {
			if ok && value != "" && strings.EqualFold(o.Key, key) {
				f.Set(key, value)
			}
		}
	}
	for _, d := range devices(config.Hardware.Device) {
		for _, e := range d.entries {
			f.Set(d.key+"."+e.Key, e.Value)
		}
	}
	return f
}

// writeSizes writes memory and CPUs.
func writeSizes(f *vmx.File, config *types.VirtualMachineConfigInfo) {
	f.Set("memsize", strconv.Itoa(int(config.Hardware.MemoryMB)))
	if a := config.MemoryAllocation; a != nil {
		if a.Limit != nil && *a.Limit >= 0 {
			f.Set("sched.mem.max", strconv.FormatInt(*a.Limit, 10))
		}
		if a.Reservation != nil && *a.Reservation > 0 {
			f.Set("sched.mem.minsize", strconv.FormatInt(*a.Reservation, 10))
		}
	}
	f.Set("numvcpus", strconv.Itoa(int(config.Hardware.NumCPU)))
	if cores := config.Hardware.NumCoresPerSocket; cores != nil && *cores > 1 {
		f.Set("cpuid.coresPerSocket", strconv.Itoa(int(*cores)))
	}
	if a := config.CpuAffinity; a != nil && len(a.AffinitySet) > 0 {
		words := make([]string, len(a.AffinitySet))
		for i, n := range a.AffinitySet {
			words[i] = strconv.Itoa(int(n))
		}
		f.Set("sched.cpu.affinity", strings.Join(words, ","))
	}
	if a := config.CpuAllocation; a != nil && a.Shares != nil {
		shares := string(a.Shares.Level)
		if a.Shares.Level == types.SharesLevelCustom || shares == "" {
			shares = strconv.Itoa(int(a.Shares.Shares))
		}
		f.Set("sched.cpu.shares", shares)
	}
}

// guestOS is a name of a guest's system that has the same number of bits; nothing else of it is translated.
func guestOS(id string) string {
	if strings.Contains(id, "64") {
		return "other-64"
	}
	return "other"
}
