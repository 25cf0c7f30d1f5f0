package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/lodgevirt/lodge/sdk/procfs"
)

// process names a process for ever: the kernel that runs it, the name space of its pid, the pid, and when it started.
type process struct {
	boot, space string
	pid         int
	start       uint64
}

// String is one word.
func (p process) String() string { return fmt.Sprintf("%s %s %d %d", p.boot, p.space, p.pid, p.start) }

func thisProcess() (process, error) {
	p := process{pid: os.Getpid()}
	var err error
	if p.boot, err = procfs.BootID(); err != nil {
		return p, err
	}
	if p.space, err = os.Readlink("/proc/self/ns/pid"); err != nil {
		return p, fmt.Errorf("find name space of pids: %w", err)
	}
	p.start, err = procfs.StartTime(p.pid)
	return p, err
}

// ProcessName is how a process of this machine is called in the journal, by its pid and when it started, in clock ticks after boot.
func ProcessName(pid int, start uint64) (string, error) {
	p, err := thisProcess()
	p.pid, p.start = pid, start
	return p.String(), err
}

// ended reports whether a process is known to have ended; of another machine's nothing is known.
func ended(name string) bool {
	var p process
	if n, err := fmt.Sscan(name, &p.boot, &p.space, &p.pid, &p.start); n != 4 || err != nil {
		return false
	}
	self, err := thisProcess()
	if err != nil || p.boot != self.boot || p.space != self.space {
		return false
	}
	st, err := procfs.ReadStat(p.pid)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	return st.StartTime != p.start || st.Ended()
}
