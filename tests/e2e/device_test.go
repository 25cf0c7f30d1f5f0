package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/tests/rig"
)

// blankImage makes an empty image in a host's folder.
func blankImage(t *testing.T, h *rig.Host, name string) string {
	t.Helper()
	path := filepath.Join(h.Dir, name)
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<20)); err != nil {
		t.Fatal(err)
	}
	return path
}

// Lists without what was attached.
const (
	onlyTheDrive = `^ Target +Source\n-+\n hdc +\S+\n\n$`
	noCards      = `^ Interface .*\n-+\n\n$`
)

// deviceCommands change the devices of a running domain 'life' that has a CD drive hdc. DIR stands for a folder with images and files of XML,
// BUS for a bus whose disks leave at once.
var deviceCommands = []command{
	{name: "a disk is attached to the guest", args: "attach-disk life DIR/b.img sdb --targetbus BUS", want: "Disk attached successfully"},
	{name: "and is there", args: "domblklist life", want: `sdb +DIR/b\.img`},
	{name: "and not after the guest's end", args: "domblklist life --inactive", want: onlyTheDrive},
	{name: "it can be measured", args: "domblkstat life sdb", want: `sdb rd_req \d+`},
	{name: "a target is taken once", args: "attach-disk life DIR/c.img sdb --targetbus BUS", want: "target sdb already exists", fails: true},
	{name: "a disk is detached", args: "detach-disk life sdb", want: "Disk detached successfully"},
	{name: "and is gone", args: "domblklist life", want: onlyTheDrive},
	{name: "what is gone cannot be detached", args: "detach-disk life sdb", want: "No disk found whose source path or target is sdb", fails: true},
	{name: "a disk is attached for good", args: "attach-disk life DIR/b.img sdb --targetbus BUS --persistent", want: "attached successfully"},
	{name: "and is there after the guest's end", args: "domblklist life --inactive", want: `sdb +DIR/b\.img`},
	{name: "and detached for good", args: "detach-disk life DIR/b.img --persistent", want: "detached successfully"},
	{name: "so that it is nowhere", args: "domblklist life --inactive", want: onlyTheDrive},
	{name: "a disk is attached to the definition", args: "attach-disk life DIR/b.img sdb --targetbus BUS --config", want: "attached successfully"},
	{name: "and not to the guest", args: "domblklist life", want: onlyTheDrive},
	{name: "which is refused where it is not", args: "detach-device life DIR/disk.xml --live", want: "disk sdb not found", fails: true},
	{name: "and detached from the definition", args: "detach-device life DIR/disk.xml --config", want: "Device detached successfully"},
	{name: "a device is attached as XML", args: "attach-device life DIR/disk.xml --live --config", want: "Device attached successfully"},
	{name: "and detached as XML", args: "detach-device life DIR/disk.xml --live --config", want: "Device detached successfully"},
	{name: "a medium is put in", args: "change-media life hdc DIR/a.iso --insert", want: "Successfully inserted media"},
	{name: "and is in", args: "domblklist life", want: `hdc +DIR/a\.iso`},
	{name: "and changed", args: "change-media life hdc DIR/b.iso --update --live --config", want: "Successfully updated media"},
	{name: "in the definition, too", args: "domblklist life --inactive", want: `hdc +DIR/b\.iso`},
	{name: "and taken out", args: "change-media life hdc --eject --force", want: "Successfully ejected media"},
	{name: "so that the drive is empty", args: "domblklist life", want: `hdc +-\n`},
	{name: "attaching a drive that is there changes its medium", args: "attach-disk life DIR/a.iso hdc --type cdrom --mode readonly", want: "attached"},
	{name: "as is seen", args: "domblklist life", want: `hdc +DIR/a\.iso`},
	{name: "a card is attached", args: "attach-device life DIR/card.xml", want: "Device attached successfully"},
	{name: "and is there", args: "domiflist life", want: `52:54:00:00:00:02`},
	{name: "its cable is pulled out", args: "domif-setlink life 52:54:00:00:00:02 down", want: "Device updated successfully"},
	{name: "as is seen", args: "domif-getlink life 52:54:00:00:00:02", want: "down"},
	{name: "and put in again", args: "domif-setlink life 52:54:00:00:00:02 up", want: "Device updated successfully"},
	{name: "it is detached by its address", args: "detach-interface life user --mac 52:54:00:00:00:02", want: "Interface detached successfully"},
	{name: "a device is attached to be detached by its name", args: "attach-device life DIR/card.xml", want: "attached"},
	{name: "an unknown name is an error", args: "detach-device-alias life net77", want: "no device found with alias net77", fails: true},
	{name: "a device is detached by its name", args: "detach-device-alias life ALIAS", want: "Device detach request sent successfully"},
	{name: "and is gone", args: "domiflist life", want: noCards},
	{name: "what is no device is an error", args: "attach-device life DIR/fish.xml", want: "unknown device type 'fish'", fails: true},
	{name: "a drive cannot be unplugged", args: "update-device life DIR/card.xml", want: "no device matching MAC address", fails: true},
	{name: "nothing is attached over a read-only connection", args: "-r attach-device life DIR/card.xml", want: "forbidden", fails: true},
	{name: "nor detached", args: "-r detach-device-alias life net0", want: "forbidden", fails: true},
}

// deviceFiles are the XML files that deviceCommands name.
func deviceFiles(t *testing.T, h *rig.Host, bus, model string) {
	t.Helper()
	for _, name := range []string{"b.img", "c.img", "a.iso", "b.iso"} {
		blankImage(t, h, name)
	}
	for name, text := range map[string]string{
		"disk.xml": "<disk type='file' device='disk'><source file='" + h.Dir + "/b.img'/><target dev='sdb' bus='" + bus + "'/></disk>",
		"card.xml": "<interface type='user'><mac address='52:54:00:00:00:02'/><model type='" + model + "'/></interface>",
		"fish.xml": "<fish/>",
	} {
		if err := os.WriteFile(filepath.Join(h.Dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

const cdDrive = "<disk type='file' device='cdrom'><target dev='hdc' bus='ide'/><readonly/></disk>"

func TestVirshDevices(t *testing.T) {
	need(t, "virsh")
	for name, tc := range map[string]struct {
		uri, xml, bus, model, alias string
		needs                       []string
	}{
		"on the test driver": {testURI, testDomain("life", cdDrive, ""), "scsi", "virtio", "interface0", nil},
		"on QEMU": {
			qemuURI, qemuDomain("life", cdDrive+"<controller type='usb' index='0' model='qemu-xhci'/>"), "usb", "usb-net", "net0",
			[]string{"qemu-system-x86_64"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			need(t, tc.needs...)
			h := startHost(t)
			deviceFiles(t, h, tc.bus, tc.model)
			virsh(t, h, tc.uri, "define", write(t, "life.xml", tc.xml))
			virsh(t, h, tc.uri, "start", "life")
			commands := slices.Clone(deviceCommands)
			for n := range commands {
				c := &commands[n]
				if tc.uri == testURI && strings.HasPrefix(c.args, "domblkstat") {
					c.want = `\S`
				}
				c.args = strings.NewReplacer("DIR", h.Dir, "BUS", tc.bus, "ALIAS", tc.alias).Replace(c.args)
				c.want = strings.ReplaceAll(c.want, "DIR", h.Dir)
			}
			before := virsh(t, h, tc.uri, "dumpxml", "life")
			run(t, commands, func(args ...string) (string, error) { return virshLoud(t, h, tc.uri, args...) }, "")
			virsh(t, h, tc.uri, "change-media", "life", "hdc", "--eject", "--live", "--config")
			if after := virsh(t, h, tc.uri, "dumpxml", "life"); after != before {
				t.Errorf("what was there before is now\n%s\nand was\n%s", after, before)
			}
			virsh(t, h, tc.uri, "destroy", "life")
		})
	}
}

// TestVirtXMLDevices changes a guest and its definition by virt-xml.
func TestVirtXMLDevices(t *testing.T) {
	need(t, "virt-xml", "virsh", "qemu-system-x86_64")
	h := startHost(t)
	image := blankImage(t, h, "b.img")
	virsh(t, h, qemuURI, "define", write(t, "life.xml", qemuDomain("life", "<controller type='usb' index='0' model='qemu-xhci'/>")))
	virsh(t, h, qemuURI, "start", "life")
	xml := func(args ...string) {
		t.Helper()
		if out, err := rig.Run(t.Context(), "virt-xml", append([]string{"--connect", h.URI(qemuURI), "life"}, args...)...); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	has := func(want bool) {
		t.Helper()
		for _, which := range [][]string{{"domblklist", "life"}, {"domblklist", "life", "--inactive"}} {
			if out := virsh(t, h, qemuURI, which...); strings.Contains(out, image) != want {
				t.Errorf("%v says\n%s", which, out)
			}
		}
	}
	xml("--add-device", "--disk", "path="+image+",format=raw,bus=usb,target=sdc", "--update")
	has(true)
	xml("--remove-device", "--disk", "target=sdc", "--update")
	has(false)
}

// pythonDevices attaches and detaches a disk, and prints the events.
const pythonDevices = `
import libvirt, sys, threading
libvirt.virEventRegisterDefaultImpl()
def loop():
    while True:
        libvirt.virEventRunDefaultImpl()
threading.Thread(target=loop, daemon=True).start()
conn = libvirt.open(sys.argv[1])
gone = threading.Event()
def added(conn, dom, alias, opaque):
    print("added", alias, flush=True)
def removed(conn, dom, alias, opaque):
    print("removed", alias, flush=True)
    gone.set()
conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, added, None)
conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, removed, None)
dom = conn.lookupByName("life")
xml = open(sys.argv[2]).read()
both = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG
dom.attachDeviceFlags(xml, both)
assert "sdb" in dom.XMLDesc(0) and "sdb" in dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
dom.detachDeviceFlags(xml, both)
assert "sdb" not in dom.XMLDesc(0) and "sdb" not in dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
try:
    dom.detachDeviceFlags(xml, both)
    sys.exit("the disk was detached twice")
except libvirt.libvirtError as e:
    assert e.get_error_code() == libvirt.VIR_ERR_DEVICE_MISSING, e
if not gone.wait(20):
    sys.exit("no event tells that the device was removed")
conn.close()
`

func TestPythonDevices(t *testing.T) {
	need(t, "/usr/bin/python3", "virsh")
	if _, err := rig.Run(t.Context(), "/usr/bin/python3", "-c", "import libvirt"); err != nil {
		t.Skip("python3-libvirt is not installed (make deps)")
	}
	h := startHost(t)
	deviceFiles(t, h, "scsi", "virtio")
	virsh(t, h, testURI, "define", write(t, "life.xml", testDomain("life", "", "")))
	virsh(t, h, testURI, "start", "life")
	out, err := rig.Run(t.Context(), "/usr/bin/python3", "-c", pythonDevices, h.URI(testURI), filepath.Join(h.Dir, "disk.xml"))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if want := "added disk0\nremoved disk0\n"; out != want {
		t.Errorf("events are %q, want %q", out, want)
	}
}

// lockPaths lists the files of the locks that a guest has.
func lockPaths(t *testing.T, h *rig.Host, guest string) []string {
	t.Helper()
	locks, err := h.Locks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, l := range locks {
		if l.GetOwnerName() == guest {
			paths = append(paths, l.GetPath())
		}
	}
	slices.Sort(paths)
	return paths
}

// TestLockOfADiskThatTheGuestDoesNotGiveUp has a disk on PCI, where a guest without a system never answers until it is reset.
func TestLockOfADiskThatTheGuestDoesNotGiveUp(t *testing.T) {
	need(t, "virsh", "qemu-system-x86_64")
	h := startHost(t)
	image := blankImage(t, h, "b.img")
	for _, name := range []string{"one", "other"} {
		virsh(t, h, qemuURI, "define", write(t, name+".xml", qemuDomain(name, "")))
		virsh(t, h, qemuURI, "start", name)
	}
	attach := func(guest string) error {
		_, err := h.Virsh(t.Context(), qemuURI, "attach-disk", guest, image, "vdb")
		return err
	}
	busy := func(when string) {
		t.Helper()
		if err := attach("other"); err == nil || !strings.Contains(err.Error(), "one") {
			t.Errorf("%s another guest gets the image: %v", when, err)
		}
	}
	if err := attach("one"); err != nil {
		t.Fatal(err)
	}
	busy("while one has it")
	virsh(t, h, qemuURI, "detach-disk", "one", "vdb")
	busy("while one was asked and has not answered")
	if out := virsh(t, h, qemuURI, "domblklist", "one"); !strings.Contains(out, image) {
		t.Errorf("a disk that the guest still has is not listed: %s", out)
	}
	for _, kind := range []rig.Kind{rig.Plugin, rig.Core} {
		killAndWait(t, h, kind)
		busy(fmt.Sprintf("after the %s was killed", kind))
	}
	virsh(t, h, qemuURI, "reset", "one")
	eventually(t, 20*time.Second, func() error { return attach("other") })
	if out := virsh(t, h, qemuURI, "domblklist", "one"); strings.Contains(out, image) {
		t.Errorf("a disk that the guest has given up is listed: %s", out)
	}
	if locks := lockPaths(t, h, "one"); len(locks) != 0 {
		t.Errorf("locks of a guest without disks: %v", locks)
	}
}

// killAndWait kills daemons and waits until all are back.
func killAndWait(t *testing.T, h *rig.Host, kinds ...rig.Kind) {
	t.Helper()
	s := &siege{t: t, host: h, uri: qemuURI}
	killed, err := h.Kill(kinds...)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range killed {
		if p.Kind == rig.Core {
			if err := errors.Join(h.WaitCore(t.Context()), h.Start(t.Context())); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, 30*time.Second, func() error {
		for _, p := range killed {
			if p.Alive() {
				return fmt.Errorf("%s (%d) is still there", p.Name, p.PID)
			}
		}
		return s.ready(t.Context())
	})
}

// TestLocksThatAGuestGotLaterOutliveEveryDaemon has a guest that was suspended, resumed and given a disk: QEMU alone holds the locks while all
// daemons are dead, and who comes back knows them.
func TestLocksThatAGuestGotLaterOutliveEveryDaemon(t *testing.T) {
	need(t, "virsh", "qemu-system-x86_64")
	h := startHost(t)
	first, second := blankImage(t, h, "first.img"), blankImage(t, h, "second.img")
	virsh(t, h, qemuURI, "define", write(t, "keeper.xml", qemuDomain("keeper", disk(first))))
	virsh(t, h, qemuURI, "start", "keeper")
	virsh(t, h, qemuURI, "suspend", "keeper")
	if locks := lockPaths(t, h, "keeper"); len(locks) != 0 {
		t.Errorf("locks of a suspended guest: %v", locks)
	}
	virsh(t, h, qemuURI, "resume", "keeper")
	virsh(t, h, qemuURI, "attach-disk", "keeper", second, "vdb")
	locks := lockPaths(t, h, "keeper")
	if len(locks) != 2 {
		t.Fatalf("locks are %v, want one for each of two disks", locks)
	}
	var probes []*rig.Probe
	for _, path := range locks {
		p, err := rig.StartProbe(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		probes = append(probes, p)
	}
	for _, kinds := range [][]rig.Kind{{rig.Lockd}, {rig.Plugin}, {rig.Core, rig.Plugin, rig.Lockd}, {rig.Lockd}} {
		killAndWait(t, h, kinds...)
		eventually(t, 20*time.Second, func() error {
			if known := lockPaths(t, h, "keeper"); !slices.Equal(known, locks) {
				return fmt.Errorf("after the end of %v the host knows of the locks %v, want %v", kinds, known, locks)
			}
			for _, path := range locks {
				if !hasOpen(t, h, rig.Lockd, path) || !hasOpen(t, h, rig.Guest, path) {
					return fmt.Errorf("after the end of %v lock daemon or guest do not have %s", kinds, path)
				}
			}
			return nil
		})
	}
	for n, p := range probes {
		looks, free, err := p.Stop()
		if err != nil || looks == 0 || len(free) > 0 {
			t.Errorf("the lock of %s was looked at %d times (%v) and was free at %v", locks[n], looks, err, free)
		}
	}
	virsh(t, h, qemuURI, "destroy", "keeper")
	if left := lockPaths(t, h, "keeper"); len(left) != 0 {
		t.Errorf("locks after the guest's end: %v", left)
	}
}

// hasOpen reports whether a process of a kind has a file open.
func hasOpen(t *testing.T, h *rig.Host, kind rig.Kind, path string) bool {
	t.Helper()
	processes, err := h.Find(kind)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.PID))
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range links {
			if target, err := os.Readlink(link); err == nil && target == path {
				return true
			}
		}
	}
	return false
}

// TestLinuxGuestGetsADiskAndGivesItUp has a guest whose system answers when it is asked for a disk on PCI.
func TestLinuxGuestGetsADiskAndGivesItUp(t *testing.T) {
	need(t, "virsh", "qemu-system-x86_64")
	h := startHost(t)
	image, err := rig.BuildImage(filepath.Join("..", ".."), h.Dir)
	if errors.Is(err, rig.ErrNoGuest) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	extra := blankImage(t, h, "extra.img")
	xml := strings.NewReplacer("<memory unit='MiB'>16<", "<memory unit='MiB'>128<", "hvm</type>",
		"hvm</type><kernel>"+image.Kernel+"</kernel><initrd>"+image.Initramfs+"</initrd><cmdline>console=ttyS0 quiet</cmdline>").
		Replace(qemuDomain("linux", disk(image.Disk)+"<serial type='pty'/>"))
	virsh(t, h, qemuURI, "define", write(t, "linux.xml", xml))
	virsh(t, h, qemuURI, "start", "linux")
	eventually(t, 2*time.Minute, func() error {
		text, err := os.ReadFile(image.Disk)
		if err == nil && !strings.HasPrefix(string(text), "tick ") {
			err = errors.New("the guest has not counted yet")
		}
		return err
	})
	virsh(t, h, qemuURI, "attach-disk", "linux", extra, "vdb")
	eventually(t, time.Minute, func() error { // the guest's system has to find it first
		if _, err := h.Virsh(t.Context(), qemuURI, "detach-disk", "linux", "vdb"); err != nil {
			return err
		}
		if out := virsh(t, h, qemuURI, "domblklist", "linux"); strings.Contains(out, extra) {
			return fmt.Errorf("the guest has not given its disk up: %s", out)
		}
		return nil
	})
	if locks := lockPaths(t, h, "linux"); len(locks) != 1 {
		t.Errorf("locks are %v, want that of the first disk", locks)
	}
}
