// Package boot knows the machine: the time since it was started, what it is called, and when one of its processes began.
//
// Deadlines of locks are counted on CLOCK_BOOTTIME. It goes on while the machine is suspended, which CLOCK_MONOTONIC does not, and
// nobody can set it, as anybody can set the wall clock. Nothing here keeps state; all of it is safe concurrently.
package boot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/lodgevirt/lodge/sdk/procfs"
	"golang.org/x/sys/unix"
)

// Time is a moment: nanoseconds of CLOCK_BOOTTIME. The zero value is the machine's start, which no deadline is.
type Time int64

// Clock tells the moment; tests have their own.
type Clock func() Time

// Now is the Clock of the machine.
func Now() Time {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		// Linux has had this clock since 2.6.39, and the call has no other way to fail.
		panic(fmt.Sprintf("read CLOCK_BOOTTIME: %v", err))
	}
	return Time(ts.Nano())
}

// Add returns the moment a while after t.
func (t Time) Add(d time.Duration) Time { return t + Time(d) }

// Sub returns how long t is after u.
func (t Time) Sub(u Time) time.Duration { return time.Duration(t - u) }

// Wall returns what the wall clock will show at t if nobody sets it, seen from the moment now.
func (t Time) Wall(now Time) time.Time { return time.Now().Add(t.Sub(now)) }

// Machine is what this host is called where nobody says otherwise: its host name and eight digits that stand for its machine-id,
// which itself machine-id(5) asks not to be shown on a network.
func Machine() (string, error) {
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("read the host name: %w", err)
	}
	id, err := os.ReadFile("/etc/machine-id")
	if errors.Is(err, os.ErrNotExist) || (err == nil && len(strings.TrimSpace(string(id))) == 0) {
		return name, nil
	}
	if err != nil {
		return "", fmt.Errorf("read the machine id: %w", err)
	}
	sum := sha256.Sum256([]byte("lodge locks in etcd: " + strings.TrimSpace(string(id))))
	return name + "-" + hex.EncodeToString(sum[:4]), nil
}

// StartTime returns when a process began, in clock ticks after boot. A process that has ended is os.ErrNotExist, though nobody has waited for
// it yet.
func StartTime(pid int32) (uint64, error) {
	stat, err := procfs.ReadStat(int(pid))
	if err == nil && stat.Ended() {
		err = fmt.Errorf("process %d has ended: %w", pid, os.ErrNotExist)
	}
	return stat.StartTime, err
}
