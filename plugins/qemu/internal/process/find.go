package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lodgevirt/lodge/sdk/procfs"
)

// RecordName is the name of the record in a guest's runtime folder.
const RecordName = "process.json"

// Bounds of what is read of other processes.
const (
	maxEnviron = 1 << 20
	maxRecord  = 4 << 10
)

// Found is a process that carries a marker.
type Found struct {
	ID ID
	// Marker is what it carries.
	Marker Marker
	// Stage says that it is no guest yet.
	Stage bool
}

// Find returns the processes that carry a marker with the driver and UUID, whatever their generation.
func Find(ctx context.Context, driver, uuid string) ([]Found, error) {
	picture, err := Scan(ctx)
	if err != nil {
		return nil, err
	}
	return picture.Of(driver, uuid), nil
}

// claim returns what stands after "-uuid" among arguments, each ended by a zero, in lower case; or nothing.
func claim(cmdline []byte) string {
	if !bytes.Contains(cmdline, []byte("-uuid\x00")) {
		return ""
	}
	args := bytes.Split(cmdline, []byte{0})
	for i, arg := range args[:len(args)-1] {
		if string(arg) == "-uuid" || string(arg) == "--uuid" {
			return strings.ToLower(string(args[i+1]))
		}
	}
	return ""
}

// Look reads the marker of one process. It is false for one without, and for one that has ended.
func Look(pid int) (Found, bool) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	start, err := procfs.StartTime(pid)
	if err != nil {
		return Found{}, false
	}
	marker, ok := readMarker(filepath.Join(dir, "environ"))
	if !ok {
		return Found{}, false
	}
	cmdline, err := readBounded(filepath.Join(dir, "cmdline"), maxEnviron)
	if err != nil || len(cmdline) == 0 {
		return Found{}, false
	}
	again, err := procfs.StartTime(pid)
	if err != nil || again != start {
		return Found{}, false
	}
	args := bytes.Split(cmdline, []byte{0})
	stage := len(args) > 1 && string(args[1]) == StageCommand
	return Found{ID: ID{PID: pid, StartTime: start}, Marker: marker, Stage: stage}, true
}

func readMarker(path string) (Marker, bool) {
	environ, err := readBounded(path, maxEnviron)
	if err != nil {
		return Marker{}, false
	}
	return findMarker(environ)
}

// findMarker looks for a marker in an environment, each of whose variables is ended by a zero.
func findMarker(environ []byte) (Marker, bool) {
	for variable := range bytes.SplitSeq(environ, []byte{0}) {
		if value, ok := bytes.CutPrefix(variable, []byte(markerVariable+"=")); ok {
			return parseMarker(string(value))
		}
	}
	return Marker{}, false
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// ReadRecord returns the process that a stage has recorded in a runtime folder; fs.ErrNotExist if none has.
func ReadRecord(dir string) (ID, error) {
	text, err := readBounded(filepath.Join(dir, RecordName), maxRecord)
	if err != nil {
		return ID{}, fmt.Errorf("read record of guest: %w", err)
	}
	var id ID
	if err := json.Unmarshal(text, &id); err != nil {
		return ID{}, fmt.Errorf("read record of guest: %w", err)
	}
	return id, nil
}

// writeRecord puts the record in place whole: a reader sees all of it or none.
func writeRecord(dir string, id ID) error {
	text, err := json.Marshal(id)
	if err != nil {
		return fmt.Errorf("write record of guest: %w", err)
	}
	path := filepath.Join(dir, RecordName)
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return fmt.Errorf("write record of guest: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write record of guest: %w", err)
	}
	return nil
}

// removeRecord takes back what a stage has recorded of a process that is gone.
func removeRecord(dir string) error {
	if err := os.Remove(filepath.Join(dir, RecordName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record of guest: %w", err)
	}
	return nil
}
