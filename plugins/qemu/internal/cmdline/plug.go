package cmdline

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/define"
	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Order is one command for the monitor of a living QEMU.
type Order struct {
	// Name is QEMU's: "blockdev-add".
	Name string `json:"name"`
	// Args are its arguments, a JSON object.
	Args json.RawMessage `json:"args"`
}

// Step is an order with the one that takes it back.
type Step struct{ Do, Undo Order }

// monitored are QEMU's options as orders, with the orders that take them back and the member of the arguments that names what was made.
var monitored = map[string]struct{ do, undo, name string }{
	"-blockdev": {"blockdev-add", "blockdev-del", "node-name"},
	"-netdev":   {"netdev_add", "netdev_del", "id"},
	"-object":   {"object-add", "object-del", "id"},
	"-chardev":  {"chardev-add", "chardev-remove", "id"},
	"-device":   {"device_add", "device_del", "id"},
}

// Plug returns what plugs a device into a living guest, its backends first and itself last but for what is set in it then. live is the
// guest's definition with the device in it, completed by define.Plug; the device gets its alias, and is changed into what clients see.
func Plug(live *libvirtxml.Domain, dev domxml.Device, plan Plan) ([]Step, error) {
	if err := checkDevice(dev); err != nil {
		return nil, err
	}
	if err := setAlias(live.Devices, dev); err != nil {
		return nil, err
	}
	b := hotBuilder(live, plan)
	if err := b.plug(dev); err != nil {
		return nil, err
	}
	return b.steps()
}

// hotBuilder makes orders for a living guest. Nothing that is plugged in later boots by its class.
func hotBuilder(live *libvirtxml.Domain, plan Plan) *builder {
	b := &builder{
		d: live, dev: live.Devices, plan: plan, q35: define.IsQ35(live.OS.Type.Machine), cmd: &Command{Live: live}, hot: true,
	}
	for i := range live.Devices.Disks {
		for _, l := range layersOf(&live.Devices.Disks[i]) {
			b.nodes = max(b.nodes, l)
		}
	}
	return b
}

// plug writes the options of one device.
func (b *builder) plug(dev domxml.Device) error {
	switch v := dev.Value.(type) {
	case *libvirtxml.DomainDisk:
		return b.disk(v)
	case *libvirtxml.DomainInterface:
		return b.card(v, 0)
	case *libvirtxml.DomainController:
		return b.controller(v)
	case *libvirtxml.DomainRNG:
		return b.rng(v)
	case *libvirtxml.DomainInput:
		return b.input(v)
	case *libvirtxml.DomainChannel:
		return b.channel(v)
	case *libvirtxml.DomainLease:
		return nil
	}
	return verr.New(verr.OperationUnsupported, "live attach of device '%s' is not supported", dev.Kind)
}

// steps turns the options that were written into orders.
func (b *builder) steps() ([]Step, error) {
	var steps []Step
	for i := 0; i+1 < len(b.cmd.Args); i += 2 {
		m, ok := monitored[b.cmd.Args[i]]
		if !ok {
			return nil, verr.New(verr.OperationUnsupported, "a device that needs QEMU's option %s cannot be plugged in later", b.cmd.Args[i])
		}
		args := json.RawMessage(b.cmd.Args[i+1])
		var made map[string]any
		if err := json.Unmarshal(args, &made); err != nil {
			return nil, fmt.Errorf("read %s: %w", b.cmd.Args[i], err)
		}
		steps = append(steps, Step{Order{m.do, args}, order(m.undo, m.name, made[m.name])})
	}
	for _, alias := range b.cmd.LinksDown {
		steps = append(steps, Step{Do: SetLink(alias, false)})
	}
	return steps, nil
}

// order makes an order with one argument or more, given as name and value in turn.
func order(name string, args ...any) Order {
	p := props{}
	for i := 0; i+1 < len(args); i += 2 {
		p[fmt.Sprint(args[i])] = args[i+1]
	}
	text, err := json.Marshal(p)
	if err != nil {
		panic(err) // names and strings cannot fail to be written
	}
	return Order{name, text}
}

// SetLink plugs the cable of a network card in or out.
func SetLink(alias string, up bool) Order { return order("set_link", "name", alias, "up", up) }

// DeviceDel asks the guest to give a device up.
func DeviceDel(alias string) Order { return order("device_del", "id", alias) }

// Behind returns what removes the backends of a device that is gone, in order. Each is refused by QEMU if there is no such thing.
func Behind(dev domxml.Device) []Order {
	alias := dev.Alias()
	switch v := dev.Value.(type) {
	case *libvirtxml.DomainDisk:
		return MediumDel(v)
	case *libvirtxml.DomainInterface:
		return []Order{order("netdev_del", "id", "host"+alias)}
	case *libvirtxml.DomainRNG:
		return []Order{order("object-del", "id", "obj"+alias)}
	case *libvirtxml.DomainChannel:
		return []Order{order("chardev-remove", "id", "char"+alias)}
	}
	return nil
}

// MediumDel returns what closes the image of a disk of a living guest and those below it.
func MediumDel(k *libvirtxml.DomainDisk) []Order {
	var list []Order
	if node := readCopier(k); node != "" {
		list = append(list, order("blockdev-del", "node-name", node))
	}
	for _, l := range layersOf(k) {
		for _, part := range []string{"format", "storage"} {
			list = append(list, order("blockdev-del", "node-name", fmt.Sprintf("libvirt-%d-%s", l, part)))
		}
		list = append(list, secretDel(k, l)...)
	}
	return list
}

// layersOf are the numbers of the images of a disk of a living guest, the topmost first.
func layersOf(k *libvirtxml.DomainDisk) []uint {
	var list []uint
	if k.Source != nil && k.Source.Index != 0 {
		list = append(list, k.Source.Index)
	}
	for s := k.BackingStore; s != nil; s = s.BackingStore {
		if s.Index != 0 {
			list = append(list, s.Index)
		}
	}
	return list
}

// TopNode is the block node that the drive of a living guest reads, or empty.
func TopNode(k *libvirtxml.DomainDisk) string {
	if node := readCopier(k); node != "" {
		return node
	}
	if layers := layersOf(k); len(layers) > 0 {
		return formatNode(layer{index: layers[0]})
	}
	return ""
}

// readCopier is the node over the image of a disk that copies what is read, or empty.
func readCopier(k *libvirtxml.DomainDisk) string {
	if k.Driver == nil || k.Driver.CopyOnRead != "on" || len(layersOf(k)) == 0 {
		return ""
	}
	return "libvirt-CoR-" + k.Target.Dev
}

// Medium returns what opens the image of a drive, without putting it in. live is the guest's definition as it is; the drive, which is none of
// it, is changed into what clients see once the image is in.
func Medium(live *libvirtxml.Domain, drive *libvirtxml.DomainDisk, plan Plan) ([]Step, error) {
	if err := checkDevice(domxml.Device{Kind: "disk", Value: drive}); err != nil {
		return nil, err
	}
	b := hotBuilder(live, plan)
	if _, err := b.diskNode(drive); err != nil {
		return nil, err
	}
	return b.steps()
}

// checkDevice refuses a device that has something which is not handled, naming it.
func checkDevice(dev domxml.Device) error {
	alone := &libvirtxml.DomainDeviceList{}
	if _, err := domxml.AddDevice(alone, dev); err != nil {
		return err
	}
	return checkStruct(reflect.ValueOf(alone).Elem(), "domain/devices")
}

// numbered are the kinds of device whose aliases count up.
var numbered = map[string]string{"interface": "net", "rng": "rng", "input": "input", "channel": "channel"}

// setAlias names a new device as no other of the guest is called.
func setAlias(list *libvirtxml.DomainDeviceList, dev domxml.Device) error {
	if prefix, ok := numbered[dev.Kind]; ok && dev.Alias() == "" {
		next := 0
		for _, d := range domxml.Devices(list) {
			if rest, ok := strings.CutPrefix(d.Alias(), prefix); ok {
				if n, err := strconv.Atoi(rest); err == nil {
					next = max(next, n+1)
				}
			}
		}
		reflect.ValueOf(dev.Value).Elem().FieldByName("Alias").Set(reflect.ValueOf(&libvirtxml.DomainAlias{Name: prefix + strconv.Itoa(next)}))
	}
	setAliases(list)
	for _, d := range domxml.Devices(list) {
		if d.Value != dev.Value && d.Alias() != "" && d.Alias() == dev.Alias() {
			return verr.New(verr.XMLError, "non unique alias detected: %s", dev.Alias())
		}
	}
	return nil
}

// CloseFile has QEMU close a descriptor that it was sent under a name.
func CloseFile(name string) Order { return order("closefd", "fdname", name) }

// OpenTray opens the tray of a drive, or asks the guest to.
func OpenTray(alias string, force bool) Order {
	return order("blockdev-open-tray", "id", alias, "force", force)
}

// CloseTray closes it.
func CloseTray(alias string) Order { return order("blockdev-close-tray", "id", alias) }

// RemoveMedium takes the medium out of a drive whose tray is open.
func RemoveMedium(alias string) Order { return order("blockdev-remove-medium", "id", alias) }

// InsertMedium puts a medium into such a drive.
func InsertMedium(alias, node string) Order {
	return order("blockdev-insert-medium", "id", alias, "node-name", node)
}
