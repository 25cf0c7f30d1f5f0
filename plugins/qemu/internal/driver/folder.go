package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/guest"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
	"github.com/lodgevirt/lodge/sdk/cgroup"
)

// Files in the folder of a life, beside process.RecordName.
const (
	monitorName = "monitor.sock"
	liveName    = "live.xml"
	memoryName  = "state.json"
	groupName   = "cgroup"
	helpersName = "helpers"
	givenName   = "given"
	// restoreName is there for a guest that was started from a state.
	restoreName = "restore"
	// ownName is the folder of QEMU itself. Nothing else may be writable for the guest's user: what we write must be ours.
	ownName = "own"
)

// maxLiveXML bounds a live XML that is read back, in bytes.
const maxLiveXML = 16 << 20

// folder is the runtime folder of one life of a guest.
type folder string

func (f folder) path(name string) string { return filepath.Join(string(f), name) }

// make creates the folder, and leaves in it what Recover can't know. It returns fs.ErrExist if this life was begun before.
func (f folder) make(group string) error {
	if err := os.Mkdir(string(f), 0o711); err != nil {
		return fmt.Errorf("make folder of guest: %w", err)
	}
	if err := os.Mkdir(f.path(ownName), 0o700); err != nil {
		return fmt.Errorf("make folder of guest: %w", err)
	}
	return f.write(groupName, []byte(group))
}

// has reports whether a file is in the folder.
func (f folder) has(name string) bool {
	_, err := os.Stat(f.path(name))
	return err == nil
}

// group returns the control group that the guest was started in, or empty.
func (f folder) group() string {
	text, err := f.read(groupName)
	if err != nil {
		return ""
	}
	return string(text)
}

// listen makes the socket of the monitor, which QEMU inherits: it can be connected to before QEMU is up, and nothing has to be polled.
// The path may be longer than a socket's address can be.
func (f folder) listen(ctx context.Context) (*os.File, error) {
	dir, err := unix.Open(string(f), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make monitor of guest: %w", err)
	}
	defer unix.Close(dir)
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "unix", filepath.Join("/proc/self/fd", strconv.Itoa(dir), monitorName))
	if err != nil {
		return nil, fmt.Errorf("make monitor of guest: %w", err)
	}
	defer listener.Close()
	socket, ok := listener.(*net.UnixListener)
	if !ok {
		return nil, fmt.Errorf("make monitor of guest: %T is no unix socket", listener)
	}
	socket.SetUnlinkOnClose(false)
	file, err := socket.File()
	if err != nil {
		return nil, fmt.Errorf("make monitor of guest: %w", err)
	}
	return file, nil
}

// dial connects the monitor.
func (f folder) dial(ctx context.Context) (*qmp.Client, error) {
	return qmp.Dial(ctx, f.path(monitorName))
}

// write puts a file in place whole.
func (f folder) write(name string, text []byte) error {
	path := f.path(name)
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return fmt.Errorf("write %s of guest: %w", name, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write %s of guest: %w", name, err)
	}
	return nil
}

func (f folder) read(name string) ([]byte, error) {
	info, err := os.Stat(f.path(name))
	if err != nil {
		return nil, fmt.Errorf("read %s of guest: %w", name, err)
	}
	if info.Size() > maxLiveXML {
		return nil, fmt.Errorf("read %s of guest: %d bytes are too many", name, info.Size())
	}
	text, err := os.ReadFile(f.path(name))
	if err != nil {
		return nil, fmt.Errorf("read %s of guest: %w", name, err)
	}
	return text, nil
}

func (f folder) writeMemory(m guest.Memory) error {
	text, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("write state of guest: %w", err)
	}
	return f.write(memoryName, text)
}

// readMemory returns nil if the guest was never let run, or nothing readable is left of it.
func (f folder) readMemory() (*guest.Memory, error) {
	text, err := f.read(memoryName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m := &guest.Memory{}
	if err := json.Unmarshal(text, m); err != nil {
		return nil, fmt.Errorf("read state of guest: %w", err)
	}
	return m, nil
}

// A control group can be busy for a moment after its last process has gone.
const (
	groupTries = 20
	groupPause = 5 * time.Millisecond
)

func removeGroup(group *cgroup.Group) error {
	var err error
	for range groupTries {
		if err = group.Remove(); err == nil {
			return nil
		}
		time.Sleep(groupPause)
	}
	return err
}
