// Package iscsiadmtest has a kernel with iSCSI for tests that is none: a program in iscsiadm's place (fakeiscsiadm) that logs in at
// targets which the test tells of, and shows sessions and disks in a folder as sysfs, the folder of devices and udev would.
//
// A Host is safe concurrently, as its state is in files.
package iscsiadmtest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Target is a target that can be logged in at.
type Target struct {
	Name   string `json:"name"`
	Portal string `json:"portal"`
	// User and Password are asked for, if there are some.
	User     string `json:"user"`
	Password string `json:"password"`
	// Disks are the sizes of units from 1 on, in bytes; unit 0 is a controller.
	Disks []int64 `json:"disks"`
}

// Host is a folder with the program, and what it keeps and shows.
type Host struct {
	// Dir is the folder; Sys, Dev, ByPath and Database are parts of it.
	Dir, Sys, Dev, ByPath, Database string
	t                               testing.TB
}

// program builds the program once for all tests of a process.
var program = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "fakeiscsiadm-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a temporary folder
	name := filepath.Join(dir, "iscsiadm")
	cmd := exec.CommandContext(context.Background(), "go", "build", "-o", name, "github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/iscsiadmtest/fakeiscsiadm")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build fakeiscsiadm: %w: %s", err, out)
	}
	return os.ReadFile(name)
})

// Start makes a host that can log in at targets.
func Start(t testing.TB, targets ...Target) *Host {
	t.Helper()
	binary, err := program()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	h := &Host{dir, at("sys"), at("dev"), at("dev/disk/by-path"), at("nodes"), t}
	if err := os.WriteFile(h.Program(), binary, 0o755); err != nil {
		t.Fatal(err)
	}
	h.Targets(targets...)
	return h
}

// Targets are those that there are from now on.
func (h *Host) Targets(all ...Target) {
	h.t.Helper()
	text, err := json.Marshal(all)
	if err == nil {
		err = os.WriteFile(filepath.Join(h.Dir, "targets.json"), text, 0o600)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// Program is the path of what is in iscsiadm's place.
func (h *Host) Program() string { return filepath.Join(h.Dir, "iscsiadm") }

// Config is the driver's table that has it used.
func (h *Host) Config() []byte {
	return fmt.Appendf(nil, `{"iscsiadm": %q, "node_database": %q, "timeout_seconds": 2}`, h.Program(), h.Database)
}

// Set puts the host into a state or out of it: "nokernel" (no iSCSI in the kernel), "nodaemon", "hang" (a login does not end), "nolinks" (udev
// makes none).
func (h *Host) Set(state string, on bool) {
	h.t.Helper()
	name := filepath.Join(h.Dir, state)
	err := os.Remove(name)
	if on {
		err = os.WriteFile(name, nil, 0o600)
	}
	if err != nil && !os.IsNotExist(err) {
		h.t.Fatal(err)
	}
}

// Runs are the arguments of all runs so far, a line each.
func (h *Host) Runs() string {
	text, err := os.ReadFile(filepath.Join(h.Dir, "log"))
	if err != nil && !os.IsNotExist(err) {
		h.t.Fatal(err)
	}
	return string(text)
}

// Sessions are the names of the sessions that there are.
func (h *Host) Sessions() []string {
	all, err := filepath.Glob(filepath.Join(h.Sys, "class/iscsi_session/*"))
	if err != nil {
		h.t.Fatal(err)
	}
	return all
}

// Records are the files of the database, with what is in them.
func (h *Host) Records() map[string]string {
	all := map[string]string{}
	_ = filepath.WalkDir(h.Database, func(name string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			text, _ := os.ReadFile(name)
			all[strings.TrimPrefix(name, h.Database+"/")] = string(text)
		}
		return nil
	})
	return all
}
