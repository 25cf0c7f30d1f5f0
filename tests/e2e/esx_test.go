package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/tests/rig"
)

// labURI is the connection to the first simulated hypervisor of a test.
const labURI = "esx:///lab"

// startVim starts a simulated hypervisor, which is ended with the test.
func startVim(t *testing.T, args ...string) *rig.Vim {
	t.Helper()
	if testing.Short() {
		t.Skip("starts daemons")
	}
	bin, err := built.Dir()
	if err != nil {
		t.Fatal(err)
	}
	v, err := rig.StartVim(t.Context(), filepath.Join(bin, "vimsim"), args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	return v
}

// startESXHost starts a host with endpoints by name.
func startESXHost(t *testing.T, endpoints map[string]*rig.Vim) *rig.Host {
	t.Helper()
	need(t, "virsh")
	h := newHost(t)
	var text strings.Builder
	text.WriteString("[config]\n")
	for name, v := range endpoints {
		file := filepath.Join(h.Dir, name+".password")
		if err := os.WriteFile(file, []byte(v.Password), 0o600); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "[config.endpoints.%s]\naddress = %q\nuser = %q\npassword_file = %q\nthumbprint = %q\n",
			name, v.Address, v.User, file, v.Thumbprint)
	}
	dir := filepath.Join(h.Dir, "etc", "plugins.d")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "esx.toml"), []byte(text.String()), 0o600)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := h.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return h
}

// truth is what a simulator itself says of its machines.
type truth struct {
	t      *testing.T
	client *govmomi.Client
}

func askDirectly(t *testing.T, v *rig.Vim) *truth {
	t.Helper()
	at := &url.URL{Scheme: "https", Host: v.Address, Path: "/sdk", User: url.UserPassword(v.User, v.Password)}
	client, err := govmomi.NewClient(t.Context(), at, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Logout(context.Background()) }) // The simulator ends with the test.
	return &truth{t, client}
}

// machines are the machines by name.
func (tr *truth) machines(ctx context.Context) (map[string]mo.VirtualMachine, error) {
	m := view.NewManager(tr.client.Client)
	v, err := m.CreateContainerView(ctx, tr.client.ServiceContent.RootFolder, []string{"VirtualMachine"}, true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = v.Destroy(context.WithoutCancel(ctx)) }() // A view costs nothing but memory.
	var all []mo.VirtualMachine
	err = v.Retrieve(ctx, []string{"VirtualMachine"}, []string{"name", "runtime.powerState", "config.hardware", "config.uuid", "snapshot"}, &all)
	byName := map[string]mo.VirtualMachine{}
	for _, one := range all {
		byName[one.Name] = one
	}
	return byName, err
}

// states are libvirt's words for the power states.
var powerStates = map[types.VirtualMachinePowerState]string{
	types.VirtualMachinePowerStatePoweredOn:  "running",
	types.VirtualMachinePowerStatePoweredOff: "shut off",
	types.VirtualMachinePowerStateSuspended:  "paused",
}

// same says what of the list of a connection differs from what the simulator has: names, states, UUIDs, memory, vCPUs, snapshots.
func (tr *truth) same(h *rig.Host, uri string) error {
	machines, err := tr.machines(tr.t.Context())
	if err != nil {
		return err
	}
	conn, err := h.Dial(uri)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Disconnect() }() // Every call has been answered.
	domains, _, err := conn.ConnectListAllDomains(1, 0)
	if err != nil {
		return err
	}
	var wrong []error
	seen := map[string]bool{}
	for _, d := range domains {
		seen[d.Name] = true
		m, ok := machines[d.Name]
		if !ok {
			wrong = append(wrong, fmt.Errorf("%s is shown and not there", d.Name))
			continue
		}
		state, maxMem, _, vcpus, _, err := conn.DomainGetInfo(d)
		if err != nil {
			return err
		}
		names, err := conn.DomainSnapshotListNames(d, 1000, 0)
		if err != nil {
			return err
		}
		said := fmt.Sprintf("%s, %d KiB, %d vCPUs, %d snapshots, %x", libvirtStates[state], maxMem, vcpus, len(names), d.UUID)
		is := fmt.Sprintf("%s, %d KiB, %d vCPUs, %d snapshots, %s", powerStates[m.Runtime.PowerState], int64(m.Config.Hardware.MemoryMB)<<10,
			m.Config.Hardware.NumCPU, countSnapshots(m.Snapshot), strings.ReplaceAll(m.Config.Uuid, "-", ""))
		if said != is {
			wrong = append(wrong, fmt.Errorf("%s is shown as %s and is %s", d.Name, said, is))
		}
	}
	for name := range machines {
		if !seen[name] {
			wrong = append(wrong, fmt.Errorf("%s is there and not shown", name))
		}
	}
	return errors.Join(wrong...)
}

var libvirtStates = map[uint8]string{1: "running", 3: "paused", 5: "shut off", 6: "crashed"}

func countSnapshots(info *types.VirtualMachineSnapshotInfo) int {
	var count func([]types.VirtualMachineSnapshotTree) int
	count = func(trees []types.VirtualMachineSnapshotTree) int {
		n := len(trees)
		for _, tree := range trees {
			n += count(tree.ChildSnapshotList)
		}
		return n
	}
	if info == nil {
		return 0
	}
	return count(info.RootSnapshotList)
}

// machineXML is the definition of a machine without disks.
func machineXML(name string) string {
	return `<domain type='vmware'>
  <name>` + name + `</name>
  <description>made by a test</description>
  <memory unit='KiB'>65536</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64'>hvm</type></os>
  <devices>
    <controller type='scsi' index='0' model='lsilogic'/>
    <interface type='bridge'><source bridge='VM Network'/><model type='e1000'/></interface>
  </devices>
</domain>`
}

// expect runs virsh and checks that its answer has a text.
func expect(t *testing.T, h *rig.Host, uri, want string, args ...string) string {
	t.Helper()
	out, err := h.Virsh(t.Context(), uri, args...)
	if err != nil {
		t.Errorf("%v", err)
		return out
	}
	if !strings.Contains(out, want) {
		t.Errorf("virsh %s: no %q in\n%s", strings.Join(args, " "), want, out)
	}
	return out
}

// refused runs virsh and checks that it fails with a text.
func refused(t *testing.T, h *rig.Host, uri, want string, args ...string) {
	t.Helper()
	out, err := h.Virsh(t.Context(), uri, args...)
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("virsh %s: %s, %v; want an error with %q", strings.Join(args, " "), out, err, want)
	}
}

func TestLifeOnESX(t *testing.T) {
	sim := startVim(t, "--machines", "2")
	h := startESXHost(t, map[string]*rig.Vim{"lab": sim})
	real := askDirectly(t, sim)
	events, end := listen(t, h, labURI)
	if err := real.same(h, labURI); err != nil {
		t.Fatal(err)
	}
	expect(t, h, labURI, "ESX", "version")
	expect(t, h, labURI, "<arch>x86_64</arch>", "capabilities")
	expect(t, h, labURI, "CPU model", "nodeinfo")
	expect(t, h, labURI, "KiB", "freecell")
	virsh(t, h, labURI, "hostname")

	virsh(t, h, labURI, "define", write(t, "web.xml", machineXML("web")))
	refused(t, h, labURI, "web", "define", write(t, "again.xml", machineXML("web")))
	expect(t, h, labURI, "made by a test", "dumpxml", "web")
	expect(t, h, labURI, "made by a test", "desc", "web")
	expect(t, h, labURI, "VM Network", "domiflist", "web")
	for _, step := range []struct {
		args  []string
		state string
	}{
		{[]string{"start", "web"}, "running"},
		{[]string{"suspend", "web"}, "paused"},
		{[]string{"resume", "web"}, "running"},
		{[]string{"reset", "web"}, "running"},
		{[]string{"destroy", "web"}, "shut off"},
	} {
		virsh(t, h, labURI, step.args...)
		expect(t, h, labURI, step.state, "domstate", "web")
		if err := real.same(h, labURI); err != nil {
			t.Errorf("after %v: %v", step.args, err)
		}
	}
	refused(t, h, labURI, "not", "destroy", "web") // it is off
	refused(t, h, labURI, "failed to get domain", "start", "nobody")

	virsh(t, h, labURI, "setvcpus", "web", "2", "--config")
	virsh(t, h, labURI, "setmaxmem", "web", "131072", "--config")
	expect(t, h, labURI, "131072", "dominfo", "web")
	virsh(t, h, labURI, "schedinfo", "web", "--set", "reservation=100")
	expect(t, h, labURI, "reservation    : 100", "schedinfo", "web")
	virsh(t, h, labURI, "autostart", "web")
	expect(t, h, labURI, "web", "list", "--all", "--name", "--autostart")
	virsh(t, h, labURI, "autostart", "--disable", "web")
	expect(t, h, labURI, "displayName = \"web\"", "domxml-to-native", "vmware-vmx", "--domain", "web")
	vmx := write(t, "x.vmx", "config.version = \"8\"\nvirtualHW.version = \"4\"\ndisplayName = \"native\"\nmemsize = \"64\"\n")
	expect(t, h, labURI, "<name>native</name>", "domxml-from-native", "vmware-vmx", vmx)

	virsh(t, h, labURI, "snapshot-create-as", "web", "first", "the first")
	virsh(t, h, labURI, "snapshot-create-as", "web", "second")
	refused(t, h, labURI, "first", "snapshot-create-as", "web", "first")
	expect(t, h, labURI, "second", "snapshot-current", "web", "--name")
	expect(t, h, labURI, "<description>the first</description>", "snapshot-dumpxml", "web", "first")
	expect(t, h, labURI, "first\n  |\n  +- second", "snapshot-list", "web", "--tree")
	expect(t, h, labURI, "first", "snapshot-parent", "web", "second")
	virsh(t, h, labURI, "snapshot-revert", "web", "first")
	expect(t, h, labURI, "first", "snapshot-current", "web", "--name")
	refused(t, h, labURI, "snapshot", "undefine", "web")
	virsh(t, h, labURI, "snapshot-delete", "web", "first", "--children")
	if out := virsh(t, h, labURI, "snapshot-list", "web", "--name"); strings.TrimSpace(out) != "" {
		t.Errorf("snapshots are left: %s", out)
	}
	if err := real.same(h, labURI); err != nil {
		t.Error(err)
	}

	virsh(t, h, labURI, "start", "web")
	shot := filepath.Join(t.TempDir(), "shot.png")
	virsh(t, h, labURI, "screenshot", "web", shot)
	if png, err := os.ReadFile(shot); err != nil || !strings.HasPrefix(string(png), "\x89PNG") {
		t.Errorf("the picture begins with %q, %v", png[:min(len(png), 8)], err)
	}
	expect(t, h, labURI, "cpu.time", "domstats", "web")
	virsh(t, h, labURI, "destroy", "web")
	virsh(t, h, labURI, "undefine", "web")
	refused(t, h, labURI, "failed to get domain", "dominfo", "web")
	if err := real.same(h, labURI); err != nil {
		t.Error(err)
	}
	want := []string{"Defined Added", "Started", "Suspended", "Resumed", "Stopped Destroyed", "Undefined"}
	eventually(t, answerWait, func() error {
		said := events()
		for _, w := range want {
			if !strings.Contains(said, "'web': "+w) {
				return fmt.Errorf("no event %q in\n%s", w, said)
			}
		}
		return nil
	})
	end()
}

// listen runs virsh event and returns what it has printed so far.
func listen(t *testing.T, h *rig.Host, uri string) (said func() string, end func()) {
	t.Helper()
	out := &lockedText{}
	cmd := rig.Command(t.Context(), "virsh", "-c", h.URI(uri), "event", "--all", "--loop", "--timeout", "600")
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond) // virsh does not say when it listens
	return out.String, func() {
		_ = cmd.Process.Kill() // it prints as it goes
		_ = cmd.Wait()
	}
}

// lockedText is what a process has printed.
type lockedText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestStorageOfESX(t *testing.T) {
	sim := startVim(t, "--machines", "1")
	h := startESXHost(t, map[string]*rig.Vim{"lab": sim})
	var vmfs, iscsi string
	for _, name := range strings.Fields(virsh(t, h, labURI, "pool-list", "--all", "--name")) {
		switch xml := virsh(t, h, labURI, "pool-dumpxml", name); {
		case strings.Contains(xml, "<pool type='iscsi'>"):
			iscsi = name
		case strings.Contains(xml, "<pool type='vmfs'>") || strings.Contains(xml, "<pool type='dir'>"):
			vmfs = name
		}
	}
	if vmfs == "" || iscsi == "" {
		t.Fatalf("pools are %s", virsh(t, h, labURI, "pool-list", "--all", "--details"))
	}
	expect(t, h, labURI, "running", "pool-info", vmfs)
	virsh(t, h, labURI, "pool-refresh", vmfs)
	virsh(t, h, labURI, "vol-create-as", vmfs, "disks/thin.vmdk", "8M", "--allocation", "0", "--format", "vmdk")
	virsh(t, h, labURI, "vol-create-as", vmfs, "disks/thick.vmdk", "8M", "--allocation", "8M", "--format", "vmdk")
	virsh(t, h, labURI, "vol-clone", "--pool", vmfs, "disks/thin.vmdk", "disks/copy.vmdk")
	expect(t, h, labURI, "disks/copy.vmdk", "vol-list", vmfs)
	expect(t, h, labURI, "<format type='vmdk'/>", "vol-dumpxml", "--pool", vmfs, "disks/thin.vmdk")
	path := strings.TrimSpace(virsh(t, h, labURI, "vol-path", "--pool", vmfs, "disks/thin.vmdk"))
	if path != "["+vmfs+"] disks/thin.vmdk" {
		t.Errorf("the path is %q", path)
	}
	expect(t, h, labURI, vmfs, "vol-pool", path)
	key := strings.TrimSpace(virsh(t, h, labURI, "vol-key", "--pool", vmfs, "disks/thin.vmdk"))
	expect(t, h, labURI, "disks/thin.vmdk", "vol-name", key)
	virsh(t, h, labURI, "vol-resize", "--pool", vmfs, "disks/thin.vmdk", "16M")
	expect(t, h, labURI, "16.00 MiB", "vol-info", "--pool", vmfs, "disks/thin.vmdk")
	refused(t, h, labURI, "", "vol-resize", "--pool", vmfs, "disks/thin.vmdk", "4M", "--shrink")
	virsh(t, h, labURI, "vol-wipe", "--pool", vmfs, "disks/thick.vmdk")
	refused(t, h, labURI, "", "vol-create-as", vmfs, "../out.vmdk", "8M", "--allocation", "0", "--format", "vmdk")

	virsh(t, h, labURI, "vol-create-as", vmfs, "isos/tools.iso", "1M", "--format", "iso")
	content := make([]byte, 1<<20)
	for i := range content {
		content[i] = byte(i*7 + i>>8)
	}
	file := write(t, "tools.iso", string(content))
	virsh(t, h, labURI, "vol-upload", "--pool", vmfs, "isos/tools.iso", file)
	back := filepath.Join(t.TempDir(), "back.iso")
	virsh(t, h, labURI, "vol-download", "--pool", vmfs, "isos/tools.iso", back)
	if got, err := os.ReadFile(back); err != nil || !slices.Equal(got, content) {
		t.Errorf("%d bytes came back, %v; want the %d that went", len(got), err, len(content))
	}
	for _, name := range []string{"disks/thin.vmdk", "disks/thick.vmdk", "disks/copy.vmdk", "isos/tools.iso"} {
		virsh(t, h, labURI, "vol-delete", "--pool", vmfs, name)
	}
	if out := virsh(t, h, labURI, "vol-list", vmfs); strings.Contains(out, "disks/") {
		t.Errorf("volumes are left: %s", out)
	}
	luns := virsh(t, h, labURI, "vol-list", iscsi)
	name := regexp.MustCompile(`(?m)^ *(\S+) `).FindStringSubmatch(luns)
	if name == nil {
		t.Fatalf("no LUN in %s", luns)
	}
	expect(t, h, labURI, "<capacity", "vol-dumpxml", "--pool", iscsi, name[1])
	refused(t, h, labURI, "not supported", "vol-delete", "--pool", iscsi, name[1])
	refused(t, h, labURI, "not supported", "pool-destroy", vmfs)
}

func TestNetworksOfESX(t *testing.T) {
	sim := startVim(t, "--machines", "1")
	h := startESXHost(t, map[string]*rig.Vim{"lab": sim})
	expect(t, h, labURI, "vSwitch0", "net-list", "--all", "--name")
	expect(t, h, labURI, "<portgroup name='VM Network'>", "net-dumpxml", "vSwitch0")
	def := func(vlan string) string {
		return write(t, "net.xml", `<network><name>vSwitch7</name><portgroup name='guests'><vlan><tag id='`+vlan+`'/></vlan>
			<bandwidth><inbound average='1000' peak='2000' burst='500'/><outbound average='1000' peak='2000' burst='500'/></bandwidth>
			</portgroup></network>`)
	}
	virsh(t, h, labURI, "net-define", def("7"))
	expect(t, h, labURI, "<tag id='7'/>", "net-dumpxml", "vSwitch7")
	expect(t, h, labURI, "average='1000'", "net-dumpxml", "vSwitch7")
	expect(t, h, labURI, "yes", "net-info", "vSwitch7")
	id := strings.TrimSpace(virsh(t, h, labURI, "net-uuid", "vSwitch7"))
	virsh(t, h, labURI, "net-define", def("8")) // in place
	expect(t, h, labURI, "<tag id='8'/>", "net-dumpxml", id)
	virsh(t, h, labURI, "net-undefine", "vSwitch7")
	refused(t, h, labURI, "vSwitch7", "net-info", "vSwitch7")
	refused(t, h, labURI, "", "net-undefine", "vSwitch0")
	nics := strings.Fields(virsh(t, h, labURI, "iface-list", "--all"))
	if !slices.Contains(nics, "vmnic0") {
		t.Fatalf("interfaces are %q", nics)
	}
	mac := strings.TrimSpace(virsh(t, h, labURI, "iface-mac", "vmnic0"))
	expect(t, h, labURI, "vmnic0", "iface-name", mac)
	expect(t, h, labURI, "<mac address='"+mac+"'/>", "iface-dumpxml", "vmnic0")
}

func TestVCenter(t *testing.T) {
	sim := startVim(t, "--vpx", "--machines", "2")
	h := startESXHost(t, map[string]*rig.Vim{"vc": sim})
	real := askDirectly(t, sim)
	if err := real.same(h, "vpx:///vc"); err != nil {
		t.Error(err)
	}
	// Where the machines of a cluster are is the simulator's choice.
	var one, other string
	var names []string
	for n := range 3 {
		host := fmt.Sprintf("vpx:///vc/DC0/DC0_C0/DC0_C0_H%d", n)
		found := strings.Fields(virsh(t, h, host, "list", "--all", "--name"))
		if len(found) > 0 && one == "" {
			one, names = host, found
		} else {
			other = host
		}
	}
	if one == "" {
		t.Fatal("no host of the cluster has a machine")
	}
	expect(t, h, one, "<vmware:datacenterpath>DC0</vmware:datacenterpath>", "dumpxml", names[0])
	target := "vpx+unix:///?name=" + url.QueryEscape(other) + "&socket=" + url.QueryEscape(h.Socket())
	virsh(t, h, one, "migrate", "--live", names[0], target)
	expect(t, h, other, names[0], "list", "--all", "--name")
	if out := virsh(t, h, one, "list", "--all", "--name"); slices.Contains(strings.Fields(out), names[0]) {
		t.Errorf("%s is still at its first host: %s", names[0], out)
	}
	refused(t, h, "vpx:///vc/DC0/nowhere", "nowhere", "list")
	refused(t, h, "vpx:///nobody", "nobody", "list")
}

// TestAHypervisorThatStandsStillDelaysNobody stops one of two simulators.
func TestAHypervisorThatStandsStillDelaysNobody(t *testing.T) {
	still, other := startVim(t, "--machines", "2"), startVim(t, "--machines", "2")
	h := startESXHost(t, map[string]*rig.Vim{"lab": still, "other": other})
	virsh(t, h, labURI, "list", "--all")
	virsh(t, h, "esx:///other", "list", "--all")
	if err := syscall.Kill(still.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	hung := make(chan error, 1)
	go func() {
		_, err := h.Virsh(context.Background(), labURI, "reset", strings.Fields(virsh(t, h, labURI, "list", "--name"))[0])
		hung <- err
	}()
	names := strings.Fields(virsh(t, h, labURI, "list", "--all", "--name")) // from memory
	if len(names) != 2 {
		t.Errorf("the list of the one that stands still has %q", names)
	}
	worst := time.Duration(0)
	for i := range 20 {
		begin := time.Now()
		virsh(t, h, "esx:///other", "define", write(t, "w.xml", machineXML(fmt.Sprintf("w%d", i))))
		virsh(t, h, "esx:///other", "undefine", fmt.Sprintf("w%d", i))
		worst = max(worst, time.Since(begin))
	}
	t.Logf("the slowest define and undefine of the other took %s", worst)
	if worst > 5*time.Second {
		t.Errorf("a define and undefine took %s", worst)
	}
	if err := syscall.Kill(still.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	<-hung
	eventually(t, settled, func() error { return askDirectly(t, still).same(h, labURI) })
}

// TestKillsOfTheESXDriver kills the driver 50 times, and now and then the core, while clients do all kinds of things; after each the picture
// must be what the simulator has.
func TestKillsOfTheESXDriver(t *testing.T) {
	sim := startVim(t, "--machines", "5")
	h := startESXHost(t, map[string]*rig.Vim{"lab": sim})
	real := askDirectly(t, sim)
	seed := uint64(time.Now().UnixNano())
	t.Logf("the seed is %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	virsh(t, h, labURI, "list", "--all")
	done := 0
	for round := range 50 {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		var made [4]int
		for w := range made {
			wg.Go(func() { made[w] = esxWork(h, w, round, stop) })
		}
		time.Sleep(time.Duration(random.IntN(1000)) * time.Millisecond)
		kinds := []rig.Kind{rig.Plugin}
		if round%10 == 9 {
			kinds = []rig.Kind{rig.Plugin, rig.Core}
		}
		if _, err := h.Kill(kinds...); err != nil {
			t.Fatal(err)
		}
		close(stop)
		_ = h.ResetPlugin(t.Context(), "esx") // its pauses grow if every run is cut short; the core may be gone
		wg.Wait()
		for _, n := range made {
			done += n
		}
		if slices.Contains(kinds, rig.Core) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			err := errors.Join(h.WaitCore(ctx), h.Start(ctx))
			cancel()
			if err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, settled, func() error {
			if err := real.same(h, labURI); err != nil {
				return fmt.Errorf("round %d: %w", round, err)
			}
			return nil
		})
	}
	if done < 50 {
		t.Errorf("only %d operations were answered: nothing was tested", done)
	}
	t.Logf("%d operations were answered", done)
}

// esxWork does all kinds of things to machines until it is stopped, and returns how many were answered well.
func esxWork(h *rig.Host, worker, round int, stop <-chan struct{}) (done int) {
	conn, err := h.Dial(labURI)
	if err != nil {
		return 0
	}
	defer func() { _ = conn.Disconnect() }() // The core may be gone.
	name := fmt.Sprintf("m%d", worker)
	for i := 0; ; i++ {
		select {
		case <-stop:
			return done
		case <-conn.Disconnected():
			return done
		default:
		}
		dom, err := conn.DomainLookupByName(name)
		if err != nil {
			if _, err = conn.DomainDefineXML(machineXML(name)); err == nil {
				done++
			}
			continue
		}
		switch (i + round) % 7 {
		case 0:
			err = conn.DomainCreate(dom)
		case 1:
			_, err = conn.DomainSnapshotCreateXML(dom, fmt.Sprintf("<domainsnapshot><name>s%d-%d</name></domainsnapshot>", round, i), 0)
		case 2:
			err = conn.DomainSuspend(dom)
		case 3:
			err = conn.DomainResume(dom)
		case 4:
			err = conn.DomainDestroy(dom)
		case 5:
			err = conn.DomainSetMaxMemory(dom, uint64(64+4*(i%8))<<10)
		case 6:
			err = conn.DomainUndefineFlags(dom, 2) // with its snapshots
		}
		if err == nil {
			done++
		}
	}
}

// TestAnESXPasswordIsASecretOfTheHost logs in with a secret that the operator lets the driver have.
func TestAnESXPasswordIsASecretOfTheHost(t *testing.T) {
	need(t, "virsh")
	sim := startVim(t, "--machines", "1")
	h := newHost(t)
	const id = "6a2f4bd5-0fb7-4c61-b51e-6f4a80cbb0f4"
	dir := filepath.Join(h.Dir, "etc", "plugins.d")
	text := fmt.Sprintf("secrets = [%q]\n[config.endpoints.lab]\naddress = %q\nuser = %q\nsecret = %q\nthumbprint = %q\n",
		id, sim.Address, sim.User, id, sim.Thumbprint)
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "esx.toml"), []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := h.Start(ctx); err != nil {
		t.Fatal(err)
	}
	refused(t, h, labURI, "secret", "list")
	virsh(t, h, qemuURI, "secret-define", write(t, "s.xml", "<secret private='yes'><uuid>"+id+"</uuid></secret>"))
	virsh(t, h, qemuURI, "secret-set-value", id, "--file", write(t, "value", sim.Password), "--plain")
	eventually(t, settled, func() error {
		_, err := h.Virsh(t.Context(), labURI, "list", "--all")
		return err
	})
	log, err := os.ReadFile(h.LogFile())
	if err != nil || strings.Contains(string(log), sim.Password) {
		t.Errorf("the log has the password, or cannot be read: %v", err)
	}
}
