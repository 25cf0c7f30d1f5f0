package driver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of times in proc_pid_stat(5), USER_HZ: the kernel's interface has it at 100 on every architecture of QEMU's.
const clockTick = 10 * time.Millisecond

var errShortLine = errors.New("line is too short")

// times are the CPU time of a process.
type times struct{ user, system time.Duration }

func readTimes(pid int) (times, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return times{}, err
	}
	return parseTimes(string(text))
}

// parseTimes reads fields 14 and 15 of proc_pid_stat(5); the command's name may hold anything but ends at the last parenthesis.
func parseTimes(stat string) (times, error) {
	const user, system = 14 - 3, 15 - 3
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) <= system {
		return times{}, errShortLine
	}
	u, err := strconv.ParseInt(fields[user], 10, 64)
	if err != nil {
		return times{}, err
	}
	s, err := strconv.ParseInt(fields[system], 10, 64)
	if err != nil {
		return times{}, err
	}
	return times{user: time.Duration(u) * clockTick, system: time.Duration(s) * clockTick}, nil
}

// readRSS returns the resident memory of a process in KiB.
func readRSS(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0, errShortLine
	}
	pages, err := strconv.ParseUint(fields[1], 10, 64)
	return pages * uint64(os.Getpagesize()) / 1024, err
}

// readSchedule returns the time that a thread ran and the time that it waited for a CPU, in nanoseconds.
func readSchedule(pid, thread int) (run, wait uint64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/schedstat", pid, thread))
	if err != nil {
		return 0, 0, err
	}
	_, err = fmt.Sscan(string(text), &run, &wait)
	return run, wait, err
}

// readInterface returns a counter of a network device.
func readInterface(dev, name string) (uint64, error) {
	if dev != filepath.Base(dev) {
		return 0, fmt.Errorf("no network device is called %q", dev)
	}
	text, err := os.ReadFile(filepath.Join("/sys/class/net", dev, "statistics", name))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}

// physical is the size of an image on the host in bytes: that of its file, or what QEMU says of a device.
func physical(path string, actual uint64) uint64 {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return actual
	}
	return uint64(info.Size())
}
