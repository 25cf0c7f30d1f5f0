package capabilities

import (
	"libvirt.org/go/libvirtxml"
)

// value is one value of an enumeration and what it takes; without conditions it is always there.
type value struct {
	name string
	// anyOf are types of QEMU of which one must exist.
	anyOf []string
	// when is a condition of another kind.
	when func(Choice, Installed) bool
}

// enum is an enumeration of a document.
type enum struct {
	name   string
	values []value
}

// deviceTable is a kind of device: which of its variants this driver gives to guests. One without any enumeration is a kind that
// the driver does not have.
type deviceTable []enum

func plain(names ...string) []value {
	values := make([]value, 0, len(names))
	for _, n := range names {
		values = append(values, value{name: n})
	}
	return values
}

// virtioModels are the three variants of a virtio device.
func virtioModels(stem string) []value {
	return []value{
		{name: "virtio", anyOf: []string{stem + "-pci", stem + "-device", stem + "-ccw"}},
		{name: "virtio-transitional", anyOf: []string{stem + "-pci-transitional"}},
		{name: "virtio-non-transitional", anyOf: []string{stem + "-pci-non-transitional"}},
	}
}

func onPC(c Choice, _ Installed) bool { return isPC(c) }

func hasFloppy(c Choice, _ Installed) bool {
	return (isPC(c) || isQ35(c)) && c.Binary.HasType("isa-fdc")
}

func hasSpice(c Choice, _ Installed) bool { return c.Binary.HasOption("spice", "") }

func hasVNC(c Choice, _ Installed) bool { return c.Binary.HasOption("vnc", "") }

func hasSwTPM(_ Choice, i Installed) bool { return i.SwTPM }

var memoryBacking = []enum{{"sourceType", []value{
	{name: "anonymous"}, {name: "memfd", anyOf: []string{"memory-backend-memfd"}},
}}}

var (
	disks = deviceTable{
		{"diskDevice", []value{{name: "disk"}, {name: "cdrom"}, {name: "floppy", when: hasFloppy}, {name: "lun", anyOf: []string{"scsi-block"}}}},
		{"bus", []value{
			{name: "ide", when: onPC},
			{name: "fdc", when: hasFloppy},
			{name: "scsi", anyOf: []string{"scsi-hd"}},
			{name: "virtio", anyOf: []string{"virtio-blk-pci", "virtio-blk-device", "virtio-blk-ccw"}},
			{name: "usb", anyOf: []string{"usb-storage"}},
			{name: "sata", anyOf: []string{"ich9-ahci"}},
		}},
		{"model", virtioModels("virtio-blk")},
	}
	graphics = deviceTable{{"type", []value{
		{name: "vnc", when: hasVNC},
		{name: "spice", when: hasSpice},
		// A QEMU that renders for its guests can also do so without a screen.
		{name: "egl-headless", anyOf: []string{"virtio-gpu-gl-pci", "virtio-gpu-gl-device"}},
	}}}
	videos = deviceTable{{"modelType", []value{
		{name: "vga", anyOf: []string{"VGA"}},
		{name: "cirrus", anyOf: []string{"cirrus-vga"}},
		{name: "vmvga", anyOf: []string{"vmware-svga"}},
		{name: "qxl", anyOf: []string{"qxl"}},
		{name: "virtio", anyOf: []string{"virtio-gpu-pci", "virtio-gpu-device", "virtio-gpu-ccw"}},
		{name: "none"},
		{name: "bochs", anyOf: []string{"bochs-display"}},
		{name: "ramfb", anyOf: []string{"ramfb"}},
	}}}
	hostDevices = deviceTable{}
	rngs        = deviceTable{
		{"model", virtioModels("virtio-rng")},
		{"backendModel", []value{
			{name: "random", anyOf: []string{"rng-random"}}, {name: "builtin", anyOf: []string{"rng-builtin"}},
		}},
	}
	filesystems = deviceTable{{"driverType", []value{{name: "path", anyOf: []string{"virtio-9p-pci", "virtio-9p-device"}}}}}
	tpms        = deviceTable{
		{"model", []value{
			{name: "tpm-tis", anyOf: []string{"tpm-tis"}}, {name: "tpm-crb", anyOf: []string{"tpm-crb"}},
		}},
		{"backendModel", []value{{name: "emulator", anyOf: []string{"tpm-emulator"}, when: hasSwTPM}}},
	}
	redirections = deviceTable{{"bus", []value{{name: "usb", anyOf: []string{"usb-redir"}}}}}
	channels     = deviceTable{{"type", append(plain("pty", "unix"), value{name: "spicevmc", anyOf: []string{"chardev-spicevmc"}})}}
)

func (v value) offered(c Choice, i Installed) bool {
	if v.when != nil && !v.when(c, i) {
		return false
	}
	for _, name := range v.anyOf {
		if c.Binary.HasType(name) {
			return true
		}
	}
	return len(v.anyOf) == 0
}

func enums(c Choice, i Installed, table []enum) []libvirtxml.DomainCapsEnum {
	var list []libvirtxml.DomainCapsEnum
	for _, e := range table {
		out := libvirtxml.DomainCapsEnum{Name: e.name}
		for _, v := range e.values {
			if v.offered(c, i) {
				out.Values = append(out.Values, v.name)
			}
		}
		list = append(list, out)
	}
	return list
}

// device prints a kind of device. One of whose enumerations nothing is left but the optional models is not supported.
func device(c Choice, i Installed, table deviceTable) *libvirtxml.DomainCapsDevice {
	d := &libvirtxml.DomainCapsDevice{Supported: yesNo(len(table) > 0), Enums: enums(c, i, table)}
	for _, e := range d.Enums {
		if len(e.Values) == 0 {
			return &libvirtxml.DomainCapsDevice{Supported: "no"}
		}
	}
	return d
}
