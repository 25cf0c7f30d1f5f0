package node

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
)

// cell is a NUMA node.
type cell struct {
	id   int
	cpus []cpu
}

// cpu is an online CPU and where it sits.
type cpu struct {
	id, socket, die, core int
	// siblings are the threads of its core, itself among them, ascending.
	siblings []int
}

func (h *Host) onlineCPUs() ([]int, error) {
	list, err := h.readList("sys/devices/system/cpu/online")
	if err == nil && len(list) == 0 {
		err = errors.New("the list is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("list cpus: %w", err)
	}
	return list, nil
}

// cells returns the NUMA nodes with their online CPUs, at least one. A kernel without NUMA has one with everything in it.
func (h *Host) cells() ([]cell, error) {
	online, err := h.onlineCPUs()
	if err != nil {
		return nil, err
	}
	nodes, err := h.readList("sys/devices/system/node/online")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list cells: %w", err)
	}
	if len(nodes) == 0 {
		return []cell{{cpus: h.locate(online)}}, nil
	}
	cells := make([]cell, 0, len(nodes))
	for _, id := range nodes {
		list, err := h.readList("sys/devices/system/node", "node"+strconv.Itoa(id), "cpulist")
		if err != nil {
			return nil, fmt.Errorf("list cpus of cell %d: %w", id, err)
		}
		list = slices.DeleteFunc(list, func(n int) bool { return !slices.Contains(online, n) })
		cells = append(cells, cell{id: id, cpus: h.locate(list)})
	}
	return cells, nil
}

// locate finds out where CPUs sit. Where the kernel does not tell, each is a core of its own in one socket.
func (h *Host) locate(ids []int) []cpu {
	cpus := make([]cpu, 0, len(ids))
	for _, id := range ids {
		dir := "sys/devices/system/cpu/cpu" + strconv.Itoa(id) + "/topology"
		c := cpu{
			id: id, socket: max(0, h.readInt(0, dir, "physical_package_id")), die: max(0, h.readInt(0, dir, "die_id")),
			core: max(0, h.readInt(id, dir, "core_id")), siblings: []int{id},
		}
		if list, err := h.readList(dir, "thread_siblings_list"); err == nil && slices.Contains(list, id) {
			c.siblings = list
		}
		cpus = append(cpus, c)
	}
	return cpus
}

// summary is the shape of a machine; nodes * sockets * cores * threads is its number of CPUs.
type summary struct{ cpus, nodes, sockets, dies, cores, threads uint32 }

// summarize finds the shape. A machine that is not regular (an odd number of CPUs offline, sockets over several cells) gets
// the shape of one socket, as libvirt reports it.
func summarize(cells []cell) summary {
	type coreID struct{ die, core int }
	var total, sockets, dies, cores, threads int
	for _, c := range cells {
		bySocket := map[int]map[coreID]bool{}
		diesOf := map[int]map[int]bool{}
		for _, p := range c.cpus {
			total++
			if bySocket[p.socket] == nil {
				bySocket[p.socket], diesOf[p.socket] = map[coreID]bool{}, map[int]bool{}
			}
			bySocket[p.socket][coreID{p.die, p.core}] = true
			diesOf[p.socket][p.die] = true
			threads = max(threads, len(p.siblings))
		}
		sockets = max(sockets, len(bySocket))
		for id, set := range bySocket {
			cores, dies = max(cores, len(set)), max(dies, len(diesOf[id]))
		}
	}
	if len(cells)*sockets*cores*threads != total {
		return summary{uint32(total), 1, 1, 1, uint32(total), 1}
	}
	return summary{uint32(total), uint32(len(cells)), uint32(sockets), uint32(dies), uint32(cores), uint32(threads)}
}
