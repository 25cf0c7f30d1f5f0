package node

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// tree writes files below a new root.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// twoCells is a machine of two cells with one socket of two cores of two threads each; CPU 8 is there, but offline.
func twoCells() map[string]string {
	files := map[string]string{
		"proc/meminfo": "MemTotal:  3000 kB\nMemFree:   700 kB\nBuffers:  20 kB\nCached:  30 kB\nSwapCached: 1 kB",
		"proc/cpuinfo": "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\nstepping\t: 7\n" +
			"microcode\t: 0x500002c\ncpu MHz\t\t: 2400.500\naddress sizes\t: 46 bits physical, 48 bits virtual\n\nprocessor\t: 1\nvendor_id\t: X",
		"proc/stat":                                  "cpu  10 2 5 100 7 1 3 0 0 0\ncpu0 4 1 2 50 3 0 1 0 0 0\ncpu10 1 1 1 1 1 1 1 0 0 0\nintr 5",
		"sys/devices/system/cpu/online":              "0-7",
		"sys/devices/system/cpu/present":             "0-8",
		"sys/devices/system/node/online":             "0-1",
		"sys/devices/system/node/node0/cpulist":      "0-3,8",
		"sys/devices/system/node/node1/cpulist":      "4-7",
		"sys/devices/system/node/node0/distance":     "10 20",
		"sys/devices/system/node/node1/distance":     "20 10",
		"sys/devices/system/node/node0/meminfo":      "Node 0 MemTotal:  2000 kB\nNode 0 MemFree:  500 kB",
		"sys/devices/system/node/node1/meminfo":      "Node 1 MemTotal:  1000 kB\nNode 1 MemFree:  200 kB",
		"sys/kernel/mm/hugepages/hugepages-2048kB/x": "",
		"sys/kernel/iommu_groups/0/type":             "DMA",
		"etc/machine-id":                             "0123456789abcdef0123456789abcdef",
	}
	for i := range 8 {
		dir := "sys/devices/system/cpu/cpu" + strconv.Itoa(i)
		files[dir+"/topology/physical_package_id"] = strconv.Itoa(i / 4)
		files[dir+"/topology/die_id"] = "0"
		files[dir+"/topology/core_id"] = strconv.Itoa(i / 2)
		files[dir+"/topology/thread_siblings_list"] = formatList([]int{i &^ 1, i | 1})
		files[dir+"/cache/index3/id"] = strconv.Itoa(i / 4)
		files[dir+"/cache/index3/level"] = "3"
		files[dir+"/cache/index3/type"] = "Unified"
		files[dir+"/cache/index3/size"] = "1536K"
		files[dir+"/cache/index3/shared_cpu_list"] = formatList([]int{i &^ 3, i&^3 + 1, i&^3 + 2, i&^3 + 3})
	}
	files["sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages"] = "0"
	return files
}

func host(t *testing.T, files map[string]string) *Host {
	return New(Options{Root: tree(t, files), Hostname: func() (string, error) { return "h", nil }})
}

func TestNodeOfARegularMachine(t *testing.T) {
	got, err := host(t, twoCells()).Node()
	if err != nil {
		t.Fatal(err)
	}
	want := &pb.Node{
		Model: arch(), MemoryKib: 3000, Cpus: 8, Mhz: 2400, Nodes: 2, Sockets: 1, Cores: 2, Threads: 2,
		CellFreeKib: []uint64{500, 200}, Hostname: "h",
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestNodeOfAnIrregularMachineIsOneSocket(t *testing.T) {
	files := twoCells()
	files["sys/devices/system/cpu/online"] = "0-4,6-7"
	got, err := host(t, files).Node()
	if err != nil || got.Cpus != 7 || got.Nodes != 1 || got.Sockets != 1 || got.Cores != 7 || got.Threads != 1 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestNodeWithoutNUMAAndTopology(t *testing.T) {
	h := host(t, map[string]string{"proc/meminfo": "MemTotal: 8 kB\nMemFree: 4 kB", "sys/devices/system/cpu/online": "0-2"})
	got, err := h.Node()
	if err != nil || got.Nodes != 1 || got.Cores != 3 || !slices.Equal(got.CellFreeKib, []uint64{4}) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := h.CapabilitiesXML("", ""); err != nil {
		t.Error(err)
	}
}

func TestMachinesWithoutTheMinimumAreErrors(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"no memory":      {"sys/devices/system/cpu/online": "0"},
		"nonsense":       {"proc/meminfo": "x", "sys/devices/system/cpu/online": "0"},
		"no cpus":        {"proc/meminfo": "MemTotal: 8 kB"},
		"an empty list":  {"proc/meminfo": "MemTotal: 8 kB", "sys/devices/system/cpu/online": ""},
		"a strange list": {"proc/meminfo": "MemTotal: 8 kB", "sys/devices/system/cpu/online": "3-1"},
	} {
		if got, err := host(t, files).Node(); err == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestCPUStats(t *testing.T) {
	h := host(t, twoCells())
	for _, tc := range []struct {
		cpu                        int
		kernel, user, idle, iowait uint64
	}{
		{AllCPUs, 9, 12, 100, 7}, {0, 3, 5, 50, 3}, {10, 3, 2, 1, 1},
	} {
		got, err := h.CPUStats(tc.cpu)
		want := []Stat{{"kernel", tc.kernel * 1e7}, {"user", tc.user * 1e7}, {"idle", tc.idle * 1e7}, {"iowait", tc.iowait * 1e7}}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("cpu %d: %v, %v", tc.cpu, got, err)
		}
	}
	for _, cpu := range []int{1, -2, 1 << 30} {
		if _, err := h.CPUStats(cpu); !verr.Is(err, verr.InvalidArg) {
			t.Errorf("cpu %d: %v", cpu, err)
		}
	}
}

func TestMemoryStats(t *testing.T) {
	h := host(t, twoCells())
	got, err := h.MemoryStats(AllCells)
	if err != nil || !slices.Equal(got, []Stat{{"total", 3000}, {"free", 700}, {"buffers", 20}, {"cached", 30}}) {
		t.Errorf("all: %v, %v", got, err)
	}
	if got, err = h.MemoryStats(1); err != nil || !slices.Equal(got, []Stat{{"total", 1000}, {"free", 200}}) {
		t.Errorf("cell 1: %v, %v", got, err)
	}
	if _, err = h.MemoryStats(2); !verr.Is(err, verr.InvalidArg) {
		t.Errorf("cell 2: %v", err)
	}
	if free, err := h.FreeMemory(); err != nil || free != 700<<10 {
		t.Errorf("free %d, %v", free, err)
	}
}

func TestCellsFree(t *testing.T) {
	h := host(t, twoCells())
	for _, tc := range []struct {
		start, n int
		want     []uint64
	}{
		{0, 10, []uint64{500 << 10, 200 << 10}}, {1, 1, []uint64{200 << 10}}, {0, 0, []uint64{}},
	} {
		if got, err := h.CellsFree(tc.start, tc.n); err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("from %d: %v, %v", tc.start, got, err)
		}
	}
	for _, start := range []int{-1, 2} {
		if _, err := h.CellsFree(start, 1); !verr.Is(err, verr.InvalidArg) {
			t.Errorf("from %d: %v", start, err)
		}
	}
}

func TestTheOnlyCellHasAllTheMemory(t *testing.T) {
	files := twoCells()
	files["sys/devices/system/node/online"] = "0"
	got, err := host(t, files).MemoryStats(0)
	if err != nil || !slices.Equal(got, []Stat{{"total", 3000}, {"free", 700}}) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestCPUMapKnowsOfflineCPUs(t *testing.T) {
	m, err := host(t, twoCells()).CPUMap()
	want := CPUMap{Total: 9, Online: []bool{true, true, true, true, true, true, true, true, false}}
	if err != nil || !reflect.DeepEqual(m, want) {
		t.Errorf("got %v, %v", m, err)
	}
}

func TestSysinfo(t *testing.T) {
	if _, err := host(t, twoCells()).SysinfoXML(); !verr.Is(err, verr.ConfigUnsupported) {
		t.Errorf("without SMBIOS: %v", err)
	}
	files := map[string]string{dmiDir + "/bios_vendor": "A&B <Inc>\x01", dmiDir + "/product_uuid": "4c4c4544-0000-2010-8020-80c04f202020"}
	h := host(t, files)
	doc, err := h.SysinfoXML()
	if err != nil || !strings.Contains(doc, "<entry name='vendor'>A&amp;B &lt;Inc&gt;</entry>") || strings.Contains(doc, "baseBoard") {
		t.Errorf("%s, %v", doc, err)
	}
}

func TestHostUUIDComesFromTheBestSource(t *testing.T) {
	board := dmiDir + "/product_uuid"
	for _, tc := range []struct {
		name, given string
		files       map[string]string
		want        string
	}{
		{"the configured one", "x", map[string]string{board: "4c4c4544-0000-2010-8020-80c04f202020"}, "x"},
		{"the board's", "", map[string]string{board: "4C4C4544-0000-2010-8020-80C04F202020"}, "4c4c4544-0000-2010-8020-80c04f202020"},
		{"none of a lazy vendor", "", map[string]string{board: "ffffffff-ffff-ffff-ffff-ffffffffffff"}, ""},
		{"one made for the installation", "", map[string]string{"etc/machine-id": "0123456789abcdef0123456789abcdef"}, "124b29eb-97cd-5803-a06a-776366642b43"},
	} {
		h := New(Options{Root: tree(t, tc.files), UUID: tc.given})
		if got := h.hostUUID(); got != tc.want {
			t.Errorf("%s: %q", tc.name, got)
		}
	}
}

func TestCapabilitiesSayWhatTheMachineHas(t *testing.T) {
	h := host(t, twoCells())
	doc, err := h.CapabilitiesXML("<guest><os_type>hvm</os_type><arch name='x86_64'><wordsize>64</wordsize><domain type='qemu'/></arch></guest>",
		"<cpu><model>Cascadelake-Server</model><feature name='vmx'/><feature name='sse4.1'/></cpu>"+
			"<secmodel><model>none</model><doi>0</doi></secmodel><secmodel><model>dac</model><doi>0</doi><baselabel type='qemu'>+64055:+64055</baselabel></secmodel>")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"<model>Cascadelake-Server</model>\n      <vendor>Intel</vendor>\n      <microcode version='83886124'/>",
		"<signature family='6' model='85' stepping='7'/>", "<topology sockets='1' dies='1' cores='2' threads='2'/>",
		"<maxphysaddr mode='emulate' bits='46'/>\n      <feature name='vmx'/>\n      <pages size='4' unit='KiB'/>", "<iommu support='yes'/>",
		"<cells num='2'>", "<sibling id='1' value='20'/>", "<cpu id='7' socket_id='1' die_id='0' core_id='3' siblings='6-7'/>",
		"<bank id='1' level='3' type='both' size='1536' unit='KiB' cpus='4-7'/>", "<memory unit='KiB'>2000</memory>",
		"<pages size='4' unit='KiB'>500</pages>", "<baselabel type='qemu'>+64055:+64055</baselabel>", "<wordsize>64</wordsize>",
	} {
		if !strings.Contains(doc, want) {
			t.Errorf("no %s", want)
		}
	}
	if t.Failed() {
		t.Log(doc)
	}
	validate(t, "capability", doc)
}

func TestCapabilitiesRefuseMalformedFragments(t *testing.T) {
	h := host(t, twoCells())
	for _, tc := range [][2]string{{"", "<cpu>"}, {"", "</host><host>"}, {"<guest>", ""}, {"</capabilities><x/>", ""}, {"<!DOCTYPE a>", ""}} {
		if _, err := h.CapabilitiesXML(tc[0], tc[1]); !verr.Is(err, verr.XMLError) {
			t.Errorf("%q: %v", tc, err)
		}
	}
}

func TestThisMachine(t *testing.T) {
	h := New(Options{})
	n, err := h.Node()
	if err != nil {
		t.Fatal(err)
	}
	if n.Nodes*n.Sockets*n.Cores*n.Threads != n.Cpus || n.MemoryKib == 0 || n.Model == "" || len(n.Model) > 31 {
		t.Errorf("node %v", n)
	}
	doc, err := h.CapabilitiesXML("", "")
	if err != nil {
		t.Fatal(err)
	}
	validate(t, "capability", doc)
	if _, err := h.CPUStats(AllCPUs); err != nil {
		t.Error(err)
	}
}

// validate checks a document against libvirt's schema where both it and the validator are installed.
func validate(t *testing.T, schema, doc string) {
	t.Helper()
	rng := "/usr/share/libvirt/schemas/" + schema + ".rng"
	if _, err := os.Stat(rng); err != nil || doc == "" {
		return
	}
	if _, err := exec.LookPath("xmllint"); errors.Is(err, exec.ErrNotFound) {
		return
	}
	cmd := exec.CommandContext(t.Context(), "xmllint", "--noout", "--relaxng", rng, "-")
	cmd.Stdin = strings.NewReader(doc)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s\n%s", schema, err, out, doc)
	}
}
