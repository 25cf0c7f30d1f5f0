package rig

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind says what a process of a host is.
type Kind string

// The kinds of process that a host has.
const (
	Core   Kind = "core"
	Lockd  Kind = "lockd"
	Plugin Kind = "plugin"
	Guest  Kind = "guest"
	Other  Kind = "other"
)

// Process is a living process that belongs to a host.
type Process struct {
	PID  int
	Kind Kind
	// Name is the base name of the executable.
	Name string
	// Start is the start time in clock ticks since boot: with the PID it names the process for good.
	Start uint64
	// Args is the command line.
	Args []string
}

// executables maps the base name of an executable to what it is; plugins are told by their prefix.
var executables = map[string]Kind{
	"lodged":      Core,
	"lodge-lockd": Lockd,
}

// Processes finds the living processes whose command line or environment names the folder. The caller's own process, and what
// has been started to look at the host (virsh and the like), is left out.
func Processes(dir string) ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if p, ok := readProcess(pid, dir); ok && p.Kind != Other {
			found = append(found, p)
		}
	}
	return found, nil
}

// readProcess reads a process; ok is false if it has gone, is a zombie, or does not belong to the folder.
func readProcess(pid int, dir string) (p Process, ok bool) {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	cmdline, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil || len(cmdline) == 0 {
		return p, false
	}
	if !bytes.Contains(cmdline, []byte(dir)) {
		environ, err := os.ReadFile(filepath.Join(proc, "environ"))
		if err != nil || !bytes.Contains(environ, []byte(dir)) {
			return p, false
		}
	}
	exe, err := os.Readlink(filepath.Join(proc, "exe"))
	if err != nil {
		return p, false
	}
	name := filepath.Base(strings.TrimSuffix(exe, " (deleted)"))
	start, state, err := StartTime(pid)
	if err != nil || state == 'Z' {
		return p, false
	}
	args := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
	return Process{PID: pid, Kind: kindOf(name), Name: name, Start: start, Args: args}, true
}

// kindOf tells what an executable is by its base name.
func kindOf(name string) Kind {
	switch {
	case executables[name] != "":
		return executables[name]
	case strings.HasPrefix(name, "lodge-plugin-"):
		return Plugin
	case strings.HasPrefix(name, "qemu-system-"):
		return Guest
	}
	return Other
}

// StartTime reads when a process has started, in clock ticks since boot, and its state as a letter of proc(5).
func StartTime(pid int) (ticks uint64, state byte, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("read start time of process %d: %w", pid, err)
	}
	// The name in parentheses may hold anything; the fields after it are plain. Start time is field 22, state is field 3.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("read start time of process %d: short line", pid)
	}
	ticks, err = strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("read start time of process %d: %w", pid, err)
	}
	return ticks, fields[0][0], nil
}

// Signal sends a signal to exactly this process: a new one with the same PID gets nothing. A process that has gone is no error.
func (p Process) Signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	if start, _, err := StartTime(p.PID); err != nil || start != p.Start {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	return nil
}

// Alive says whether the process still runs.
func (p Process) Alive() bool {
	start, state, err := StartTime(p.PID)
	return err == nil && start == p.Start && state != 'Z'
}
