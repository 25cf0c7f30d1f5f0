package node

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/domxml"
)

// minCacheLevel is the level of the processor caches from which on libvirt lists them.
const minCacheLevel = 3

// cacheTypes are libvirt's names of the kernel's.
var cacheTypes = map[string]string{"Unified": "both", "Instruction": "code", "Data": "data"}

// featureName is what libvirt's schema of the document allows for a CPU feature. Names with a dot, such as sse4.1, are not
// among them; libvirt prints them all the same.
var featureName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

// CapabilitiesXML composes libvirt's <capabilities> document of this machine. guestsXML are <guest> elements. hostXML may have
// what only a driver knows, as children of <host>: <secmodel>, <migration_features>, and a <cpu> with <model>, <vendor> and
// <feature>, which are put into the machine's own. Malformed fragments are XMLError.
func (h *Host) CapabilitiesXML(guestsXML, hostXML string) (string, error) {
	host, err := h.capsHost(hostXML)
	if err != nil {
		return "", err
	}
	text, err := xml.Marshal(struct {
		XMLName xml.Name `xml:"host"`
		libvirtxml.CapsHost
	}{CapsHost: *host})
	if err != nil {
		return "", fmt.Errorf("print capabilities: %w", err)
	}
	return domxml.Reformat("<capabilities>" + string(text) + guestsXML + "</capabilities>")
}

func (h *Host) capsHost(hostXML string) (*libvirtxml.CapsHost, error) {
	cells, err := h.cells()
	if err != nil {
		return nil, err
	}
	given, err := parseHost(hostXML)
	if err != nil {
		return nil, err
	}
	sizes := h.pageSizes()
	host := &libvirtxml.CapsHost{
		UUID: h.hostUUID(), CPU: h.capsCPU(summarize(cells), sizes), PowerManagement: &libvirtxml.CapsHostPowerManagement{},
		IOMMU: &libvirtxml.CapsHostIOMMU{Support: yesNo(h.hasIOMMU())}, MigrationFeatures: given.MigrationFeatures,
		NUMA: h.capsTopology(cells, sizes), Cache: h.capsCache(cells), SecModel: given.SecModel,
	}
	if c := given.CPU; c != nil {
		host.CPU.Model, host.CPU.FeatureFlags = c.Model, nil
		for _, f := range c.FeatureFlags {
			if featureName.MatchString(f.Name) {
				host.CPU.FeatureFlags = append(host.CPU.FeatureFlags, f)
			}
		}
		if c.Vendor != "" {
			host.CPU.Vendor = c.Vendor
		}
	}
	return host, nil
}

func parseHost(hostXML string) (*libvirtxml.CapsHost, error) {
	var host libvirtxml.CapsHost
	doc := "<host>" + hostXML + "</host>"
	if err := domxml.Check(doc, "host"); err != nil {
		return nil, err
	}
	if err := xml.Unmarshal([]byte(doc), &host); err != nil {
		return nil, fmt.Errorf("parse host capabilities: %w", err)
	}
	return &host, nil
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (h *Host) hasIOMMU() bool {
	groups, err := os.ReadDir(h.path("sys/kernel/iommu_groups"))
	return err == nil && len(groups) > 0
}

// vendors are libvirt's names of the makers of x86 processors, by what the processors call themselves.
var vendors = map[string]string{"AuthenticAMD": "AMD", "GenuineIntel": "Intel", "HygonGenuine": "Hygon"}

func (h *Host) capsCPU(t summary, sizes []int) *libvirtxml.CapsHostCPU {
	info := h.cpuinfo()
	c := &libvirtxml.CapsHostCPU{
		Arch: arch(), Vendor: vendors[info["vendor_id"]],
		Topology: &libvirtxml.CapsHostCPUTopology{
			Sockets: int(t.sockets), Dies: int(t.dies), Cores: int(t.cores / max(1, t.dies)), Threads: int(t.threads),
		},
	}
	if version, err := strconv.ParseInt(info["microcode"], 0, 32); err == nil && version > 0 {
		c.Microcode = &libvirtxml.CapsHostCPUMicrocode{Version: int(version)}
	}
	family, err1 := strconv.ParseUint(info["cpu family"], 10, 16)
	model, err2 := strconv.ParseUint(info["model"], 10, 16)
	stepping, err3 := strconv.ParseUint(info["stepping"], 10, 16)
	if errors.Join(err1, err2, err3) == nil && family > 0 {
		c.Signature = &libvirtxml.CapsHostCPUSignature{Family: int(family), Model: int(model), Stepping: int(stepping)}
	}
	if bits, _, ok := strings.Cut(info["address sizes"], " bits physical"); ok {
		if n, err := strconv.ParseUint(bits, 10, 8); err == nil && n > 0 {
			c.MaxPhysAddr = &libvirtxml.CapsHostCPUMaxPhysAddr{Mode: "emulate", Bits: uint(n)}
		}
	}
	for _, size := range sizes {
		c.PageSizes = append(c.PageSizes, libvirtxml.CapsHostCPUPageSize{Unit: "KiB", Size: size})
	}
	return c
}

// pageSizes are the sizes of memory pages in KiB, the ordinary one first.
func (h *Host) pageSizes() []int {
	sizes := []int{os.Getpagesize() >> 10}
	entries, err := os.ReadDir(h.path("sys/kernel/mm/hugepages"))
	if err != nil {
		return sizes
	}
	for _, e := range entries {
		text, ok := strings.CutPrefix(e.Name(), "hugepages-")
		size, err := strconv.ParseUint(strings.TrimSuffix(text, "kB"), 10, 31)
		if ok && err == nil && size > 0 {
			sizes = append(sizes, int(size))
		}
	}
	slices.Sort(sizes[1:])
	return sizes
}

func (h *Host) capsTopology(cells []cell, sizes []int) *libvirtxml.CapsHostNUMATopology {
	list := &libvirtxml.CapsHostNUMACells{Num: uint(len(cells))}
	for _, c := range cells {
		list.Cells = append(list.Cells, h.capsCell(c, cells, sizes))
	}
	return &libvirtxml.CapsHostNUMATopology{Cells: list}
}

func (h *Host) capsCell(c cell, cells []cell, sizes []int) libvirtxml.CapsHostNUMACell {
	out := libvirtxml.CapsHostNUMACell{ID: c.id, CPUS: &libvirtxml.CapsHostNUMACPUs{Num: uint(len(c.cpus))}}
	if total, _, err := h.cellMemory(c.id, len(cells)); err == nil {
		out.Memory = &libvirtxml.CapsHostNUMAMemory{Unit: "KiB", Size: total}
		out.PageInfo = h.capsPages(c.id, len(cells), total, sizes)
	}
	if distances := strings.Fields(h.readLine("sys/devices/system/node", "node"+strconv.Itoa(c.id), "distance")); len(distances) == len(cells) {
		out.Distances = &libvirtxml.CapsHostNUMADistances{}
		for i, text := range distances {
			if n, err := strconv.ParseUint(text, 10, 8); err == nil {
				out.Distances.Siblings = append(out.Distances.Siblings, libvirtxml.CapsHostNUMASibling{ID: cells[i].id, Value: int(n)})
			}
		}
	}
	for _, p := range c.cpus {
		out.CPUS.CPUs = append(out.CPUS.CPUs, libvirtxml.CapsHostNUMACPU{
			ID: p.id, SocketID: &p.socket, DieID: &p.die, CoreID: &p.core, Siblings: formatList(p.siblings),
		})
	}
	return out
}

// capsPages counts the huge pages of a cell; what they leave of its memory are ordinary pages.
func (h *Host) capsPages(id, cells int, totalKiB uint64, sizes []int) []libvirtxml.CapsHostNUMAPageInfo {
	pages := []libvirtxml.CapsHostNUMAPageInfo{{Unit: "KiB", Size: sizes[0]}}
	rest := totalKiB
	for _, size := range sizes[1:] {
		name := "hugepages-" + strconv.Itoa(size) + "kB"
		dir := "sys/devices/system/node/node" + strconv.Itoa(id) + "/hugepages"
		if cells == 1 {
			dir = "sys/kernel/mm/hugepages"
		}
		count := uint64(max(0, h.readInt(0, dir, name, "nr_hugepages")))
		pages = append(pages, libvirtxml.CapsHostNUMAPageInfo{Unit: "KiB", Size: size, Count: count})
		rest -= min(rest, count*uint64(size))
	}
	pages[0].Count = rest / uint64(sizes[0])
	return pages
}

// capsCache lists the large processor caches, each once.
func (h *Host) capsCache(cells []cell) *libvirtxml.CapsHostCache {
	type bank struct {
		level, id int
		kind      string
	}
	seen := map[bank]bool{}
	cache := &libvirtxml.CapsHostCache{}
	for _, c := range cells {
		for _, p := range c.cpus {
			base := "sys/devices/system/cpu/cpu" + strconv.Itoa(p.id) + "/cache"
			entries, err := os.ReadDir(h.path(base))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				continue
			}
			for _, e := range entries {
				dir := base + "/" + e.Name()
				b := bank{h.readInt(0, dir, "level"), h.readInt(-1, dir, "id"), cacheTypes[h.readLine(dir, "type")]}
				size, unit := cacheSize(h.readLine(dir, "size"))
				cpus, err := h.readList(dir, "shared_cpu_list")
				if b.level < minCacheLevel || b.id < 0 || b.kind == "" || size == 0 || err != nil || seen[b] {
					continue
				}
				seen[b] = true
				cache.Banks = append(cache.Banks, libvirtxml.CapsHostCacheBank{
					ID: uint(b.id), Level: uint(b.level), Type: b.kind, Size: size, Unit: unit, CPUs: formatList(cpus),
				})
			}
		}
	}
	if len(cache.Banks) == 0 {
		return nil
	}
	return cache
}

// cacheSize reads "32768K" as 32 MiB.
func cacheSize(text string) (size uint, unit string) {
	kib, err := strconv.ParseUint(strings.TrimSuffix(text, "K"), 10, 31)
	if err != nil {
		return 0, ""
	}
	if kib%1024 == 0 {
		return uint(kib / 1024), "MiB"
	}
	return uint(kib), "KiB"
}
