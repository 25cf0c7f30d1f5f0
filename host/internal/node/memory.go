package node

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// AllCells asks for the memory of the whole machine.
const AllCells = -1

// Stat is a named figure of the machine.
type Stat struct {
	// Name is libvirt's.
	Name string
	// Value in nanoseconds (CPU) or KiB (memory).
	Value uint64
}

// MemoryStats returns total, free, buffers and cached KiB of the machine, or total and free KiB of one NUMA cell. A cell that is
// not there is InvalidArg.
func (h *Host) MemoryStats(cell int) ([]Stat, error) {
	if cell == AllCells {
		m, err := h.meminfo()
		if err != nil {
			return nil, err
		}
		return []Stat{
			{"total", m["MemTotal"]}, {"free", m["MemFree"]}, {"buffers", m["Buffers"]}, {"cached", m["Cached"]},
		}, nil
	}
	cells, err := h.cells()
	if err != nil {
		return nil, err
	}
	for _, c := range cells {
		if c.id == cell {
			total, free, err := h.cellMemory(c.id, len(cells))
			return []Stat{{"total", total}, {"free", free}}, err
		}
	}
	return nil, verr.New(verr.InvalidArg, "cellNum in %s must be less than or equal to %d", "nodeGetMemoryStats", len(cells)-1)
}

// FreeMemory returns the machine's free memory in bytes.
func (h *Host) FreeMemory() (uint64, error) {
	m, err := h.meminfo()
	return m["MemFree"] << 10, err
}

// CellsFree returns the free memory in bytes of at most n NUMA cells from a first one on. A first cell that is not there is
// InvalidArg.
func (h *Host) CellsFree(start, n int) ([]uint64, error) {
	cells, err := h.cells()
	if err != nil {
		return nil, err
	}
	last := cells[len(cells)-1].id
	if start < 0 || start > last {
		return nil, verr.New(verr.InvalidArg, "start cell %d out of range (0-%d)", start, last)
	}
	free := []uint64{}
	for id := start; id <= last && len(free) < n; id++ {
		_, kib, err := h.cellMemory(id, len(cells))
		if err != nil {
			kib = 0 // cells may be numbered with gaps
		}
		free = append(free, kib<<10)
	}
	return free, nil
}

func (h *Host) meminfo() (map[string]uint64, error) {
	text, err := h.read("proc/meminfo")
	if err != nil {
		return nil, fmt.Errorf("read memory: %w", err)
	}
	m := parseMeminfo(text)
	if m["MemTotal"] == 0 {
		return nil, fmt.Errorf("read memory: no MemTotal in %s", h.path("proc/meminfo"))
	}
	return m, nil
}

// cellMemory returns total and free KiB of a cell. The only cell of a machine has all the memory: some kernels let the cell's own
// figures grow as memory is touched first.
func (h *Host) cellMemory(id, cells int) (total, free uint64, err error) {
	if cells == 1 {
		m, err := h.meminfo()
		return m["MemTotal"], m["MemFree"], err
	}
	text, err := h.read("sys/devices/system/node", "node"+strconv.Itoa(id), "meminfo")
	if err != nil {
		return 0, 0, fmt.Errorf("read memory of cell %d: %w", id, err)
	}
	m := parseMeminfo(text)
	return m["MemTotal"], m["MemFree"], nil
}

// parseMeminfo reads "MemTotal:   123 kB" and "Node 0 MemTotal:   123 kB". Lines of another form are passed over.
func parseMeminfo(text string) map[string]uint64 {
	m := map[string]uint64{}
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		if !ok || len(fields) == 0 {
			continue
		}
		words := strings.Fields(name)
		value, err := strconv.ParseUint(fields[0], 10, 53)
		if err != nil || len(words) == 0 {
			continue
		}
		m[words[len(words)-1]] = value
	}
	return m
}
