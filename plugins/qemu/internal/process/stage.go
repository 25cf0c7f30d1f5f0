package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/lodgevirt/lodge/sdk/procfs"
	"golang.org/x/sys/unix"
)

// Stage is the main function of a stage: it reads a Spec from standard input and writes a report to standard output. It returns the exit
// code. With gateArgument it is that of a process at the gate.
func Stage(args []string) int {
	if len(args) == 2 && args[0] == gateArgument {
		return atGate(args[1])
	}
	r := stage(os.Stdin)
	text, err := json.Marshal(r)
	if err == nil {
		_, err = os.Stdout.Write(text)
	}
	if err != nil || r.Error != "" {
		return 1
	}
	return 0
}

func stage(orders io.Reader) report {
	var r report
	spec, err := readSpec(orders)
	if err != nil {
		r.Error = err.Error()
		return r
	}
	// It is asked twice: before anything is touched, and at the last moment.
	if orphaned() {
		r.Error = "plugin is gone"
		return r
	}
	warn := func(err error) {
		if err != nil && len(r.Warnings) < maxWarnings {
			r.Warnings = append(r.Warnings, err.Error())
		}
	}
	for _, file := range spec.CgroupFiles {
		warn(writeFile(file, "0"))
	}
	warn(writeFile("/proc/self/oom_score_adj", strconv.Itoa(spec.OOMScoreAdj)))
	warn(allowFiles(spec.OpenFiles))
	if spec.LockedMemory {
		warn(setLimit(unix.RLIMIT_MEMLOCK, unix.RLIM_INFINITY, unix.RLIM_INFINITY))
	}
	if err := unix.CloseRange(uint(3+spec.FileCount), math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		r.Error = fmt.Sprintf("close foreign descriptors: %v", err)
		return r
	}
	if orphaned() {
		r.Error = "plugin is gone"
		return r
	}
	pid, err := fork(spec)
	if err != nil {
		r.Error = err.Error()
		return r
	}
	r.ID.PID = pid
	// It is our child, so the pid is its own until we exit, even if it has ended.
	if r.ID.StartTime, err = procfs.StartTime(pid); err != nil {
		r.Error = err.Error()
		return r
	}
	warn(writeRecord(spec.Dir, r.ID))
	return r
}

// allowFiles sets the limit on descriptors, and raises the one on that limit if need be.
func allowFiles(count uint64) error {
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); err != nil {
		return fmt.Errorf("read limit on descriptors: %w", err)
	}
	if count == 0 {
		return nil
	}
	// Go has raised our own to the hard limit, and gives children the old one unless it is set.
	err := setLimit(unix.RLIMIT_NOFILE, count, max(count, now.Max))
	if err != nil && count > now.Max {
		return errors.Join(err, setLimit(unix.RLIMIT_NOFILE, now.Max, now.Max))
	}
	return err
}

func setLimit(resource int, soft, hard uint64) error {
	if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: soft, Max: hard}); err != nil {
		return fmt.Errorf("set limit %d to %d: %w", resource, soft, err)
	}
	return nil
}

func readSpec(r io.Reader) (*Spec, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxSpec))
	if err != nil {
		return nil, fmt.Errorf("read orders: %w", err)
	}
	spec := &Spec{}
	if err := json.Unmarshal(text, spec); err != nil {
		return nil, fmt.Errorf("read orders: %w", err)
	}
	return spec, nil
}

// writeFile writes into a file that exists; kernel files are never created.
func writeFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// orphaned reports that nobody reads standard output any more: the plugin died after it had sent the orders.
func orphaned() bool {
	fds := []unix.PollFd{{Fd: 1, Events: unix.POLLOUT}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&unix.POLLERR != 0
}

// fork starts the program in a session of its own. When it has returned, the program was executed: a missing or broken program is an
// error here. A program behind the gate is executed later.
func fork(spec *Spec) (int, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	defer null.Close()
	files := []uintptr{null.Fd(), 2, 2}
	for i := range spec.FileCount {
		files = append(files, uintptr(3+i))
	}
	attr := &syscall.ProcAttr{
		Dir: spec.Dir, Files: files, Sys: &syscall.SysProcAttr{Setsid: true},
		Env: append([]string{markerVariable + "=" + spec.Marker.String()}, spec.Env...),
	}
	if spec.Gate {
		return forkGate(spec, attr)
	}
	if o := spec.Owner; o != nil {
		attr.Sys.Credential = &syscall.Credential{Uid: o.UID, Gid: o.GID, Groups: o.Groups}
	}
	argv := append([]string{filepath.Clean(spec.Path)}, spec.Args...)
	pid, err := syscall.ForkExec(spec.Path, argv, attr)
	if err != nil {
		return 0, fmt.Errorf("execute %s: %w", spec.Path, err)
	}
	return pid, nil
}
