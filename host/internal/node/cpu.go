package node

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// AllCPUs asks for the sum over all CPUs.
const AllCPUs = -1

// CPUMap tells which CPUs there are.
type CPUMap struct {
	// Total is the number of CPUs that are present.
	Total int
	// Online has a value for each CPU up to the last one that is present.
	Online []bool
}

// Node describes the machine as virNodeInfo does.
func (h *Host) Node() (*pb.Node, error) {
	mem, err := h.meminfo()
	if err != nil {
		return nil, err
	}
	cells, err := h.cells()
	if err != nil {
		return nil, err
	}
	name, err := h.Hostname()
	if err != nil {
		return nil, err
	}
	t := summarize(cells)
	n := &pb.Node{
		Model: arch(), MemoryKib: mem["MemTotal"], Cpus: t.cpus, Mhz: h.mhz(), Nodes: t.nodes, Sockets: t.sockets,
		Cores: t.cores, Threads: t.threads, Hostname: name,
	}
	for _, c := range cells {
		_, free, err := h.cellMemory(c.id, len(cells))
		if err != nil {
			return nil, err
		}
		n.CellFreeKib = append(n.CellFreeKib, free)
	}
	return n, nil
}

// mhz is the frequency of the first CPU: the nominal one where the kernel knows it, else the present one.
func (h *Host) mhz() uint32 {
	if khz := h.readInt(0, "sys/devices/system/cpu/cpu0/cpufreq/base_frequency"); khz > 0 {
		return uint32(khz / 1000)
	}
	mhz, err := strconv.ParseFloat(h.cpuinfo()["cpu MHz"], 64)
	if err != nil || mhz < 0 || mhz > 1e6 {
		return 0
	}
	return uint32(mhz)
}

// cpuinfo returns what /proc/cpuinfo says about the first CPU; nothing where it cannot be read.
func (h *Host) cpuinfo() map[string]string {
	text, err := h.read("proc/cpuinfo")
	if err != nil {
		return nil
	}
	return parseCPUInfo(text)
}

func parseCPUInfo(text string) map[string]string {
	info := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			if len(info) > 0 {
				return info
			}
			continue
		}
		info[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	return info
}

// CPUMap tells which CPUs are present and which of them are online.
func (h *Host) CPUMap() (CPUMap, error) {
	online, err := h.onlineCPUs()
	if err != nil {
		return CPUMap{}, err
	}
	present, err := h.readList("sys/devices/system/cpu/present")
	if err != nil || len(present) == 0 {
		present = online
	}
	m := CPUMap{Total: len(present), Online: make([]bool, slices.Max(present)+1)}
	for _, cpu := range online {
		if cpu < len(m.Online) {
			m.Online[cpu] = true
		}
	}
	return m, nil
}

// CPUStats returns kernel, user, idle and iowait nanoseconds of one CPU or of AllCPUs. A CPU that is not online is InvalidArg.
func (h *Host) CPUStats(cpu int) ([]Stat, error) {
	text, err := h.read("proc/stat")
	if err != nil {
		return nil, fmt.Errorf("read cpu times: %w", err)
	}
	name := "cpu"
	if cpu != AllCPUs {
		name += strconv.Itoa(cpu)
	}
	if cpu >= AllCPUs {
		for line := range strings.Lines(text) {
			fields := strings.Fields(line)
			if len(fields) > 0 && fields[0] == name {
				return parseCPUTimes(fields[1:])
			}
		}
	}
	return nil, verr.New(verr.InvalidArg, "cpu %d is not there or not online", cpu)
}

// parseCPUTimes reads user, nice, system, idle, iowait, irq and softirq ticks; the later ones may be missing.
func parseCPUTimes(fields []string) ([]Stat, error) {
	var ticks [7]uint64
	for i := range min(len(fields), len(ticks)) {
		n, err := strconv.ParseUint(fields[i], 10, 58)
		if err != nil {
			return nil, fmt.Errorf("parse cpu times: %w", err)
		}
		ticks[i] = n
	}
	return []Stat{
		{"kernel", (ticks[2] + ticks[5] + ticks[6]) * nanosecondsPerTick},
		{"user", (ticks[0] + ticks[1]) * nanosecondsPerTick},
		{"idle", ticks[3] * nanosecondsPerTick},
		{"iowait", ticks[4] * nanosecondsPerTick},
	}, nil
}
