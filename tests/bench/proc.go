package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of processor times in proc(5); the kernel reports them to user space at 100 Hz on every architecture.
const tick = 10 * time.Millisecond

// cpuTime sums the processor time of processes. One that has gone counts nothing.
func cpuTime(pids []int) time.Duration {
	var sum time.Duration
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// After the name in parentheses: user time is field 14 and system time field 15 of the line.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		for _, i := range []int{11, 12} {
			if i < len(fields) {
				n, _ := strconv.ParseInt(fields[i], 10, 64) // The kernel writes a number.
				sum += time.Duration(n) * tick
			}
		}
	}
	return sum
}

// residentMiB sums the resident memory of processes.
func residentMiB(pids []int) float64 {
	var kib float64
	for _, pid := range pids {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				n, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64) // The kernel writes a number.
				kib += n
			}
		}
	}
	return kib / 1024
}
