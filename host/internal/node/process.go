package node

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// BootID returns the id that the kernel made when it started; it tells whether two facts are of one boot.
func BootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// ProcessStartTime returns when a process started, in ticks after boot; with the pid and the boot id it names one process for
// ever. A process that is gone is fs.ErrNotExist or ESRCH.
func ProcessStartTime(pid int) (uint64, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, fmt.Errorf("read start time of process %d: %w", pid, err)
	}
	start, err := parseStartTime(string(data))
	if err != nil {
		return 0, fmt.Errorf("read start time of process %d: %w", pid, err)
	}
	return start, nil
}

// parseStartTime finds the 22nd field. The second one is the program's name in parentheses, in which anything may stand.
func parseStartTime(stat string) (uint64, error) {
	end := strings.LastIndexByte(stat, ')')
	fields := strings.Fields(stat[end+1:])
	const field = 22 - 3 // counted from the third
	if end < 0 || len(fields) <= field {
		return 0, fmt.Errorf("parse %q: too few fields", stat)
	}
	start, err := strconv.ParseUint(fields[field], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("parse start time: %w", err)
	}
	return start, nil
}
