package manager

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

// lives reports whether an owner's process is there: that very one, and not yet dead.
func lives(who *pb.Owner) bool {
	if who.GetPid() <= 0 {
		return false
	}
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(int(who.GetPid())), "stat"))
	if err != nil {
		return false
	}
	state, start, ok := parseStat(string(text))
	return ok && start == who.GetStartTime() && state != "Z" && state != "X"
}

// parseStat reads fields 3 and 22 of proc_pid_stat(5); the command's name may hold anything but ends at the last parenthesis.
func parseStat(text string) (state string, start uint64, ok bool) {
	const stateField, startField = 0, 22 - 3
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) <= startField {
		return "", 0, false
	}
	start, err := strconv.ParseUint(fields[startField], 10, 64)
	return fields[stateField], start, err == nil
}
