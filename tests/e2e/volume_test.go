package e2e

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/tests/rig"
)

// volumeDisk is a disk that names a volume of pool p. More XML may be put into <disk>.
func volumeDisk(target, volume, more string) string {
	return fmt.Sprintf("<disk type='volume' device='disk'><driver name='qemu' type='raw'/><source pool='p' volume='%s'/>"+
		"<target dev='%s' bus='virtio'/>%s</disk>", volume, target, more)
}

// volumeCommands hold for a running guest "one" with volume v as vda, and a guest "two" with the same that is off. FILE is a disk that names
// volume w.
var volumeCommands = []command{
	{name: "the disk has the volume's name", args: "domblklist one --details", want: `volume +disk +vda +v\n`},
	{name: "and in the live definition, too", args: "dumpxml one", want: `<source pool='p' volume='v' index='1'/>`},
	{name: "and in the other one", args: "dumpxml one --inactive", want: `<source pool='p' volume='v'/>`},
	{name: "it has sizes", args: "domblkinfo one vda", want: `Capacity: +1048576`},
	{name: "a guest that is off has them, too", args: "domblkinfo two vda", want: `Capacity: +1048576`},
	{name: "a second guest is refused", args: "start two", want: `(?i)busy|lock`, fails: true},
	{name: "a volume is attached", args: "attach-device one FILE --live", want: `attached successfully`},
	{name: "and seen", args: "domblklist one", want: `sda +w\n`},
}

// laterVolumeCommands hold for the same guest once daemons were killed and the pool has gone.
var laterVolumeCommands = []command{
	{name: "the disk has its name still", args: "domblklist one", want: `(?s)vda +v\n.*sda +w\n`},
	{name: "and its sizes", args: "domblkinfo one sda", want: `Capacity: +2097152`},
	{name: "a volume is detached", args: "detach-disk one sda --live", want: `detached successfully`},
	{name: "nobody starts with a volume of a pool that is not there", args: "start two", want: `storage pool 'p' containing volume 'v' is not active`, fails: true},
	{name: "the guest is saved", args: "managedsave one", want: `saved`},
	{name: "but comes back with its pool alone", args: "start one", want: `storage pool 'p' containing volume 'v' is not active`, fails: true},
	{name: "the pool is there", args: "pool-start p", want: `started`},
	{name: "and the guest goes on", args: "start one", want: `started`},
	{name: "the guest ends", args: "destroy one", want: `destroyed`},
	{name: "the next one has the volume", args: "start two", want: `started`},
}

// TestGuestsOnVolumes has guests whose disks name volumes of a pool, through kills of daemons and the end of the pool.
func TestGuestsOnVolumes(t *testing.T) {
	need(t, "virsh", "qemu-system-x86_64")
	h := startHost(t)
	dir := t.TempDir()
	do := func(args ...string) (string, error) { return virshLoud(t, h, qemuURI, args...) }
	virsh(t, h, qemuURI, "pool-define-as", "p", "dir", "--target", dir)
	virsh(t, h, qemuURI, "pool-start", "p")
	virsh(t, h, qemuURI, "vol-create-as", "p", "v", "1M")
	virsh(t, h, qemuURI, "vol-create-as", "p", "w", "2M")
	scsi := "<controller type='scsi' index='0' model='virtio-scsi'/>"
	for _, name := range []string{"one", "two"} {
		virsh(t, h, qemuURI, "define", write(t, name+".xml", qemuDomain(name, scsi+volumeDisk("vda", "v", ""))))
	}
	virsh(t, h, qemuURI, "start", "one")
	run(t, volumeCommands, do, write(t, "w.xml", strings.Replace(volumeDisk("sda", "w", ""), "bus='virtio'", "bus='scsi'", 1)))
	want := []string{filepath.Join(dir, "v"), filepath.Join(dir, "w")}
	if locks := lockPaths(t, h, "one"); strings.Join(locks, " ") != strings.Join(want, " ") {
		t.Errorf("locks are %v, want %v", locks, want)
	}
	killAndWait(t, h, rig.Core, rig.Plugin, rig.Lockd)
	virsh(t, h, qemuURI, "pool-destroy", "p")
	if locks := lockPaths(t, h, "one"); strings.Join(locks, " ") != strings.Join(want, " ") {
		t.Errorf("locks after the kills are %v, want %v", locks, want)
	}
	run(t, laterVolumeCommands, do, "")
	virsh(t, h, qemuURI, "define", write(t, "three.xml", qemuDomain("three", volumeDisk("vda", "gone", ""))))
	conn, err := h.Dial(qemuURI)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Disconnect() }() // The host ends it if it does not.
	dom, err := conn.DomainLookupByName("three")
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.DomainCreate(dom); !isCode(err, libvirt.ErrNoStorageVol) {
		t.Errorf("a volume that is not there: %v", err)
	}
	pool, err := conn.StoragePoolLookupByName("p")
	if err == nil {
		err = conn.StoragePoolDestroy(pool)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.DomainCreate(dom); !isCode(err, libvirt.ErrConfigUnsupported) {
		t.Errorf("a pool that is not in use: %v", err)
	}
}

const (
	secretUUID = "5a1c42ac-7f0c-4de9-8c24-2a1d1a1b2c3d"
	secretWord = "open-sesame-93"
)

// TestLinuxGuestOnAnEncryptedVolume makes a LUKS volume with a private secret, and has a guest count on it.
func TestLinuxGuestOnAnEncryptedVolume(t *testing.T) {
	need(t, "virsh", "qemu-system-x86_64", "qemu-img")
	h := startHost(t)
	image, err := rig.BuildImage(filepath.Join("..", ".."), t.TempDir())
	if errors.Is(err, rig.ErrNoGuest) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	encryption := "<encryption format='luks'><secret type='passphrase' uuid='" + secretUUID + "'/></encryption>"
	virsh(t, h, qemuURI, "pool-create-as", "p", "dir", "--target", dir)
	virsh(t, h, qemuURI, "define", write(t, "linux.xml", onVolume(linuxGuest("linux", image), image.Disk, volumeDisk("vda", "v", encryption))))
	virsh(t, h, qemuURI, "secret-define", write(t, "secret.xml",
		"<secret ephemeral='no' private='yes'><uuid>"+secretUUID+"</uuid><usage type='volume'><volume>"+dir+"/v</volume></usage></secret>"))
	virsh(t, h, qemuURI, "secret-set-value", secretUUID, base64.StdEncoding.EncodeToString([]byte(secretWord)))
	virsh(t, h, qemuURI, "vol-create", "p", write(t, "v.xml",
		"<volume><name>v</name><capacity unit='MiB'>8</capacity><target><format type='raw'/>"+encryption+"</target></volume>"))
	virsh(t, h, qemuURI, "start", "linux")
	word := write(t, "word", secretWord)
	plain := filepath.Join(t.TempDir(), "plain")
	eventually(t, 2*time.Minute, func() error {
		out, err := rig.Run(t.Context(), "qemu-img", "convert", "-U", "--object", "secret,id=s,file="+word, "--image-opts",
			"driver=luks,key-secret=s,file.driver=file,file.filename="+filepath.Join(dir, "v"), "-O", "raw", plain)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		text, err := os.ReadFile(plain)
		if err == nil && !bytes.HasPrefix(text, []byte("tick ")) {
			err = errors.New("the guest has not counted yet")
		}
		return err
	})
	if text, err := os.ReadFile(filepath.Join(dir, "v")); err != nil || bytes.Contains(text, []byte("tick ")) {
		t.Errorf("the volume is not encrypted, error %v", err)
	}
	hidden(t, h)
	virsh(t, h, qemuURI, "destroy", "linux")
	virsh(t, h, qemuURI, "secret-undefine", secretUUID)
	if out, err := h.Virsh(t.Context(), qemuURI, "start", "linux"); err == nil || !strings.Contains(err.Error()+out, secretUUID) {
		t.Errorf("without its secret: %v", err)
	}
}

// onVolume gives a guest another disk than that of its image.
func onVolume(xml, image, other string) string { return strings.Replace(xml, disk(image), other, 1) }

// hidden fails if the secret's value is in the arguments of a process of the host, or in a file of its folder: logs, definitions, the database.
func hidden(t *testing.T, h *rig.Host) {
	t.Helper()
	forms := [][]byte{[]byte(secretWord), []byte(base64.StdEncoding.EncodeToString([]byte(secretWord)))}
	look := func(where string, text []byte) {
		for _, form := range forms {
			if bytes.Contains(text, form) {
				t.Errorf("the secret is in %s", where)
			}
		}
	}
	for _, kind := range []rig.Kind{rig.Core, rig.Plugin, rig.Guest} {
		found, err := h.Find(kind)
		if err != nil || len(found) == 0 {
			t.Fatalf("no process of kind %s: %v", kind, err)
		}
		for _, p := range found {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
			if err != nil {
				t.Fatal(err)
			}
			look(string(kind)+"'s arguments", text)
		}
	}
	err := filepath.WalkDir(h.Dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil //nolint:nilerr // files come and go
		}
		if text, err := os.ReadFile(path); err == nil {
			look(path, text)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestVirtInstallAndCloneOnVolumes makes, uses and copies volumes with the stock tools.
func TestVirtInstallAndCloneOnVolumes(t *testing.T) {
	need(t, "virt-install", "virt-clone", "virsh", "qemu-system-x86_64")
	h := startHost(t)
	dir := t.TempDir()
	virsh(t, h, qemuURI, "pool-create-as", "default", "dir", "--target", dir)
	virsh(t, h, qemuURI, "vol-create-as", "default", "ready.img", "1M")
	install := func(name, disk string) {
		t.Helper()
		out, err := rig.Run(t.Context(), "virt-install", "--connect", h.URI(qemuURI), "--import", "--name", name, "--memory", "64",
			"--virt-type", "qemu", "--machine", "pc", "--graphics", "none", "--network", "user", "--osinfo", "generic", "--noautoconsole",
			"--disk", disk)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	install("made", "pool=default,size=1")
	install("ready", "vol=default/ready.img,format=raw")
	if out := virsh(t, h, qemuURI, "vol-list", "default"); !strings.Contains(out, "made.qcow2") {
		t.Errorf("virt-install has made no volume: %s", out)
	}
	for _, name := range []string{"made", "ready"} {
		if got := strings.TrimSpace(virsh(t, h, qemuURI, "domstate", name)); got != "running" {
			t.Errorf("%s is %s", name, got)
		}
		virsh(t, h, qemuURI, "destroy", name)
	}
	virsh(t, h, qemuURI, "define", write(t, "named.xml", qemuDomain("named", strings.Replace(volumeDisk("vda", "ready.img", ""), "pool='p'", "pool='default'", 1))))
	for _, name := range []string{"made", "named"} {
		out, err := rig.Run(t.Context(), "virt-clone", "--connect", h.URI(qemuURI), "--original", name, "--auto-clone")
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		virsh(t, h, qemuURI, "start", name)
		virsh(t, h, qemuURI, "start", name+"-clone")
		if out := virsh(t, h, qemuURI, "domblklist", name+"-clone"); !strings.Contains(out, "-clone") {
			t.Errorf("the clone of %s has %s", name, out)
		}
		virsh(t, h, qemuURI, "destroy", name)
		virsh(t, h, qemuURI, "destroy", name+"-clone")
	}
}

// networkCommands hold for a running guest "far" with an NBD export as vda. FILE is another disk of it, which needs a secret.
var networkCommands = []command{
	{name: "the disk has the export's name", args: "domblklist far --details", want: `network +disk +vda +it\n`},
	{name: "it has sizes", args: "domblkinfo far vda", want: `Capacity: +1048576`},
	{name: "and figures", args: "domblkstat far vda", want: `vda rd_req \d+`},
	{name: "its server is in the definition", args: "dumpxml far", want: `(?s)protocol='nbd' name='it'.*<host transport='unix' socket=`},
	{name: "what has no secret is not attached", args: "attach-device far FILE --live", want: `no secret with matching usage 'nobody'`, fails: true},
	{name: "and not there", args: "domblklist far", want: `vda +it\n\n$`},
	{name: "the guest ends", args: "destroy far", want: `destroyed`},
	{name: "nobody knows the sizes then", args: "domblkinfo far vda", want: `reached over a network`, fails: true},
}

// TestGuestOnANetworkDisk has a guest whose disk is on a server.
func TestGuestOnANetworkDisk(t *testing.T) {
	need(t, "virsh", "qemu-system-x86_64", "qemu-nbd")
	h := startHost(t)
	socket := filepath.Join(h.Dir, "nbd")
	server := exec.CommandContext(t.Context(), "qemu-nbd", "--persistent", "--format=raw", "--export-name=it", "--socket="+socket, blankImage(t, h, "far.img"))
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Wait() }) // The test's context has ended it.
	eventually(t, 10*time.Second, func() error { _, err := os.Stat(socket); return err })
	far := "<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd' name='it'>" +
		"<host transport='unix' socket='" + socket + "'/></source><target dev='vda' bus='virtio'/></disk>"
	virsh(t, h, qemuURI, "define", write(t, "far.xml", qemuDomain("far", far)))
	virsh(t, h, qemuURI, "start", "far")
	secret := "<encryption format='luks'><secret type='passphrase' usage='nobody'/></encryption></disk>"
	other := strings.Replace(strings.Replace(disk(blankImage(t, h, "other.img")), "</disk>", secret, 1), "vda", "vdb", 1)
	run(t, networkCommands, func(args ...string) (string, error) { return virshLoud(t, h, qemuURI, args...) }, write(t, "other.xml", other))
}
