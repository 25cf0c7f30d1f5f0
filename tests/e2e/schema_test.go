package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/tests/rig"
)

// schemas is where Debian's libvirt0 has libvirt's RELAX NG schemas.
const schemas = "/usr/share/libvirt/schemas"

// document is something that virsh prints and the schema that it has to obey.
type document struct {
	name   string
	schema string
	args   string
}

// hostDocuments are what a connection tells of itself.
var hostDocuments = []document{
	{"capabilities", "capability", "capabilities"},
	{"capabilities of domains", "domaincaps", "domcapabilities --virttype qemu --arch x86_64 --machine pc"},
	{"capabilities of domains on q35", "domaincaps", "domcapabilities --virttype qemu --arch x86_64 --machine q35"},
}

// domainDocuments are the ways to print the domain NAME.
var domainDocuments = []document{
	{"XML", "domain", "dumpxml NAME"},
	{"inactive XML", "domain", "dumpxml --inactive NAME"},
	{"migratable XML", "domain", "dumpxml --migratable NAME"},
	{"XML with secrets", "domain", "dumpxml --security-info NAME"},
}

// check validates a document.
func (d document) check(t *testing.T, h *rig.Host, uri, name string) {
	t.Helper()
	text := virsh(t, h, uri, strings.Fields(strings.ReplaceAll(d.args, "NAME", name))...)
	file := write(t, "document.xml", text)
	if _, err := rig.Run(t.Context(), "xmllint", "--noout", "--relaxng", filepath.Join(schemas, d.schema+".rng"), file); err != nil {
		t.Errorf("virsh %s: %v\n%s", d.args, err, text)
	}
}

// machines are definitions with many devices, as tools make them.
func machines(dir string) map[string]string {
	image := filepath.Join(dir, "schema.img")
	devices := func(bus string) string {
		return fmt.Sprintf(`
    <disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' io='threads' discard='unmap'/><source file='%s'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='cdrom'><target dev='%s' bus='%s'/><readonly/></disk>
    <controller type='scsi' model='virtio-scsi'/>
    <controller type='virtio-serial'/>
    <interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/></interface>
    <serial type='pty'/><console type='pty'/>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <input type='tablet' bus='usb'/>
    <graphics type='vnc' autoport='yes' listen='127.0.0.1'/>
    <video><model type='vga'/></video>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <watchdog model='i6300esb' action='reset'/>`, image, map[string]string{"ide": "hda", "sata": "sda"}[bus], bus)
	}
	return map[string]string{
		"minimal": qemuDomain("minimal", ""),
		"pc":      qemuDomain("pc", devices("ide")),
		"q35":     strings.Replace(qemuDomain("q35", devices("sata")), "machine='pc'", "machine='q35'", 1),
	}
}

func TestPrintedXMLIsValid(t *testing.T) {
	need(t, "virsh", "xmllint", "qemu-system-x86_64")
	if _, err := os.Stat(schemas); err != nil {
		t.Skip("libvirt's schemas are not installed (make deps)")
	}
	h := startHost(t)
	if err := os.WriteFile(filepath.Join(h.Dir, "schema.img"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, d := range hostDocuments {
		t.Run("the host's "+d.name, func(t *testing.T) { d.check(t, h, qemuURI, "") })
	}
	t.Run("the test driver's capabilities", func(t *testing.T) { hostDocuments[0].check(t, h, testURI, "") })
	for name, xml := range machines(h.Dir) {
		t.Run("the domain "+name, func(t *testing.T) {
			virsh(t, h, qemuURI, "define", write(t, "d.xml", xml))
			for _, d := range domainDocuments {
				t.Run(d.name+" while it is off", func(t *testing.T) { d.check(t, h, qemuURI, name) })
			}
			virsh(t, h, qemuURI, "start", "--paused", name)
			for _, d := range domainDocuments {
				t.Run(d.name+" while it is active", func(t *testing.T) { d.check(t, h, qemuURI, name) })
			}
			virsh(t, h, qemuURI, "destroy", name)
		})
	}
	for _, d := range domainDocuments {
		t.Run("the test driver's domain: "+d.name, func(t *testing.T) { d.check(t, h, testURI, "test") })
	}
}
