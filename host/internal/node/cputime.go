package node

import (
	"errors"
	"io/fs"

	"github.com/lodgevirt/lodge/sdk/procfs"
)

// nanosecondsPerTick is the unit of CPU times in /proc, USER_HZ = 100 on every architecture of Linux that runs Go.
const nanosecondsPerTick = 10_000_000

// ProcessCPUTime returns the CPU time, user and system, of a process with a start time, in nanoseconds; 0 once it is gone or when
// another process has its pid.
func ProcessCPUTime(pid int32, startTime uint64) (uint64, error) {
	stat, err := procfs.ReadStat(int(pid))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil || stat.StartTime != startTime {
		return 0, err
	}
	return stat.CPUTicks * nanosecondsPerTick, nil
}
