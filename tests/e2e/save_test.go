package e2e

import (
	"encoding/binary"
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

// editor is what virsh's edit commands run on the definition of a saved domain.
const editor = `sed -i 's,</name>,</name><title>Edited</title>,'`

// saveCommands tell what can be done to the state of a domain. FILE.save is where it is saved to.
var saveCommands = []command{
	{name: "a domain is defined", args: "define FILE", want: `defined`},
	{name: "what is off cannot be saved", args: "save life FILE.save", want: `domain is not running`, fails: true},
	{name: "it starts", args: "start life", want: `started`},
	{name: "it is saved", args: "save life FILE.save", want: `Domain 'life' saved to`},
	{name: "and off because of that", args: "domstate life --reason", want: `^shut off \(saved\)`},
	{name: "which is told of the job, too", args: "domjobinfo life --completed", want: `(?s)Completed.*Operation: +Save`},
	{name: "the file has its definition", args: "save-image-dumpxml FILE.save", want: `<name>life</name>`},
	{name: "which can be edited", args: "save-image-edit FILE.save", want: `State file .* edited`},
	{name: "it is restored", args: "restore FILE.save", want: `Domain restored from`},
	{name: "and runs because of that", args: "domstate life --reason", want: `^running \(restored\)`},
	{name: "as it was edited", args: "desc life --title", want: `^Edited`},
	{name: "it is not restored twice", args: "restore FILE.save", want: `domain 'life' is already active`, fails: true},
	{name: "it is not saved where there is no folder", args: "save life /nowhere/at/all", want: `Failed to create file '/nowhere/at/all'`, fails: true},
	{name: "nor to a device", args: "save life /dev/null", want: `no regular file`, fails: true},
	{name: "and goes on", args: "domstate life", want: `^running`},
	{name: "it has no job", args: "domjobinfo life", want: `Job type: +None`},
	{name: "that could be aborted", args: "domjobabort life", want: `no job is active on the domain`, fails: true},
	{name: "it is destroyed", args: "destroy life", want: `destroyed`},
	{name: "and restored once more, to be paused", args: "restore FILE.save --paused", want: `Domain restored from`},
	{name: "and is paused", args: "domstate life --reason", want: `^paused \(user\)`},
	{name: "what is no saved domain is not restored", args: "restore FILE", want: `no image of a saved guest`, fails: true},
	{name: "nor what is not there", args: "restore FILE.missing", want: `Failed to open file`, fails: true},

	{name: "a paused domain is saved by the host", args: "managedsave life", want: `state saved by libvirt`},
	{name: "it is listed as saved", args: "list --all --managed-save", want: `life\s+saved`},
	{name: "and found by that", args: "list --all --with-managed-save", want: `life`},
	{name: "and has an image", args: "dominfo life", want: `Managed save: +yes`},
	{name: "it keeps its definition", args: "undefine life", want: `Refusing to undefine while domain managed save image exists`, fails: true},
	{name: "and its name", args: "domrename life lives", want: `managed saved state can't be renamed`, fails: true},
	{name: "its image has a definition", args: "managedsave-dumpxml life", want: `<name>life</name>`},
	{name: "another machine is refused", args: "managedsave-define life FILE.other", want: `Target domain uuid .* does not match`, fails: true},
	{name: "it starts from its image", args: "start life", want: `started`},
	{name: "paused as it was", args: "domstate life --reason", want: `^paused \(user\)`},
	{name: "and has no image any more", args: "dominfo life", want: `Managed save: +no`},
	{name: "it is saved, and is to run then", args: "managedsave life --running", want: `state saved`},
	{name: "its image can be edited", args: "managedsave-edit life", want: `edited`},
	{name: "it starts", args: "start life", want: `started`},
	{name: "and runs", args: "domstate life --reason", want: `^running \(restored\)`},
	{name: "it is saved", args: "managedsave life", want: `state saved`},
	{name: "and booted", args: "start life --force-boot", want: `started`},
	{name: "as if nothing had been saved", args: "domstate life --reason", want: `^running \(booted\)`},
	{name: "and without an image", args: "managedsave-dumpxml life", want: `domain does not have managed save image`, fails: true},
	{name: "it is saved again", args: "managedsave life", want: `state saved`},
	{name: "and its image is removed", args: "managedsave-remove life", want: `Removed managedsave image`},
	{name: "so that it boots", args: "start life", want: `started`},
	{name: "it is saved for the last time", args: "managedsave life", want: `state saved`},
	{name: "and undefined with its image", args: "undefine life --managed-save", want: `undefined`},

	{name: "a transient domain is created", args: "create FILE", want: `created`},
	{name: "which the host does not save", args: "managedsave life", want: `cannot do managed save for transient domain`, fails: true},
	{name: "but anybody may", args: "save life FILE.save", want: `saved to`},
	{name: "it is gone then", args: "domstate life", want: `failed to get domain`, fails: true},
	{name: "and comes back", args: "restore FILE.save", want: `Domain restored from`},
	{name: "as transient as it was", args: "dominfo life", want: `(?s)State: +running.*Persistent: +no`},
	{name: "and ends", args: "destroy life", want: `destroyed`},
}

func TestSaveAndRestore(t *testing.T) {
	need(t, "virsh")
	t.Setenv("EDITOR", editor)
	for name, tc := range map[string]struct {
		uri, xml string
		needs    []string
	}{
		"on the test driver": {testURI, testDomain("life", "", ""), nil},
		"on QEMU":            {qemuURI, qemuDomain("life", ""), []string{"qemu-system-x86_64"}},
	} {
		t.Run(name, func(t *testing.T) {
			need(t, tc.needs...)
			h := startHost(t)
			file := write(t, "life.xml", tc.xml)
			if err := os.WriteFile(file+".other", []byte(strings.Replace(tc.xml, ">life<", ">other<", 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			run(t, saveCommands, func(args ...string) (string, error) { return virshLoud(t, h, tc.uri, args...) }, file)
			left, err := filepath.Glob(filepath.Join(h.Dir, "state", "save", "*", "*", "*"))
			if err != nil || len(left) != 0 {
				t.Errorf("images are left: %v, %v", left, err)
			}
		})
	}
}

// TestSavedGuestWantsItsDisk starts another guest on the disk of a saved one.
func TestSavedGuestWantsItsDisk(t *testing.T) {
	need(t, "virsh")
	h := startHost(t)
	image := filepath.Join(h.Dir, "shared.img")
	if err := os.WriteFile(image, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(h.Dir, "saved")
	define := func(name string) {
		virsh(t, h, testURI, "define", write(t, name+".xml", testDomain(name, disk(image), "")))
	}
	define("saved")
	define("other")
	virsh(t, h, testURI, "start", "saved")
	if _, err := h.Virsh(t.Context(), testURI, "start", "other"); err == nil {
		t.Fatal("two guests have one disk")
	}
	virsh(t, h, testURI, "save", "saved", file)
	virsh(t, h, testURI, "start", "other")
	_, err := h.Virsh(t.Context(), testURI, "restore", file)
	if err == nil || !strings.Contains(err.Error(), "busy") || !strings.Contains(err.Error(), image) {
		t.Errorf("restore while another guest has the disk: %v", err)
	}
	virsh(t, h, testURI, "destroy", "other")
	virsh(t, h, testURI, "restore", file)
	locks, err := h.Locks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range locks {
		if l.GetPath() == image && l.GetOwnerName() != "saved" {
			t.Errorf("the lock belongs to %s", l.GetOwnerName())
		}
	}
}

// TestSaveIsSeenAndAborted holds a save in the middle, and looks at it by another connection.
func TestSaveIsSeenAndAborted(t *testing.T) {
	need(t, "virsh")
	h := startHost(t)
	fault := faults(`<lodge:fail point="save.write" action="1*delay(20000)->off"/>`)
	virsh(t, h, testURI, "define", write(t, "d.xml", testDomain("slow", "", fault)))
	virsh(t, h, testURI, "start", "slow")
	file := filepath.Join(h.Dir, "slow.save")
	saved := make(chan error, 1)
	go func() {
		_, err := h.Virsh(t.Context(), testURI, "save", "slow", file)
		saved <- err
	}()
	eventually(t, answerWait, func() error {
		out, err := h.Virsh(t.Context(), testURI, "domjobinfo", "slow")
		if err == nil && !strings.Contains(out, "Unbounded") {
			err = fmt.Errorf("the job is %s", out)
		}
		return err
	})
	if got := virsh(t, h, testURI, "domstate", "slow", "--reason"); !strings.HasPrefix(got, "paused (saving)") {
		t.Errorf("the domain is %s, want paused because it is being saved", got)
	}
	virsh(t, h, testURI, "domjobabort", "slow")
	if err := <-saved; err == nil || !strings.Contains(err.Error(), "canceled by client") {
		t.Errorf("save says %v", err)
	}
	if got := virsh(t, h, testURI, "domstate", "slow", "--reason"); !strings.HasPrefix(got, "running (save canceled)") {
		t.Errorf("the domain is %s, want running because its save was cancelled", got)
	}
	if left, err := filepath.Glob(filepath.Join(h.Dir, "*slow.save*")); err != nil || len(left) != 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	virsh(t, h, testURI, "save", "slow", file)
}

// TestFileOfLibvirtIsRestored puts a guest's state into a file as libvirt's qemu driver makes it.
func TestFileOfLibvirtIsRestored(t *testing.T) {
	need(t, "virsh", "qemu-system-x86_64")
	h := startHost(t)
	ours, theirs := filepath.Join(h.Dir, "ours"), filepath.Join(h.Dir, "theirs")
	virsh(t, h, qemuURI, "create", write(t, "d.xml", qemuDomain("immigrant", "")))
	virsh(t, h, qemuURI, "save", "immigrant", ours)
	xml := virsh(t, h, qemuURI, "save-image-dumpxml", ours)
	file, err := os.ReadFile(ours)
	if err != nil {
		t.Fatal(err)
	}
	state := file[binary.BigEndian.Uint64(file[24:]):]
	// Magic; version, size of what follows, that the guest ran, no compression, where the definition ends; and 14 numbers of nothing.
	header := []byte("LibvirtQemudSave")
	for _, n := range []uint32{2, uint32(len(xml) + 1), 1, 0, uint32(len(xml) + 1)} {
		header = binary.LittleEndian.AppendUint32(header, n)
	}
	header = append(header, make([]byte, 14*4)...)
	if err := os.WriteFile(theirs, slices.Concat(header, []byte(xml), []byte{0}, state), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, []command{
		{name: "its definition is shown", args: "save-image-dumpxml FILE", want: `<name>immigrant</name>`},
		{name: "it is not changed", args: "save-image-define FILE " + write(t, "same.xml", xml), want: `made by libvirt`, fails: true},
		{name: "it is not read past the page cache", args: "restore FILE --bypass-cache", want: `page cache`, fails: true},
		{name: "it is restored", args: "restore FILE", want: `Domain restored from`},
		{name: "and runs", args: "domstate immigrant --reason", want: `^running \(restored\)`},
	}, func(args ...string) (string, error) { return virshLoud(t, h, qemuURI, args...) }, theirs)
}

// pythonSaves does what virsh cannot: typed parameters, flags, and the event of a job's end.
const pythonSaves = `
import libvirt, sys, threading
libvirt.virEventRegisterDefaultImpl()
def loop():
    while True:
        libvirt.virEventRunDefaultImpl()
threading.Thread(target=loop, daemon=True).start()
conn = libvirt.open(sys.argv[1])
path = sys.argv[3]
completed = threading.Event()
conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, lambda c, d, params, o: completed.set(), None)
def refused(code, do, *args):
    try:
        do(*args)
    except libvirt.libvirtError as e:
        assert e.get_error_code() == code, e
        return
    sys.exit("%s was not refused" % do)
dom = conn.createXML(open(sys.argv[2]).read())
dom.saveParams({libvirt.VIR_DOMAIN_SAVE_PARAM_FILE: path}, libvirt.VIR_DOMAIN_SAVE_PAUSED)
assert completed.wait(20), "no event tells that the job is complete"
refused(libvirt.VIR_ERR_NO_DOMAIN, dom.state)
xml = conn.saveImageGetXMLDesc(path, libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE)
conn.saveImageDefineXML(path, xml.replace("</name>", "</name><title>one</title>"), libvirt.VIR_DOMAIN_SAVE_RUNNING)
refused(libvirt.VIR_ERR_CONFIG_UNSUPPORTED, conn.saveImageDefineXML, path, xml.replace("<vcpu placement='static'>1<", "<vcpu placement='static'>2<"), 0)
refused(libvirt.VIR_ERR_INVALID_ARG, conn.restoreParams, {libvirt.VIR_DOMAIN_SAVE_PARAM_DXML: xml}, 0)
conn.restoreParams({libvirt.VIR_DOMAIN_SAVE_PARAM_FILE: path, libvirt.VIR_DOMAIN_SAVE_PARAM_DXML: xml.replace("</name>", "</name><title>two</title>")}, 0)
dom = conn.lookupByName(dom.name())
assert dom.state() == [libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_RESTORED], dom.state()
assert "<title>two</title>" in dom.XMLDesc()
dom = conn.defineXML(dom.XMLDesc())
dom.saveParams({})
assert dom.hasManagedSaveImage() == 1 and not dom.isActive()
assert dom.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)["operation"] == libvirt.VIR_DOMAIN_JOB_OPERATION_SAVE
dom.managedSaveDefineXML(dom.managedSaveGetXMLDesc(), libvirt.VIR_DOMAIN_SAVE_PAUSED)
refused(libvirt.VIR_ERR_OPERATION_INVALID, conn.createXML, dom.XMLDesc())
refused(libvirt.VIR_ERR_OPERATION_INVALID, conn.restore, path)
dom.create()
assert dom.state()[0] == libvirt.VIR_DOMAIN_PAUSED and dom.hasManagedSaveImage() == 0
dom.managedSave(libvirt.VIR_DOMAIN_SAVE_BYPASS_CACHE)
dom.managedSaveRemove()
refused(libvirt.VIR_ERR_OPERATION_INVALID, dom.managedSaveRemove)
dom.undefine()
conn.restoreFlags(path, None, libvirt.VIR_DOMAIN_SAVE_RUNNING)
conn.lookupByName(dom.name()).destroy()
conn.close()
`

func TestPythonSaves(t *testing.T) {
	need(t, "/usr/bin/python3")
	if _, err := rig.Run(t.Context(), "/usr/bin/python3", "-c", "import libvirt"); err != nil {
		t.Skip("python3-libvirt is not installed (make deps)")
	}
	for name, tc := range map[string]struct {
		uri, xml string
		needs    []string
	}{
		"on the test driver": {testURI, testDomain("python", "", ""), nil},
		"on QEMU":            {qemuURI, qemuDomain("python", ""), []string{"qemu-system-x86_64"}},
	} {
		t.Run(name, func(t *testing.T) {
			need(t, tc.needs...)
			h := startHost(t)
			out, err := rig.Run(t.Context(), "/usr/bin/python3", "-c", pythonSaves, h.URI(tc.uri), write(t, "d.xml", tc.xml), filepath.Join(h.Dir, "saved"))
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		})
	}
}

// linuxGuest makes the definition of a guest with a system that counts.
func linuxGuest(name string, image *rig.Image) string {
	return fmt.Sprintf(`<domain type='qemu'>
  <name>%s</name>
  <memory unit='MiB'>96</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><kernel>%s</kernel><initrd>%s</initrd><cmdline>console=ttyS0 quiet</cmdline></os>
  <features><acpi/></features>
  <devices>%s<serial type='pty'/><memballoon model='none'/></devices>
</domain>
`, name, image.Kernel, image.Initramfs, disk(image.Disk))
}

// count reads how far a guest has counted, from its disk.
func count(image *rig.Image) (int, error) {
	disk, err := os.Open(image.Disk)
	if err != nil {
		return 0, err
	}
	defer disk.Close()
	head := make([]byte, 32)
	if _, err := disk.ReadAt(head, 0); err != nil {
		return 0, err
	}
	n := 0
	if _, err := fmt.Sscanf(string(head), "tick %d", &n); err != nil {
		return 0, errors.New("the guest has not counted yet")
	}
	return n, nil
}

// countsOn waits until a guest has counted beyond a number, and returns how far.
func countsOn(t *testing.T, image *rig.Image, beyond int, patience time.Duration) int {
	t.Helper()
	n := 0
	eventually(t, patience, func() error {
		var err error
		if n, err = count(image); err == nil && n <= beyond {
			err = fmt.Errorf("the guest is at %d, and was at %d", n, beyond)
		}
		return err
	})
	return n
}
