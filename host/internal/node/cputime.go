package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// nanosecondsPerTick is the unit of CPU times in /proc, USER_HZ = 100 on every architecture of Linux that runs Go.
const nanosecondsPerTick = 10_000_000

// ProcessCPUTime returns the CPU time, user and system, of a process with a start time, in nanoseconds; 0 once it is gone or when
// another process has its pid.
func ProcessCPUTime(pid int32, startTime uint64) (uint64, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/stat")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read cpu time of process %d: %w", pid, err)
	}
	start, err := parseStartTime(string(data))
	if err != nil || start != startTime {
		return 0, err
	}
	stat := string(data)
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	var ticks uint64
	for _, field := range fields[14-3 : 16-3] { // utime and stime, counted from the third field
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("parse cpu time of process %d: %w", pid, err)
		}
		ticks += n
	}
	return ticks * nanosecondsPerTick, nil
}
