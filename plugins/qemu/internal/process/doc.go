// Package process brings a guest's QEMU to life as nobody's child, watches it, ends it, and finds it again.
//
// A launch runs through a stage: the plugin's own binary, started again with StageCommand. The stage gets its orders on standard
// input, leaves the plugin's session, joins the guest's control group, drops privileges, starts QEMU in a session of its own, records
// QEMU's pid in the guest's runtime folder, reports it, and exits, so that QEMU belongs to init. Descriptors are passed on under
// fixed numbers, and nothing else is inherited.
//
// From the first instant of the stage on, each process of a launch has the guest's Marker in its environment. That is the truth by
// which Find looks; the record and the control group are only faster ways to it. A stage is told from a guest by its command
// line. Killing the plugin at any instant leaves nothing, a stage, or a QEMU, and each of them is found. A QEMU that was started by
// a stage waits at -S, so no guest runs before the driver has it in hand.
//
// Some guests' processes must be known to a lock manager by themselves before anything is opened. The process of such a launch stops
// at the gate: the stage starts the plugin's binary once more, as the process that the guest is going to be. It connects where it is told
// to while it still is the plugin's user, says so, waits for the plugin's word, and becomes the program in place, so that pid, start
// time and connections stay. A process at the gate counts as a stage, and ends when the plugin hangs up.
//
// A Process is a pidfd: it can't come to mean another process that was given the same pid. Functions are safe concurrently; two
// launches of one marker at a time are not made.
package process

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// StageCommand is the hidden argument that makes the plugin's binary a stage.
const StageCommand = "guest-stage"

// markerVariable is the environment variable that holds the Marker.
const markerVariable = "LODGE_GUEST"

// Errors that callers tell apart.
var (
	// ErrGone says that a process has ended, or that its pid now means another.
	ErrGone = errors.New("process is gone")
	// ErrAlive says that a process did not end in time.
	ErrAlive = errors.New("process does not end")
)

// Marker names one life of one guest.
type Marker struct {
	// Driver is "qemu".
	Driver string
	// UUID is that of the guest, lower case with dashes.
	UUID string
	// Generation counts its starts.
	Generation uint64
}

// String returns the marker as it stands in the environment: "qemu/UUID/GENERATION".
func (m Marker) String() string { return fmt.Sprintf("%s/%s/%d", m.Driver, m.UUID, m.Generation) }

// parseMarker reads what String wrote.
func parseMarker(s string) (Marker, bool) {
	parts := strings.Split(s, "/")
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" {
		return Marker{}, false
	}
	gen, err := strconv.ParseUint(parts[2], 10, 64)
	if err != nil {
		return Marker{}, false
	}
	return Marker{Driver: parts[0], UUID: parts[1], Generation: gen}, true
}

// ID is a process that can't be mistaken for another: its pid and its start time in clock ticks after boot.
type ID struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"`
}
