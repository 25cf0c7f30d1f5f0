package cmdline_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/cmdline"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/define"
	"github.com/lodgevirt/lodge/sdk/domxml"
)

// plugBase is a guest that has lived for a while: numbers of aliases and of block nodes are not in a row.
const plugBase = "<controller type='usb' index='0' model='qemu-xhci'/><controller type='scsi' index='0' model='virtio-scsi'/>" +
	"<disk type='file' device='disk'><source file='/a'/><target dev='vda' bus='virtio'/></disk>" +
	"<interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/></interface>"

func liveGuest(t testing.TB, machine string) *libvirtxml.Domain {
	t.Helper()
	c, err := tryBuild(guest(machine, "<features><acpi/></features>", plugBase), cmdline.Plan{RuntimeDir: "/run/g"})
	if err != nil {
		t.Fatal(err)
	}
	c.Live.Devices.Disks[0].Source.Index = 7
	c.Live.Devices.Interfaces[0].Alias.Name = "net4"
	return c.Live
}

func tryPlug(live *libvirtxml.Domain, text string, plan cmdline.Plan) (domxml.Device, []cmdline.Step, error) {
	dev, err := domxml.ParseDevice(text)
	if err != nil {
		return dev, nil, err
	}
	news, err := define.Plug(live, dev, plainEnv())
	if err != nil {
		return dev, nil, err
	}
	var steps []cmdline.Step
	for _, dev = range news {
		more, err := cmdline.Plug(live, dev, plan)
		if err != nil {
			return dev, nil, err
		}
		steps = append(steps, more...)
	}
	return dev, steps, nil
}

func TestOrdersOfDevices(t *testing.T) {
	plan := cmdline.Plan{RuntimeDir: "/run/g", TapName: "the-tap"}
	for name, c := range map[string]struct {
		device string
		// want are the orders with a part of their arguments, behind those that remove what is behind the device.
		want, behind []string
	}{
		"a disk": {
			"<disk type='block' device='disk'><driver name='qemu' type='qcow2'/><source dev='/dev/b'/><target dev='vdc' bus='virtio'/></disk>",
			[]string{
				`blockdev-add "node-name":"libvirt-8-storage"`, `blockdev-add "node-name":"libvirt-8-format"`,
				`device_add "drive":"libvirt-8-format"`,
			},
			[]string{`blockdev-del {"node-name":"libvirt-8-format"}`, `blockdev-del {"node-name":"libvirt-8-storage"}`},
		},
		"a disk that copies what it reads": {
			"<disk type='file' device='disk'><driver name='qemu' copy_on_read='on'/><source file='/b'/><target dev='sdc' bus='usb'/></disk>",
			[]string{
				"blockdev-add libvirt-8-storage", "blockdev-add libvirt-8-format", `blockdev-add "node-name":"libvirt-CoR-sdc"`,
				`device_add "drive":"libvirt-CoR-sdc"`,
			},
			[]string{"blockdev-del libvirt-CoR-sdc", "blockdev-del libvirt-8-format", "blockdev-del libvirt-8-storage"},
		},
		"a card": {
			"<interface type='user'><mac address='52:54:00:00:00:02'/><model type='virtio'/><link state='down'/></interface>",
			[]string{`netdev_add "id":"hostnet5"`, `device_add "id":"net5"`, `set_link {"name":"net5","up":false}`},
			[]string{`netdev_del {"id":"hostnet5"}`},
		},
		"a card with a tap": {
			"<interface type='ethernet'><mac address='52:54:00:00:00:02'/><model type='virtio'/></interface>",
			[]string{`netdev_add "fd":"the-tap"`, "device_add net5"},
			[]string{"netdev_del hostnet5"},
		},
		"randomness": {
			"<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
			[]string{`object-add "id":"objrng0"`, "device_add rng0"},
			[]string{`object-del {"id":"objrng0"}`},
		},
		"a channel with the controller that it needs": {
			"<channel type='unix'><target type='virtio' name='a.0'/></channel>",
			[]string{
				"device_add virtio-serial0",
				`chardev-add {"backend":{"data":{"addr":{"data":{"path":"/run/g/a.0"},"type":"unix"},"server":true,"wait":false},"type":"socket"},"id":"charchannel0"}`,
				"device_add channel0",
			},
			[]string{`chardev-remove {"id":"charchannel0"}`},
		},
		"a controller": {"<controller type='scsi' model='virtio-scsi'/>", []string{`device_add "id":"scsi1"`}, nil},
		"an input":     {"<input type='mouse' bus='usb'/>", []string{`device_add "driver":"usb-mouse"`}, nil},
		"a lease":      {"<lease><lockspace>a</lockspace><key>b</key><target path='/c'/></lease>", nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dev, steps, err := tryPlug(liveGuest(t, "pc"), c.device, plan)
			if err != nil {
				t.Fatal(err)
			}
			var do, undo []string
			for _, s := range steps {
				do = append(do, s.Do.Name+" "+string(s.Do.Args))
				if s.Undo.Name != "" && s.Do.Name != "device_add" {
					undo = append(undo, s.Undo.Name+" "+string(s.Undo.Args))
				}
			}
			slices.Reverse(undo)
			var behind []string
			for _, o := range cmdline.Behind(dev) {
				behind = append(behind, o.Name+" "+string(o.Args))
			}
			for _, list := range []struct{ got, want []string }{{do, c.want}, {behind, c.behind}, {undo, c.behind}} {
				if !slices.EqualFunc(list.got, list.want, isOrder) {
					t.Errorf("orders are\n%s\nwant\n%s", strings.Join(list.got, "\n"), strings.Join(list.want, "\n"))
				}
			}
		})
	}
}

// isOrder compares an order with its name and a part of its arguments.
func isOrder(got, want string) bool {
	name, part, _ := strings.Cut(want, " ")
	return strings.HasPrefix(got, name+" ") && strings.Contains(got, part)
}

// FuzzPlug looks for devices that panic, that change another device, or that make a definition that nobody could define.
func FuzzPlug(f *testing.F) {
	for _, text := range []string{
		"<disk type='file' device='disk'><source file='/b'/><target dev='sdq' bus='scsi'/></disk>",
		"<interface type='user'><mac address='52:54:00:00:00:02'/><model type='virtio'/></interface>",
		"<controller type='usb' index='1' model='ich9-ehci1'/>", "<input type='mouse' bus='usb'/>",
		"<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
		"<channel type='pty'><target type='virtio' name='a.0'/><address type='virtio-serial' controller='1' port='3'/></channel>",
		"<lease><lockspace>a</lockspace><key>b</key><target path='/c'/></lease>", "<graphics type='vnc'/>",
	} {
		f.Add(text, false)
		f.Add(text, true)
	}
	f.Fuzz(func(t *testing.T, text string, q35 bool) {
		live := liveGuest(t, map[bool]string{false: "pc", true: "q35"}[q35])
		before := printed(t, live)
		if _, _, err := tryPlug(live, text, cmdline.Plan{RuntimeDir: "/run/g"}); err != nil {
			return
		}
		after := printed(t, live)
		for _, d := range before {
			if !slices.Contains(after, d) {
				t.Errorf("plugging in %s changed\n%s", text, d)
			}
		}
		whole, err := domxml.Format(live)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := completed(whole); err != nil {
			t.Errorf("with %s the definition is refused: %v\n%s", text, err, whole)
		}
	})
}

func printed(t *testing.T, d *libvirtxml.Domain) []string {
	t.Helper()
	var all []string
	for _, dev := range domxml.Devices(d.Devices) {
		text, err := dev.XML()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprint(dev.Kind, " ", text))
	}
	return all
}
