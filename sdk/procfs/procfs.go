// Package procfs reads from proc(5) what tells one process from every other: with the kernel's boot id and its start time, a pid names a
// process for ever.
//
// Functions keep nothing and are safe concurrently. What they read is bounded.
package procfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// BootID returns the id that the kernel made when it started; it tells whether two facts are of one boot.
func BootID() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// Stat is a part of proc_pid_stat(5).
type Stat struct {
	// State is a letter: R runs, S sleeps, Z has ended and was not waited for.
	State byte
	// Exiting says that the process is on its way out: it executes nothing any more, and its descriptors are being closed.
	Exiting bool
	// CPUTicks is the time that the process has used, its own and the kernel's for it, in ticks of 10 ms.
	CPUTicks uint64
	// StartTime is when the process started, in clock ticks after boot.
	StartTime uint64
}

// Ended reports whether the process is there only until its parent has waited for it.
func (s Stat) Ended() bool { return s.State == 'Z' || s.State == 'X' }

// maxStat is more than the file has: a name of at most 64 bytes and some fifty numbers.
const maxStat = 2048

// ReadStat reads what the kernel says of a process. One that is gone is fs.ErrNotExist.
func ReadStat(pid int) (Stat, error) {
	text, err := read("/proc/" + strconv.Itoa(pid) + "/stat")
	var s Stat
	if err == nil {
		s, err = ParseStat(text)
	}
	if err != nil {
		return Stat{}, fmt.Errorf("read stat of process %d: %w", pid, err)
	}
	return s, nil
}

// StartTime is ReadStat's.
func StartTime(pid int) (uint64, error) {
	s, err := ReadStat(pid)
	return s.StartTime, err
}

// read reads with system calls alone: thousands of processes are asked for in a row.
func read(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err // ENOENT is fs.ErrNotExist
	}
	defer unix.Close(fd)
	text := make([]byte, maxStat)
	n, err := unix.Read(fd, text)
	if errors.Is(err, unix.ESRCH) { // it ended meanwhile
		err = fs.ErrNotExist
	}
	return text[:max(n, 0)], err
}

// ParseStat reads the file /proc/PID/stat.
func ParseStat(text []byte) (Stat, error) {
	// Field 2, the name, is in parentheses and may hold anything, so the fields are counted after the last closing one.
	const state, flags, userTime, systemTime, start = 0, 9 - 3, 14 - 3, 15 - 3, 22 - 3
	const exiting = 0x4 // PF_EXITING of the kernel's sched.h
	end := bytes.LastIndexByte(text, ')')
	if end < 0 {
		return Stat{}, errors.New("there is no name in it")
	}
	fields := bytes.Fields(text[end+1:])
	if len(fields) <= start {
		return Stat{}, fmt.Errorf("it has %d fields after the name, more than %d are expected", len(fields), start)
	}
	var numbers [4]uint64
	for n, field := range [...]int{userTime, systemTime, start, flags} {
		var err error
		if numbers[n], err = strconv.ParseUint(string(fields[field]), 10, 64); err != nil {
			return Stat{}, fmt.Errorf("field %d: %w", field+3, err)
		}
	}
	return Stat{
		State: fields[state][0], Exiting: numbers[3]&exiting != 0, CPUTicks: numbers[0] + numbers[1], StartTime: numbers[2],
	}, nil
}
