package launch

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/lodgevirt/lodge/sdk/procfs"
)

const (
	recordFile = "process.json"
	maxRecord  = 64 << 10 // bytes
)

// Record is how a process is found again.
type Record struct {
	// Name of the plugin.
	Name string `json:"name"`
	// PID of the process.
	PID int `json:"pid"`
	// StartTime in clock ticks after boot: field 22 of /proc/PID/stat.
	StartTime uint64 `json:"start_time"`
	// BootID is the kernel's, which changes with each boot.
	BootID string `json:"boot_id"`
	// Generation counts the plugin's processes.
	Generation uint64 `json:"generation"`
	// Protocol is the negotiated version of the contract; 0 before the handshake.
	Protocol int `json:"protocol"`
	// Address is the path of the plugin's socket; empty before the handshake.
	Address string `json:"address"`
}

// ReadRecord returns the last record in a plugin's folder, of a process that may be long gone. It wraps os.ErrNotExist if there
// was none.
func ReadRecord(dir string) (Record, error) {
	path := filepath.Join(dir, recordFile)
	f, err := os.Open(path)
	if err != nil {
		return Record{}, fmt.Errorf("read record: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return Record{}, fmt.Errorf("read record %q: %w", path, err)
	}
	return parseRecord(data)
}

func parseRecord(data []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, fmt.Errorf("parse record: %w", err)
	}
	if r.PID < 2 {
		return Record{}, fmt.Errorf("parse record: pid %d", r.PID)
	}
	return r, nil
}

// write replaces the record as a whole. A power loss needs no record: nothing runs after it.
func (r Record) write(dir string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	path := filepath.Join(dir, recordFile)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	return nil
}

// bootID returns the kernel's, or nothing where it does not tell.
func bootID() string {
	id, err := procfs.BootID()
	if err != nil {
		return ""
	}
	return id
}
