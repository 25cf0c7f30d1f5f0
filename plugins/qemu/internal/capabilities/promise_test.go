package capabilities_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/capabilities"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/cmdline"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/define"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/probe"
	"github.com/lodgevirt/lodge/sdk/domxml"
)

// rich is a QEMU that has everything that the documents know.
func rich() *probe.Binary {
	b := &probe.Binary{
		Path: "/q/qemu-system-x86_64", Arch: "x86_64",
		Machines: []probe.Machine{{Name: "pc-i440fx-7.2", Alias: "pc", Default: true, MaxCPUs: 255}, {Name: "pc-q35-7.2", Alias: "q35", MaxCPUs: 288}},
		CPUs:     map[string]probe.CPUs{"qemu": {Models: []probe.CPUModel{{Name: "EPYC", Usable: true}}}},
		Options:  map[string][]string{"vnc": nil, "spice": nil},
		Types: strings.Fields(`VGA bochs-display chardev-spicevmc cirrus-vga ich9-ahci iothread isa-fdc memory-backend-memfd qxl ramfb
			rng-builtin rng-random scsi-block scsi-hd tpm-crb tpm-emulator tpm-tis usb-redir usb-storage virtio-9p-pci virtio-blk-pci
			virtio-blk-pci-non-transitional virtio-blk-pci-transitional virtio-gpu-gl-pci virtio-gpu-pci virtio-rng-pci
			virtio-rng-pci-non-transitional virtio-rng-pci-transitional vmcoreinfo vmware-svga`),
	}
	slices.Sort(b.Types)
	return b
}

const screen = "<graphics type='vnc' port='5901' autoport='no'/>"

// definitions are the devices that stand for a value of a document: by element, enumeration and value, else by element and
// enumeration with the value put in for %s.
var definitions = map[string]string{
	"disk diskDevice":          "<disk type='file' device='%s'><driver type='raw'/><source file='/d'/><target dev='sda' bus='scsi'/></disk>",
	"disk diskDevice floppy":   "<disk type='file' device='floppy'><target dev='fda' bus='fdc'/></disk>",
	"disk diskDevice lun":      "<disk type='block' device='lun'><driver type='raw'/><source dev='/dev/sda'/><target dev='sda' bus='scsi'/></disk>",
	"disk bus":                 "<disk type='file'><driver type='raw'/><source file='/d'/><target dev='sda' bus='%s'/></disk>",
	"disk bus ide":             "<disk type='file'><driver type='raw'/><source file='/d'/><target dev='hda' bus='ide'/></disk>",
	"disk bus virtio":          "<disk type='file'><driver type='raw'/><source file='/d'/><target dev='vda' bus='virtio'/></disk>",
	"disk bus fdc":             "<disk type='file' device='floppy'><driver type='raw'/><source file='/d'/><target dev='fda' bus='fdc'/></disk>",
	"disk model":               "<disk type='file' model='%s'><driver type='raw'/><source file='/d'/><target dev='vda' bus='virtio'/></disk>",
	"graphics type":            "<graphics type='%s' port='5901' autoport='no'/><video><model type='vga'/></video>",
	"graphics type spice":      "<graphics type='spice' port='5901' autoport='no'/><video><model type='qxl'/></video>",
	"video modelType":          screen + "<video><model type='%s'/></video>",
	"video modelType none":     "<video><model type='none'/></video>",
	"rng model":                "<rng model='%s'><backend model='random'>/dev/urandom</backend></rng>",
	"rng backendModel random":  "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
	"rng backendModel builtin": "<rng model='virtio'><backend model='builtin'/></rng>",
	"filesystem driverType":    "<filesystem type='mount'><driver type='%s'/><source dir='/tmp'/><target dir='t'/></filesystem>",
	"tpm model":                "<tpm model='%s'><backend type='emulator' version='2.0'/></tpm>",
	"tpm backendModel":         "<tpm model='tpm-crb'><backend type='%s' version='2.0'/></tpm>",
	"redirdev bus":             "<redirdev bus='%s' type='spicevmc'/>",
	"channel type":             "<channel type='%s'><target type='virtio' name='org.example.0'/></channel>",
	"memoryBacking sourceType": "",
}

// What a document offers is what a client may ask for: every value of every enumeration must make a command.
func TestWhatIsOfferedCanBeStarted(t *testing.T) {
	for _, machine := range []string{"pc", "q35"} {
		b := rich()
		m, ok := b.Machine(machine)
		if !ok {
			t.Fatal(machine)
		}
		text, err := capabilities.Domain(capabilities.Choice{Binary: b, Machine: m, VirtType: "qemu"}, capabilities.Installed{SwTPM: true})
		if err != nil {
			t.Fatal(err)
		}
		var doc libvirtxml.DomainCaps
		if err := doc.Unmarshal(text); err != nil {
			t.Fatal(err)
		}
		for element, enums := range map[string][]libvirtxml.DomainCapsEnum{
			"disk": doc.Devices.Disk.Enums, "graphics": doc.Devices.Graphics.Enums, "video": doc.Devices.Video.Enums,
			"rng": doc.Devices.RNG.Enums, "filesystem": doc.Devices.FileSystem.Enums, "tpm": doc.Devices.TPM.Enums,
			"redirdev": doc.Devices.Redirdev.Enums, "channel": doc.Devices.Channel.Enums, "hostdev": doc.Devices.HostDev.Enums,
			"memoryBacking": doc.MemoryBacking.Enums,
		} {
			for _, enum := range enums {
				if len(enum.Values) == 0 {
					t.Errorf("%s %s offers nothing", element, enum.Name)
				}
				for _, value := range enum.Values {
					key := element + " " + enum.Name
					if err := start(machine, key, value); err != nil {
						t.Errorf("%s: %s %s is offered, but: %v", machine, key, value, err)
					}
				}
			}
		}
	}
}

// start does all that a start does before a process is made.
func start(machine, key, value string) error {
	devices, ok := definitions[key+" "+value]
	if !ok {
		if devices, ok = definitions[key]; !ok {
			return fmt.Errorf("the test knows no definition for it")
		}
		devices = strings.ReplaceAll(devices, "%s", value)
	}
	backing := ""
	if strings.HasPrefix(key, "memoryBacking") {
		backing = "<memoryBacking><source type='" + value + "'/></memoryBacking>"
	}
	d, err := domxml.Parse("<domain type='qemu'><name>g</name><memory unit='MiB'>64</memory>" + backing +
		"<os><type arch='x86_64' machine='" + machine + "'>hvm</type></os><devices>" + devices + "</devices></domain>")
	if err != nil {
		return err
	}
	if err := domxml.Complete(d); err != nil {
		return err
	}
	env := define.Env{
		Emulator: "/q/qemu-system-x86_64", Arch: "x86_64", DefaultMachine: "pc",
		Machines: map[string]string{"pc": "pc-i440fx-7.2", "q35": "pc-q35-7.2", "pc-i440fx-7.2": "pc-i440fx-7.2", "pc-q35-7.2": "pc-q35-7.2"},
	}
	if err := define.Complete(d, env); err != nil {
		return err
	}
	_, err = cmdline.Build(d, cmdline.Plan{ID: 1, RuntimeDir: "/r", StateDir: "/s", LogDir: "/l", Env: env})
	return err
}
