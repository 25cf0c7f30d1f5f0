package driver

import (
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/process"
	"github.com/lodgevirt/lodge/sdk/cgroup"
)

// sibling returns the process of another life of the guest that is alive although the driver is not in charge of it, or 0. It looks at
// what that life has left, runtime folder and control group, and not at every process of the host.
func (l *life) sibling(groups string) (pid int) {
	folders, err := filepath.Glob(filepath.Join(filepath.Dir(string(l.folder)), l.ref.GetUuid()+"-*"))
	if err != nil {
		l.log.Warn("other lives of guest not looked for", "error", err)
	}
	var pids []int
	for _, dir := range folders {
		if record, err := process.ReadRecord(dir); err == nil {
			pids = append(pids, record.PID)
		}
	}
	if l.cgroup != "" {
		groups = filepath.Dir(l.cgroup)
	}
	if groups != "" && groups != "." {
		pids = append(pids, l.grouped(groups)...)
	}
	for _, pid := range pids {
		// The marker, not the number, makes it the guest's.
		f, ok := process.Look(pid)
		if ok && f.Marker.Driver == driverName && f.Marker.UUID == l.ref.GetUuid() {
			return pid
		}
	}
	return 0
}

// grouped returns the processes in the groups of the guest's lives below a parent.
func (l *life) grouped(parent string) []int {
	name := cgroupName(l.ref)
	prefix := strings.TrimSuffix(name, strconv.FormatUint(l.ref.GetGeneration(), 10))
	paths, err := cgroup.Below(parent, prefix)
	if err != nil {
		l.log.Debug("control groups of guest not read", "error", err)
	}
	var pids []int
	for _, path := range paths {
		group, err := cgroup.Open(path)
		if err != nil {
			continue
		}
		more, err := group.Processes()
		if err != nil {
			l.log.Debug("processes of control group not read", "error", err)
		}
		pids = append(pids, more...)
	}
	return pids
}
