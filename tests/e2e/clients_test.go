package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/tests/rig"
)

// pythonEvents defines, starts, pauses, resumes, ends and undefines a domain, and prints each lifecycle event that it gets as
// "event detail".
const pythonEvents = `
import libvirt, sys, threading
libvirt.virEventRegisterDefaultImpl()
def loop():
    while True:
        libvirt.virEventRunDefaultImpl()
threading.Thread(target=loop, daemon=True).start()
conn = libvirt.open(sys.argv[1])
gone = threading.Event()
def lifecycle(conn, dom, event, detail, opaque):
    print(event, detail, flush=True)
    if event == libvirt.VIR_DOMAIN_EVENT_UNDEFINED:
        gone.set()
conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, None)
dom = conn.defineXML(open(sys.argv[2]).read())
dom.create()
assert dom.isActive() and dom.name() in [d.name() for d in conn.listAllDomains()]
dom.suspend()
assert dom.state()[0] == libvirt.VIR_DOMAIN_PAUSED
dom.resume()
dom.destroy()
dom.undefine()
try:
    conn.lookupByName(dom.name())
    sys.exit("the domain is still there")
except libvirt.libvirtError as e:
    assert e.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN, e
if not gone.wait(20):
    sys.exit("no event tells that the domain was undefined")
conn.close()
`

// lifecycle is the events of pythonEvents' story in order: defined, started, suspended, resumed, stopped because it was destroyed, and
// undefined. Drivers tell of more in between.
var lifecycle = []string{"0 0", "2 0", "3 0", "4 0", "5 1", "1 0"}

func TestPythonWithEvents(t *testing.T) {
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
			out, err := rig.Run(t.Context(), "/usr/bin/python3", "-c", pythonEvents, h.URI(tc.uri), write(t, "d.xml", tc.xml))
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if got := strings.Split(strings.TrimSpace(out), "\n"); !isSubsequence(lifecycle, got) {
				t.Errorf("events are %v, want %v among them in this order", got, lifecycle)
			}
		})
	}
}

// isSubsequence says whether all of want is in got in the same order.
func isSubsequence(want, got []string) bool {
	for _, g := range got {
		if len(want) > 0 && g == want[0] {
			want = want[1:]
		}
	}
	return len(want) == 0
}

// TestVirtInstallImport names the image by its path, so virt-install looks for its storage pool too.
func TestVirtInstallImport(t *testing.T) {
	need(t, "virt-install", "virsh", "qemu-system-x86_64")
	for name, extra := range map[string][]string{
		"a headless guest on pc":        {"--machine", "pc", "--graphics", "none"},
		"a headless guest on q35":       {"--machine", "q35", "--graphics", "none"},
		"a guest with a screen, on q35": {"--machine", "q35", "--graphics", "vnc", "--video", "vga"},
	} {
		t.Run(name, func(t *testing.T) {
			h := startHost(t)
			path := filepath.Join(h.Dir, "imported.img")
			if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			args := append([]string{
				"--connect", h.URI(qemuURI), "--import", "--name", "imported", "--memory", "64", "--virt-type", "qemu",
				"--disk", "path=" + path + ",format=raw,bus=virtio", "--network", "user", "--osinfo", "generic", "--noautoconsole",
			}, extra...)
			out, err := rig.Run(t.Context(), "virt-install", args...)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if got := strings.TrimSpace(virsh(t, h, qemuURI, "domstate", "imported")); got != "running" {
				t.Errorf("the guest is %s, want running", got)
			}
			run(t, importedCommands, func(args ...string) (string, error) { return virshLoud(t, h, qemuURI, args...) }, path)
			virsh(t, h, qemuURI, "destroy", "imported")
			virsh(t, h, qemuURI, "undefine", "imported", "--nvram")
		})
	}
}

// importedCommands hold for a running guest with an image at FILE.
var importedCommands = []command{
	{name: "its disk's folder is a pool", args: "vol-pool FILE", want: `\S`},
	{name: "its image is a volume", args: "vol-info FILE", want: `Capacity: +1\.00 MiB`},
	{name: "its disk has figures", args: "domblkstat imported vda", want: `vda rd_req \d+`, figures: true},
	{name: "its disk has sizes", args: "domblkinfo imported vda", want: `Capacity: +1048576`},
	{name: "its memory has figures", args: "dommemstat imported", want: `rss \d+`, figures: true},
	{name: "its processor has run", args: "vcpuinfo imported", want: `State: +running`},
	{name: "its processor is not pinned", args: "vcpupin imported", want: ` 0 +0`},
	{name: "it took time", args: "cpu-stats imported --total", want: `cpu_time +\d+\.\d+ seconds`},
}

// TestGoLibvirt runs the life of a domain through go-libvirt, with its events.
func TestGoLibvirt(t *testing.T) {
	h := startHost(t)
	conn, err := h.Dial(testURI)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Disconnect() }() // The host ends it if it does not.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	events, err := conn.LifecycleEvents(ctx)
	if err != nil {
		t.Fatal(err)
	}
	dom, err := conn.DomainDefineXML(testDomain("gopher", "", ""))
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.DomainCreate(dom); err != nil {
		t.Fatal(err)
	}
	if state, _, err := conn.DomainGetState(dom, 0); err != nil || libvirt.DomainState(state) != libvirt.DomainRunning {
		t.Errorf("the state is %d (%v), want running", state, err)
	}
	if err := conn.DomainDestroy(dom); err != nil {
		t.Fatal(err)
	}
	if err := conn.DomainUndefine(dom); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.DomainLookupByName("gopher"); !libvirt.IsNotFound(err) {
		t.Errorf("the error for a missing domain is %v, want not found", err)
	}
	want := []int32{
		int32(libvirt.DomainEventDefined), int32(libvirt.DomainEventStarted), int32(libvirt.DomainEventStopped), int32(libvirt.DomainEventUndefined),
	}
	for len(want) > 0 {
		select {
		case e := <-events:
			if e.Event == want[0] {
				want = want[1:]
			}
		case <-ctx.Done():
			t.Fatalf("events %v did not come", want)
		}
	}
}
