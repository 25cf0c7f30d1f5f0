package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// newHotRig has a guest whose PCI devices can be plugged, which takes ACPI.
func newHotRig(t testing.TB, devices string) *rig {
	t.Helper()
	return newRigWith(t, "<memory unit='MiB'>16</memory><os><type>hvm</type></os><features><acpi/></features><devices>"+devices+"</devices>")
}

func (r *rig) attach(device string, leases ...*pb.Lease) (*pb.AttachDeviceResponse, error) {
	return r.driver.AttachDevice(r.t.Context(), &pb.AttachDeviceRequest{Guest: r.guest, DeviceXml: device, Leases: leases, Disks: r.disks})
}

func (r *rig) attached(device string, leases ...*pb.Lease) *pb.AttachDeviceResponse {
	r.t.Helper()
	rsp, err := r.attach(device, leases...)
	if err != nil {
		r.t.Fatal(err)
	}
	return rsp
}

func (r *rig) detach(device string) (*pb.DetachDeviceResponse, error) {
	return r.driver.DetachDevice(r.t.Context(), &pb.DetachDeviceRequest{Guest: r.guest, DeviceXml: device})
}

func (r *rig) update(device string, force bool) (*pb.UpdateDeviceResponse, error) {
	return r.driver.UpdateDevice(r.t.Context(), &pb.UpdateDeviceRequest{Guest: r.guest, DeviceXml: device, Force: force})
}

// ask sends QEMU a command.
func (r *rig) ask(name string, args, reply any) {
	r.t.Helper()
	_, g, err := r.driver.living(r.guest)
	if err == nil {
		err = g.Query(r.t.Context(), &qmp.Command{Name: name, Args: args, Reply: reply})
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// inside lists what QEMU has that a device could leave behind: devices, block nodes, objects and character devices.
func (r *rig) inside() []string {
	r.t.Helper()
	l, g, err := r.driver.living(r.guest)
	if err != nil {
		r.t.Fatal(err)
	}
	all, err := peripherals(r.t.Context(), g.Query)
	if err != nil {
		r.t.Fatal(err)
	}
	nodes, err := blockNodes(r.t.Context(), g.Query)
	if err != nil {
		r.t.Fatal(err)
	}
	all = append(all, nodes...)
	var objects, characters []struct{ Name, Label string }
	r.ask("qom-list", map[string]string{"path": "/objects"}, &objects)
	r.ask("query-chardev", nil, &characters)
	for _, o := range append(objects, characters...) {
		all = append(all, o.Name+o.Label)
	}
	for _, name := range []string{intentName, locksName, givenName} {
		if text, err := os.ReadFile(l.folder.path(name)); err == nil && strings.Trim(string(text), "{}\n") != "" {
			all = append(all, name+" "+string(text))
		}
	}
	slices.Sort(all)
	return all
}

// imageFile makes an image of a format and returns its path.
func imageFile(t testing.TB, format string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk."+format)
	if format == "raw" {
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<20)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("no qemu-img")
	}
	base := filepath.Join(filepath.Dir(path), "base.raw")
	if err := errors.Join(os.WriteFile(base, nil, 0o600), os.Truncate(base, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "qemu-img", "create", "-f", format, "-b", base, "-F", "raw", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

func diskXML(target, bus, format, path string) string {
	return fmt.Sprintf("<disk type='file' device='disk'><driver name='qemu' type='%s'/><source file='%s'/><target dev='%s' bus='%s'/></disk>",
		format, path, target, bus)
}

// hotplugged are devices that leave a guest without its help, with the alias that they get.
func hotplugged(t testing.TB) map[string]struct{ xml, alias string } {
	return map[string]struct{ xml, alias string }{
		"a raw disk on USB":      {diskXML("sda", "usb", "raw", imageFile(t, "raw")), "usb-disk0"},
		"a qcow2 disk on SCSI":   {diskXML("sdb", "scsi", "qcow2", imageFile(t, "qcow2")), "scsi0-0-0-1"},
		"an empty drive on SCSI": {"<disk type='file' device='cdrom'><target dev='sdd' bus='scsi'/><readonly/></disk>", "scsi0-0-0-3"},
		"a network card on USB":  {"<interface type='user'><mac address='52:54:00:01:02:03'/><model type='usb-net'/></interface>", "net0"},
		"a tablet":               {"<input type='tablet' bus='usb'/>", "input2"},
		"a channel": {
			"<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>", "channel0",
		},
		"a channel with a terminal": {"<channel type='pty'><target type='virtio' name='x.0'/></channel>", "channel0"},
	}
}

// hotplugBase has controllers for what is plugged in.
const hotplugBase = "<controller type='usb' index='0' model='qemu-xhci'/><controller type='scsi' index='0' model='virtio-scsi'/>" +
	"<controller type='virtio-serial' index='0'/>"

func TestDevicesComeAndGo(t *testing.T) {
	devices := hotplugged(t)
	for _, paused := range []bool{true, false} {
		r := newHotRig(t, hotplugBase)
		r.start(paused)
		before, xml := r.inside(), r.recover(nil).GetLiveXml()
		for name, d := range devices {
			t.Run(fmt.Sprintf("%s, paused %v", name, paused), func(t *testing.T) {
				r.t = t
				rsp := r.attached(d.xml)
				if got := rsp.GetChange().GetEvents(); len(got) != 1 || got[0].GetDeviceAdded().GetAlias() != d.alias {
					t.Errorf("events are %v, want that %s was added", got, d.alias)
				}
				if !slices.Contains(r.inside(), d.alias) || !strings.Contains(rsp.GetLiveXml(), "<alias name='"+d.alias+"'/>") {
					t.Errorf("device %s is not there: %v, %s", d.alias, r.inside(), rsp.GetLiveXml())
				}
				if strings.Contains(d.xml, "type='pty'") && !strings.Contains(rsp.GetLiveXml(), "/dev/pts/") {
					t.Errorf("terminal has no path: %s", rsp.GetLiveXml())
				}
				if strings.HasPrefix(d.xml, "<disk") {
					if _, err := r.attach(d.xml); err == nil {
						t.Error("a second disk of the name was attached")
					}
				}
				r.restart()
				if again := r.recover(nil); again.GetLiveXml() != rsp.GetLiveXml() {
					t.Errorf("live xml after a restart is %s", again.GetLiveXml())
				}
				gone, err := r.detach(rsp.GetDeviceXml())
				if err != nil || !gone.GetGone() || gone.GetLiveXml() != xml {
					t.Errorf("detaching: %v, %v", gone, err)
				}
				if after := r.inside(); !slices.Equal(after, before) {
					t.Errorf("QEMU has\n%v after the device was detached,\n%v before", after, before)
				}
				if _, err := r.detach(rsp.GetDeviceXml()); !verr.Is(err, verr.DeviceMissing) {
					t.Errorf("detaching again: %v", err)
				}
			})
		}
		r.t = t
		r.stop()
	}
}

// TestGuestThatDoesNotAnswer has devices on PCI, which a guest without a system never gives up until it is reset.
func TestGuestThatDoesNotAnswer(t *testing.T) {
	for name, device := range map[string]string{
		"a disk":       diskXML("vdb", "virtio", "raw", imageFile(t, "raw")),
		"a card":       "<interface type='user'><mac address='52:54:00:01:02:03'/><model type='virtio'/></interface>",
		"randomness":   "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
		"a controller": "<controller type='scsi' index='3' model='virtio-scsi'/>",
	} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restart %v", name, restart), func(t *testing.T) {
				r := newHotRig(t, "")
				r.driver.unplugTime = 50 * time.Millisecond
				r.start(false)
				before, xml := r.inside(), r.recover(nil).GetLiveXml()
				rsp := r.attached(device)
				alias := rsp.GetChange().GetEvents()[0].GetDeviceAdded().GetAlias()
				gone, err := r.detach(rsp.GetDeviceXml())
				if err != nil || gone.GetGone() || gone.GetLiveXml() != "" || len(gone.GetChange().GetEvents()) != 0 {
					t.Fatalf("detaching: %v, %v", gone, err)
				}
				if again := r.recover(nil); again.GetLiveXml() != rsp.GetLiveXml() {
					t.Errorf("live xml is %s", again.GetLiveXml())
				}
				if restart {
					l, g, _ := r.driver.living(r.guest)
					r.driver.Close(t.Context())
					mon, err := l.folder.dial(t.Context()) // while nobody listens
					if err != nil {
						t.Fatal(err)
					}
					if err := mon.Execute(t.Context(), "system_reset", nil, nil); err != nil {
						t.Fatal(err)
					}
					for ev := range mon.Events() {
						if ev.Name == "DEVICE_DELETED" && strings.Contains(string(ev.Data), alias+`"`) {
							break
						}
					}
					mon.Close()
					<-g.Finished()
					r.restart()
					if again := r.recover(nil); again.GetLiveXml() != xml {
						t.Errorf("live xml is %s", again.GetLiveXml())
					}
				} else {
					r.ask("system_reset", nil, nil)
					r.awaitRemoval(alias, xml)
				}
				if after := r.inside(); !slices.Equal(after, before) {
					t.Errorf("QEMU has\n%v after the device was detached,\n%v before", after, before)
				}
				r.stop()
			})
		}
	}
}

// awaitRemoval waits until it is told that a device has gone, with the live definition then.
func (r *rig) awaitRemoval(alias, xml string) {
	r.t.Helper()
	for n := 1; ; n++ {
		e := r.core.WaitEvents(r.t, n)[n-1]
		for _, one := range e.GetChange().GetEvents() {
			if one.GetDeviceRemoved().GetAlias() != alias {
				continue
			}
			if e.GetLiveXml() != xml {
				r.t.Errorf("live xml is then %s", e.GetLiveXml())
			}
			return
		}
	}
}

func TestDevicesThatAreRefusedLeaveNothing(t *testing.T) {
	raw := imageFile(t, "raw")
	busy := imageFile(t, "raw")
	r := newHotRig(t, hotplugBase+diskXML("sda", "usb", "raw", busy)+
		"<disk type='file' device='cdrom'><target dev='hdc' bus='ide'/></disk><serial type='pty'/>")
	r.start(true)
	before, xml := r.inside(), r.recover(nil).GetLiveXml()
	tests := map[string]struct {
		do   func() error
		code verr.Code
	}{
		"an image that is not there": {func() error { _, err := r.attach(diskXML("sdb", "usb", "raw", raw+".no")); return err }, verr.Internal},
		"an image that is in use":    {func() error { _, err := r.attach(diskXML("sdb", "usb", "raw", busy)); return err }, verr.Internal},
		"an image that is no qcow2":  {func() error { _, err := r.attach(diskXML("sdb", "usb", "qcow2", raw)); return err }, verr.OperationFailed},
		"a bus for machines that are off": {
			func() error { _, err := r.attach(diskXML("hdb", "ide", "raw", raw)); return err }, verr.OperationUnsupported,
		},
		"a drive on such a bus": {func() error {
			_, err := r.attach("<disk type='file' device='cdrom'><target dev='hdd' bus='ide'/></disk>")
			return err
		}, verr.OperationUnsupported},
		"a device that nobody can plug in": {func() error { _, err := r.attach("<watchdog model='ib700'/>"); return err }, verr.OperationUnsupported},
		"an option that is not supported": {func() error {
			_, err := r.attach(strings.Replace(diskXML("sdb", "usb", "raw", raw), "<target", "<iotune><total_bytes_sec>1</total_bytes_sec></iotune><target", 1))
			return err
		}, verr.ConfigUnsupported},
		"a card that needs a network": {func() error {
			_, err := r.attach("<interface type='network'><source network='default'/></interface>")
			return err
		}, verr.ConfigUnsupported},
		"a PCI slot that is taken": {func() error {
			_, err := r.attach("<controller type='scsi' index='1' model='virtio-scsi'><address type='pci' domain='0' bus='0' slot='1' function='0'/></controller>")
			return err
		}, verr.XMLError},
		"a lock that does not come": {func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			_, err := r.driver.AttachDevice(ctx, &pb.AttachDeviceRequest{
				Guest: r.guest, DeviceXml: diskXML("sdb", "usb", "raw", raw), Leases: []*pb.Lease{{Token: make([]byte, 16)}},
			})
			return err
		}, verr.Internal},
		"another life":                       {func() error { _, err := r.driver.begin(t.Context(), &pb.Guest{Uuid: r.guest.GetUuid()}); return err }, verr.OperationInvalid},
		"unplugging an IDE drive":            {func() error { _, err := r.detach("<disk><target dev='hdc'/></disk>"); return err }, verr.OperationUnsupported},
		"unplugging a serial port":           {func() error { _, err := r.detach("<serial type='pty'><target port='0'/></serial>"); return err }, verr.OperationUnsupported},
		"unplugging what is not there":       {func() error { _, err := r.detach("<disk><target dev='vdz'/></disk>"); return err }, verr.DeviceMissing},
		"unplugging a controller in use":     {func() error { _, err := r.detach("<controller type='usb' index='0'/>"); return err }, verr.OperationFailed},
		"unplugging an empty PCI controller": {func() error { _, err := r.detach("<controller type='pci' index='0'/>"); return err }, verr.OperationUnsupported},
		"another image for a disk":           {func() error { _, err := r.update(diskXML("sda", "usb", "raw", raw), true); return err }, verr.OperationUnsupported},
		"another bus for a drive": {func() error {
			_, err := r.update("<disk type='file' device='cdrom'><target dev='hdc' bus='sata'/></disk>", true)
			return err
		}, verr.OperationUnsupported},
		"a medium that is not there": {func() error {
			_, err := r.update("<disk type='file' device='cdrom'><source file='"+raw+".no'/><target dev='hdc' bus='ide'/></disk>", true)
			return err
		}, verr.Internal},
		"another serial port": {func() error { _, err := r.update("<serial type='pty'><target port='0'/></serial>", true); return err }, verr.OperationUnsupported},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if err := tt.do(); err == nil || verr.From(err).Code != tt.code {
				t.Errorf("error is %v, want code %d", err, tt.code)
			}
			if after := r.inside(); !slices.Equal(after, before) {
				t.Errorf("QEMU has\n%v afterwards,\n%v before", after, before)
			}
			if again := r.recover(nil); again.GetLiveXml() != xml {
				t.Errorf("live xml is %s", again.GetLiveXml())
			}
		})
	}
	r.stop()
}

func TestAControllerThatADiskNeedsComesWithIt(t *testing.T) {
	r := newHotRig(t, "")
	r.start(true)
	rsp := r.attached(diskXML("sdh", "scsi", "raw", imageFile(t, "raw")))
	var got []string
	for _, e := range rsp.GetChange().GetEvents() {
		got = append(got, e.GetDeviceAdded().GetAlias())
	}
	if want := []string{"scsi0", "scsi1", "scsi1-0-0"}; !slices.Equal(got, want) {
		t.Errorf("added %v, want %v", got, want)
	}
	if def, err := domxml.Parse(rsp.GetLiveXml()); err != nil || len(def.Devices.Disks) != 1 {
		t.Errorf("live xml: %v, %s", err, rsp.GetLiveXml())
	}
	r.stop()
}

func TestQ35HasOnlyThePortsThatItWasStartedWith(t *testing.T) {
	r := newRigWith(t, "<memory unit='MiB'>16</memory><os><type machine='q35'>hvm</type></os>")
	r.start(true)
	before := r.recover(nil).GetLiveXml()
	ports := 0
	for ; ; ports++ {
		_, err := r.attach(diskXML("vd"+string(rune('b'+ports)), "virtio", "raw", imageFile(t, "raw")))
		if err == nil {
			continue
		}
		if verr.From(err).Code != verr.Internal || !strings.Contains(err.Error(), "No more available PCI slots") {
			t.Errorf("error is %v", err)
		}
		break
	}
	if ports == 0 || ports > 10 {
		t.Errorf("%d disks could be plugged in", ports)
	}
	if n := strings.Count(before, "pcie-root-port"); n != strings.Count(r.recover(nil).GetLiveXml(), "pcie-root-port") {
		t.Error("there are new ports in the live xml, which nobody has plugged in")
	}
	r.stop()
}

func TestMediaAreChanged(t *testing.T) {
	drive := func(bus, target, device, path string) string {
		source := ""
		if path != "" {
			source = "<source file='" + path + "'/>"
		}
		return fmt.Sprintf("<disk type='file' device='%s'>%s<target dev='%s' bus='%s'/></disk>", device, source, target, bus)
	}
	for name, d := range map[string]struct{ bus, target, device string }{
		"a CD":     {"ide", "hdc", "cdrom"},
		"a floppy": {"fdc", "fda", "floppy"},
	} {
		t.Run(name, func(t *testing.T) {
			first, second := imageFile(t, "raw"), imageFile(t, "raw")
			r := newRig(t, drive(d.bus, d.target, d.device, first))
			r.start(true)
			was := first
			for _, path := range []string{second, second, "", first} {
				rsp, err := r.update(drive(d.bus, d.target, d.device, path), false)
				if err != nil {
					t.Fatalf("changing to %q: %v", path, err)
				}
				if was != "" && was != path && strings.Contains(rsp.GetLiveXml(), was) || !strings.Contains(rsp.GetLiveXml(), path) {
					t.Errorf("live xml with %q is %s", path, rsp.GetLiveXml())
				}
				events := rsp.GetChange().GetEvents()
				if (len(events) == 1) != (was != path) {
					t.Errorf("events of the change from %q to %q are %v", was, path, events)
				}
				if was != path && (events[0].GetDiskChange().GetOldPath() != was || events[0].GetDiskChange().GetNewPath() != path) {
					t.Errorf("event of the change from %q to %q is %v", was, path, events[0])
				}
				nodes, want := 0, 2
				if path == "" {
					want = 0
				}
				for _, n := range r.inside() {
					if strings.HasPrefix(n, "libvirt-") {
						nodes++
					}
				}
				if nodes != want {
					t.Errorf("QEMU has %d nodes with %q: %v", nodes, path, r.inside())
				}
				r.restart()
				if again := r.recover(nil); again.GetLiveXml() != rsp.GetLiveXml() {
					t.Errorf("live xml after a restart is %s", again.GetLiveXml())
				}
				was = path
			}
			r.stop()
		})
	}
}

func TestLinkOfACard(t *testing.T) {
	card := func(state string) string {
		return "<interface type='user'><mac address='52:54:00:01:02:03'/><model type='e1000'/><link state='" + state + "'/></interface>"
	}
	r := newHotRig(t, card("up"))
	r.start(true)
	for _, state := range []string{"down", "up"} {
		rsp, err := r.update(card(state), false)
		if err != nil || !strings.Contains(rsp.GetLiveXml(), "<link state='"+state+"'/>") {
			t.Errorf("%s: %v, %v", state, rsp, err)
		}
	}
	if _, err := r.update(strings.Replace(card("up"), "e1000", "virtio", 1), false); !verr.Is(err, verr.OperationUnsupported) {
		t.Errorf("another model: %v", err)
	}
	down := strings.Replace(card("down"), "01:02:03", "01:02:04", 1)
	if rsp := r.attached(down); !strings.Contains(rsp.GetLiveXml(), "<link state='down'/>") {
		t.Errorf("a card that comes with its link down: %s", rsp.GetLiveXml())
	}
	r.stop()
}
